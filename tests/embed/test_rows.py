"""What an export says of every sample: the encoder's own vectors, who is absent, and what was bad."""

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmcl.data import write_shards
from mmcl.embed import Vectors, embed_shards
from mmcl.errors import MmclError
from mmcl.model import Encoder
from tests.embed import export
from tests.embed.export import BATCH, BROKEN, COUNT, PART, embed, source, tree


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Vectors:
    out = tmp_path_factory.mktemp("made") / "out"
    embed(folder, out)
    return Vectors(out)


def expected(encoder: Encoder, modality: str) -> np.ndarray:
    """Vectors of all samples as `Encoder.embed` makes them of the blocks of an export; zero where there is none."""
    rows, samples = np.zeros((COUNT, encoder.dim), np.float32), export.values()
    for part in range(0, COUNT, PART):
        for start in range(part, min(part + PART, COUNT), BATCH):
            block = range(start, min(start + BATCH, part + PART, COUNT))
            here = [i for i in block if modality in samples[i] and (modality, i) != ("picture", BROKEN)]
            if here:
                rows[here] = encoder.embed(modality, [samples[i][modality] for i in here]).numpy()
    return rows


@pytest.mark.parametrize("modality", ["picture", "caption", "voice"])
def test_every_row_is_the_encoders_vector_to_the_last_bit(encoder: Encoder, made: Vectors, modality: str) -> None:
    wanted = expected(encoder, modality)
    found = np.concatenate(list(made.parts(modality)))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted)
    assert 20 < (wanted != 0).any(1).sum() < COUNT


