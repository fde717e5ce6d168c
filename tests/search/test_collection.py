"""A collection: what is found, by what, among which samples; and what is told where something is missing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mmcl
from mmcl.cli import main
from mmcl.errors import MmclError
from mmcl.search import Collection, Filter, Part
from tests.search.exports import clustered, cosines, export
from tests.search.shapes import COLOURS, TONES, made, picture, tone


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of shards, a run and an export: see `made`."""
    return made(tmp_path_factory.mktemp("shapes")).parent


@pytest.fixture(scope="module")
def collection(folder: Path) -> Collection:
    return Collection.open(folder / "export", device="cpu")


def test_what_it_knows(collection: Collection) -> None:
    assert set(collection.modalities) == set(collection.query_modalities) == {"image", "text", "audio"}
    assert {m: collection.takes(m) for m in collection.modalities} == {
        "image": "image",
        "text": "text",
        "audio": "audio",
    }
    assert collection.samples == 72
    assert collection.columns["json.colour"] == pa.string()
    assert collection.columns["json.pitch"] == pa.int64()


def test_each_kind_of_query_is_what_the_model_makes_of_it(collection: Collection, folder: Path, tmp_path: Path) -> None:
    encoder = mmcl.load(folder / "run", "cpu")
    (tmp_path / "p.png").write_bytes(picture(COLOURS["red"], "circle"))
    (tmp_path / "t.wav").write_bytes(tone(TONES["low"]))
    vectors = {
        "image": (tmp_path / "p.png", encoder.embed("image", [tmp_path / "p.png"])),
        "audio": (tmp_path / "t.wav", encoder.embed("audio", [tmp_path / "t.wav"])),
        "text": ("a red circle", encoder.embed("text", ["a red circle"])),
    }
    for modality, (value, vector) in vectors.items():
        np.testing.assert_allclose(collection.embed([Part(modality, value)]), vector[0], atol=1e-6)
        if isinstance(value, Path):
            same = collection.embed([Part(modality, value.read_bytes())])
            np.testing.assert_allclose(same, vector[0], atol=1e-6)
    parts = [Part(m, value, weight) for (m, (value, _)), weight in zip(vectors.items(), (1, 0.5, -0.25), strict=True)]
    total = vectors["image"][1] + 0.5 * vectors["audio"][1] - 0.25 * vectors["text"][1]
    np.testing.assert_allclose(collection.embed(parts), (total / total.norm())[0], atol=1e-6)
    half = collection.embed([parts[0]], [(vectors["audio"][1][0].numpy(), 0.5), (vectors["text"][1][0].numpy(), -0.25)])
    np.testing.assert_allclose(half, (total / total.norm())[0], atol=1e-6)


@pytest.mark.parametrize("among", ["image", "text", "audio"])
def test_hits_are_those_of_numpy_and_say_what_is_known(collection: Collection, among: str) -> None:
    rows = np.concatenate(list(collection.vectors.parts(among)))
    query = collection.embed([Part("text", "a green cross and a low tone")])
    expected = cosines(rows, query)
    hits = collection.search(query, among=among, k=72)
    assert len(hits) == rows.any(1).sum()
    assert [hit.score for hit in hits] == pytest.approx(np.sort(expected)[::-1][: len(hits)], abs=1e-6)
    table = collection.vectors.metadata()
    for hit in hits[:5]:
        assert hit.score == pytest.approx(expected[hit.row], abs=1e-6)
        assert (hit.key, hit.caption) == (table["key"][hit.row].as_py(), table["caption"][hit.row].as_py())
        assert collection.shard_name(hit.shard) == ("00000.tar" if hit.row < 40 else "00001.tar")
        assert json.loads(hit.columns["json"])["colour"] in COLOURS


def test_filters_and_what_is_left_out(collection: Collection) -> None:
    where = [Filter.parse("colour=red"), Filter.parse("json.pitch>=440")]
    vector = collection.like(3, "image")
    hits = collection.search(vector, among="image", k=50, where=where)
    assert {hit.row for hit in hits} == {row for row in range(2, 12) if row % 3}  # row 1 has no picture
    fewer = collection.search(vector, among="image", k=50, where=where, without=[2, 5])
    assert {hit.row for hit in fewer} == {hit.row for hit in hits} - {2, 5}
    assert collection.search(vector, among="image", where=[Filter.parse("colour=gold")]) == []


def test_more_like_this(collection: Collection) -> None:
    row = collection.row("007")
    assert row == 7
    vector = collection.like(row, "image")
    assert collection.search(vector, among="image", k=1)[0].score == pytest.approx(1, abs=1e-5)
    assert row not in {hit.row for hit in collection.search(vector, among="image", without=[row])}