def test_the_metadata_knows_every_sample(made: Vectors) -> None:
    table, samples = made.metadata(), export.values()
    assert table.column("key").to_pylist() == table.column("image_path").to_pylist()
    assert table.column("key").to_pylist() == made.keys() == [f"{i:04d}" for i in range(COUNT)]
    assert table.column("shard").to_pylist() == [i // export.SHARD for i in range(COUNT)]
    assert table.column("caption text").to_pylist() == [sample.get("caption") for sample in samples]
    for m in ("picture", "caption", "voice"):
        there = [m in sample and (m, i) != ("picture", BROKEN) for i, sample in enumerate(samples)]
        assert table.column(f"has_{m}").to_pylist() == there
    numbers = [None if one is None else json.loads(one).get("number") for one in table.column("json").to_pylist()]
    assert numbers[::4] == list(range(0, COUNT, 4))
    assert numbers[1] is None


def test_bad_samples_are_counted_and_listed(made: Vectors) -> None:
    manifest = made.manifest
    assert manifest is not None
    absent = [i for i in range(COUNT) if i % 7 == 3]  # pictures are not optional here
    listed = manifest["bad_samples"]
    assert [one["key"] for one in listed] == sorted(f"{i:04d}" for i in [*absent, BROKEN])
    (broken,) = (one for one in listed if one["key"] == f"{BROKEN:04d}")
    assert (broken["shard"], broken["modality"]) == ("00000.tar", "picture")
    assert "cannot be decoded" in broken["reason"]
    assert manifest["bad"] == {"picture": len(listed)}
    assert sum(part["bad"] for part in manifest["parts"]) == len(listed)
    reasons = made.metadata(["bad"]).column("bad").to_pylist()
    assert [i for i, reason in enumerate(reasons) if reason] == sorted([*absent, BROKEN])
    assert reasons[absent[0]] == "picture: no png"


def test_the_manifest_says_what_was_made_of_what(made: Vectors, folder: Path) -> None:
    manifest = made.manifest
    assert manifest is not None
    assert (manifest["format"], manifest["dim"], manifest["samples"]) == (2, 16, COUNT)
    assert [part["samples"] for part in manifest["parts"]] == [PART] * 10 + [COUNT - 10 * PART]
    assert [shard["samples"] for shard in manifest["shards"]] == [35, 35, 35, 25]
    assert manifest["source"]["shards"] == str(folder / "shards")
    assert manifest["preparation"]["picture"]["transform"]
    files = {place for part in manifest["parts"] for place in part["files"]}
    assert files | {"manifest.json"} == set(tree(made.folder))


def test_part_sizes_change_the_files_and_not_the_rows(folder: Path, made: Vectors, tmp_path: Path) -> None:
    for size, parts in ((1000, 1), (35, 4)):
        manifest = embed(folder, tmp_path / str(size), part_size=size)
        assert manifest is not None
        assert len(manifest["parts"]) == parts
        other = Vectors(tmp_path / str(size))
        assert other.keys() == made.keys()
        for m in made.modalities:
            np.testing.assert_allclose(
                np.concatenate(list(other.parts(m))), np.concatenate(list(made.parts(m))), atol=1e-5
            )


def test_fp16_is_the_nearest(folder: Path, made: Vectors, tmp_path: Path) -> None:
    embed(folder, tmp_path / "out", dtype="fp16")
    for m in made.modalities:
        half = np.concatenate(list(Vectors(tmp_path / "out").parts(m)))
        assert half.dtype == np.float16
        np.testing.assert_array_equal(half, np.concatenate(list(made.parts(m))).astype(np.float16))


def test_first_coordinates_are_normalised_again(folder: Path, made: Vectors, tmp_path: Path) -> None:
    embed(folder, tmp_path / "out", dims=6)
    short = Vectors(tmp_path / "out")
    assert short.dim == 6
    long = torch.from_numpy(made.rows("caption", range(COUNT)))
    wanted = F.normalize(long[:, :6], dim=-1).numpy()
    np.testing.assert_allclose(short.rows("caption", range(COUNT)), wanted, atol=1e-6)
    with pytest.raises(MmclError, match="dims: the model has 16 coordinates, of which 1 or more can be kept; got 17"):
        embed(folder, tmp_path / "more", dims=17)


def test_lower_precision_comes_near(folder: Path, made: Vectors, tmp_path: Path) -> None:
    embed(folder, tmp_path / "out", precision="bf16")
    found, exact = (v.rows("picture", range(COUNT)) for v in (Vectors(tmp_path / "out"), made))
    there = exact.any(1)
    cosines = (found * exact).sum(1)[there]
    assert 0.99 < cosines.min() < 1 - 1e-6
    with pytest.raises(MmclError, match="precision: fp16 needs a GPU"):
        embed(folder, tmp_path / "other", precision="fp16")


def test_vectors_that_are_no_numbers_are_bad_and_absent(encoder: Encoder, folder: Path, tmp_path: Path) -> None:
    named = encoder.model.tower("caption").named_parameters()
    weight = next(one for name, one in named if "token_embedding" in name)
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.fill_(torch.nan)
        manifest = embed_shards(encoder, source(folder / "shards"), tmp_path / "out")
    finally:
        with torch.no_grad():
            weight.copy_(before)
    assert manifest is not None
    made = Vectors(tmp_path / "out")
    there = sum("caption" in sample for sample in export.values())
    assert manifest["bad"]["caption"] == there
    assert {one["reason"] for one in manifest["bad_samples"] if one["modality"] == "caption"} == {
        "its vector is not finite in fp32"
    }
    assert not made.rows("caption", range(COUNT)).any()
    assert not any(made.metadata(["has_caption"]).column("has_caption").to_pylist())


def test_empty_shards_and_what_is_wrong_with_shards_are_told_once(encoder: Encoder, tmp_path: Path) -> None:
    write_shards(({"__key__": f"{i}", "txt": f"a {i}"} for i in range(9)), tmp_path / "shards", 3)
    path = tmp_path / "shards" / "00001.tar"
    path.write_bytes(path.read_bytes()[:700])  # cut behind its first sample
    (tmp_path / "shards" / "manifest.json").unlink()
    for name in ("00000b.tar", "00009.tar"):
        tarfile.open(tmp_path / "shards" / name, "w").close()  # no sample
    lies = {"caption": "txt"}
    found = []
    for size in (1, 2, 100):
        given = source(tmp_path / "shards").model_copy(update={"modalities": lies, "optional": []})
        manifest = embed_shards(encoder, given, tmp_path / str(size), part_size=size)
        assert manifest is not None
        assert manifest["samples"] == 7
        found.append(manifest["bad_samples"])
    assert found[0] == found[1] == found[2]
    assert [one["shard"] for one in found[0]] == ["00001.tar"]


def test_reserved_names_are_refused(encoder: Encoder, tmp_path: Path) -> None:
    write_shards([{"__key__": "a", "txt": "alpha"}], tmp_path / "shards")
    given: Any = source(tmp_path / "shards").model_copy(
        update={"modalities": {"caption": "txt", "key": "txt"}, "optional": []}
    )
    with pytest.raises(MmclError, match="modalities: key is a column of every export"):
        embed_shards(encoder, given, tmp_path / "out")