def test_the_originals_are_those_of_the_shards(collection: Collection, folder: Path, tmp_path: Path) -> None:
    assert collection.media(2, "image") == (picture(COLOURS["red"], "circle"), "image/png")
    assert collection.media(41, "audio") == (tone(TONES["high"]), "audio/wav")
    assert collection.media(41, "text")[1] == "text/plain; charset=utf-8"
    with pytest.raises(MmclError, match="sample 040 has no audio; it has"):
        collection.media(40, "audio")
    shutil.copytree(folder / "shards", tmp_path / "moved")
    moved = Collection.open(folder / "export", shards=tmp_path / "moved")
    assert moved.media(41, "audio") == collection.media(41, "audio")
    with pytest.raises(MmclError, match="say where: --shards SHARDS"):
        Collection.open(folder / "export", shards=tmp_path / "nowhere").media(2, "image")
    shutil.rmtree(tmp_path / "moved")
    mmcl.data.write_shards([{"__key__": "002", "png": picture("red", "cross")}], tmp_path / "moved")
    with pytest.raises(MmclError, match=r"shard 00000.tar is another one than was embedded"):
        Collection.open(folder / "export", shards=tmp_path / "moved").media(2, "image")


def test_a_model_that_has_moved_or_is_another(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "export", tmp_path / "export")
    manifest = tmp_path / "export" / "manifest.json"
    said = json.loads(manifest.read_text())
    query = [Part("text", "a red circle")]
    manifest.write_text(json.dumps(said | {"opened": {"model": str(tmp_path / "gone"), "weights": None}}))
    with pytest.raises(MmclError, match="gone, which cannot be opened.*say where: --model MODEL"):
        Collection.open(tmp_path / "export").embed(query)
    found = Collection.open(tmp_path / "export", model=folder / "run", device="cpu").embed(query)
    assert found.shape == (16,)
    manifest.write_text(json.dumps(said | {"model": "0123"}))
    with pytest.raises(MmclError, match=r"was not made by .*run: its tensors have the digest .* export's model 0123"):
        Collection.open(tmp_path / "export", device="cpu").embed(query)


def test_mistakes_are_told(collection: Collection, tmp_path: Path) -> None:
    told = {
        "no tower for 'imag'; did you mean 'image'": [Part("imag", b"")],
        "the image of the query cannot be used: image cannot be decoded": [Part("text", "a"), Part("image", b"broken")],
        "the audio of the query cannot be used: audio cannot be decoded": [Part("audio", b"broken")],
        "the image of the query .*none.png cannot be used: the file cannot be read": [
            Part("image", tmp_path / "none.png")
        ],
        "the text of the query cannot be used: a text is looked for": [Part("text", "  ")],
        "nothing to look for": [],
        "cancel each other out": [Part("text", "a"), Part("text", "a", -1.0)],
        "is not finite": [Part("text", "a", float("nan"))],
    }
    for message, parts in told.items():
        with pytest.raises(MmclError, match=message):
            collection.embed(parts)
    vector = collection.like(3, "image")
    with pytest.raises(MmclError, match="k is the number of results"):
        collection.search(vector, among="image", k=0)
    with pytest.raises(MmclError, match="has no vectors of smell"):
        collection.search(vector, among="smell")
    with pytest.raises(MmclError, match=r"a finite vector of 16 numbers; got \(3,\)"):
        collection.search(vector[:3], among="image")
    with pytest.raises(MmclError, match="sample 001 has no image"):
        collection.like(1, "image")
    with pytest.raises(MmclError, match="no sample '0007'; did you mean '00"):
        collection.row("0007")


def test_tables_of_fewer_coordinates_are_searched_and_quantised(folder: Path) -> None:
    out = folder / "short"
    more = ["--dims", "8", "--layout", "parquet", "--dtype", "fp16", "--quantize", "int8,binary"]
    main(["embed", str(folder / "run"), "--shards", str(folder / "shards"), "--out", str(out), *more])
    short = Collection.open(out, device="cpu")
    vector = short.embed([Part("image", picture(COLOURS["blue"], "cross"))])
    assert vector.shape == (8,)
    assert short.search(vector, among="image", k=1)[0].score == pytest.approx(1, abs=1e-5)
    said = json.loads((out / "manifest.json").read_text())["quantized"]
    assert said["binary"]["audio"]["queries"] in ("image", "text")
    assert 0 < said["int8"]["image"]["recall@10"]["low"] <= said["int8"]["image"]["rescored"]["recall"] <= 1
    assert np.load(out / "quantized" / "binary" / "img_emb" / "img_emb_0000.npy").shape == (72, 1)


def test_what_clip_retrieval_wrote_is_searched_by_a_model_that_is_named(tmp_path: Path, folder: Path) -> None:
    vectors = export(tmp_path / "e", {"image": clustered(30, 16)}, image_path=[f"p{i}" for i in range(30)])
    (vectors.folder / "manifest.json").unlink()
    collection = Collection.open(tmp_path / "e")
    assert collection.query_modalities == ()
    assert collection.search(collection.like(4, "image"), among="image", k=1)[0].row == 4
    with pytest.raises(MmclError, match="say it: --model MODEL"):
        collection.embed([Part("text", "a")])
    named = Collection.open(tmp_path / "e", model=folder / "run", device="cpu")
    assert len(named.search(named.embed([Part("text", "a")]), among="image", k=3)) == 3


def test_in_the_terminal(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(folder / "export")
    capsys.readouterr()
    main(["search", out, "a red circle", "-k", "3", "--where", "colour=red", "--where", "pitch<=220", "--explain"])
    shown = capsys.readouterr()
    assert shown.out.count("00000.tar") == 3
    assert "a red" in shown.out
    assert "flat: 71 vectors are few enough to compare all of them, which is exact" in shown.err
    (tmp_path / "p.png").write_bytes(picture(COLOURS["red"], "circle"))
    main(["search", out, "blue", "--image", str(tmp_path / "p.png"), "--weight.text", "0.1", "--json", "-k", "2"])
    hits = json.loads(capsys.readouterr().out)
    assert [hit["rank"] for hit in hits] == [1, 2]
    assert {"score", "key", "caption", "shard", "row", "columns"} < set(hits[0])
    main(["search", out, "--like", "007", "--among", "text", "--json"])
    assert "007" not in {hit["key"] for hit in json.loads(capsys.readouterr().out)}
    main(["search", out, "red", "--where", "colour=gold"])
    assert capsys.readouterr().err == "no sample meets the conditions.\n"
    main(["search", out, "red", "--where", "colour=gold", "--json"])
    assert json.loads(capsys.readouterr().out) == []


def test_mistakes_in_the_terminal_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in {
        ("a", "--weight.image", "2"): "no image is looked for; there is: text",
        (): "nothing to look for",
        ("--other.smell", "x"): "the model has no tower for smell; it has: image (image)",
        ("a", "--where", "colour"): "is no condition",
    }.items():
        with pytest.raises(SystemExit, match="2"):
            main(["search", str(folder / "export"), *words])
        assert told in capsys.readouterr().err


def test_words_for_vectors_of_an_unknown_model_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(tmp_path / "e", {"image": clustered(5)})
    with pytest.raises(SystemExit):
        main(["search", str(tmp_path / "e"), "a red hat"])
    assert "nothing here says which model made these vectors; say it: --model" in capsys.readouterr().err


def test_long_keys_leave_room_for_scores_and_captions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    keys = [f"{row:064}" for row in range(5)]
    export(tmp_path / "e", {"image": clustered(5)}, key=keys, caption=["a dog in the snow"] * 5)
    main(["search", str(tmp_path / "e"), "--like", keys[3], "-k", "1"])
    rows = [line.split("│")[1:6] for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert [cell.strip() for cell in rows[0][:2]] == ["1", rows[0][1].strip()]
    assert "".join(row[2].strip() for row in rows) in keys
    assert " ".join(row[3].strip() for row in rows).strip() == "a dog in the snow"
    assert float(rows[0][1]) < 1


def test_captions_do_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(tmp_path / "e", {"image": clustered(5)}, caption=["\x1b[2J[bold]x\n\u202e"] * 5)
    main(["search", str(tmp_path / "e"), "--like", "00003"])
    shown = capsys.readouterr().out
    assert "\x1b[2J" not in shown
    assert "\u202e" not in shown
    assert "[2J[bold]x" in shown


def test_the_package_needs_no_faiss_to_be_imported() -> None:
    code = "import sys; sys.modules['faiss'] = None; import mmcl.search, mmcl.cli.search"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.int64()])
def test_keys_are_found_whatever_type_their_writer_gave_them(tmp_path: Path, kind: pa.DataType) -> None:
    export(tmp_path / "e", {"image": clustered(300)}, part=300)
    file = tmp_path / "e" / "metadata" / "metadata_0000.parquet"  # pandas 3 and polars write large strings
    keys = [str(1000 + row) for row in range(300)]
    column = pa.array(keys).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(keys).cast(kind)
    pq.write_table(pa.table({"image_path": column, "shard": ["train-0"] * 300}), file)
    opened = Collection.open(tmp_path / "e")
    assert opened.row("1007") == 7
    with pytest.raises(MmclError, match="has no sample '7'"):
        opened.row("7")
    with pytest.raises(MmclError, match="has no sample"):
        opened.row("\udcff")  # no UTF-8 at the keyboard
    (hit,) = opened.search(opened.like(7, "image"), among="image", k=1)
    assert (hit.row, hit.key, hit.shard) == (7, "1007", -1)  # their column `shard` is no number of ours
    with pytest.raises(MmclError, match="nothing says where the shards lie"):
        opened.media(7, "image")


def test_a_key_that_shards_share_is_told(tmp_path: Path) -> None:
    export(tmp_path / "e", {"image": clustered(4)})
    file = tmp_path / "e" / "metadata" / "metadata_0000.parquet"
    pq.write_table(pa.table({"key": ["a", "b", "c", "b"]}), file)
    said: list[str] = []
    assert Collection.open(tmp_path / "e", say=said.append).row("b") == 1
    assert said == ["note: 2 samples are called b; row 1, the first of them, is taken."]
    assert Collection.open(tmp_path / "e", say=said.append).row("c") == 2
    assert len(said) == 1


def test_a_row_of_more_than_64_bits_is_told(tmp_path: Path) -> None:
    export(tmp_path / "e", {"image": clustered(4)})
    with pytest.raises(MmclError, match="has rows 0 to 3; got"):
        Collection.open(tmp_path / "e").like(2**80, "image")
