"""Vectors of a frozen tower in shards: training that reads them is training with the tower."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mmcl
from mmcl import cache, cli, workflow
from mmcl.cache import Member, add_embeddings
from mmcl.data import Source, write_shards
from mmcl.data.extras import Numbers
from mmcl.embed import weights_digest
from mmcl.errors import MmclError
from mmcl.model import Encoder
from mmcl.recipe import Recipe
from mmcl.runs import Run
from mmcl.towers import TOWERS, Backbone
from mmcl.training import Trainer

TEXT = Member("text.npy", "text")
if "ready" not in TOWERS.classes:

    @TOWERS.register("ready")
    class Ready(Backbone):
        """Vectors as they come."""

        takes = "vector"

        def __init__(self, width: int) -> None:
            super().__init__()
            self.width = width

        def transform(self, train: bool) -> Numbers:
            return Numbers((self.width,))

        def forward(self, rows: Tensor) -> Tensor:
            return rows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Recipe]) -> Path:
    """A run whose text backbone is frozen, under a head that learns."""
    folder = tmp_path_factory.mktemp("cache") / "run"
    return workflow.train(
        tiny(
            folder,
            "towers.text.policy=frozen",
            "towers.text.weights=random",
            "towers.text.head=linear",
            "training.samples=160",
        )
    )


@pytest.fixture(scope="module")
def encoder(run: Path) -> Encoder:
    return mmcl.load(run)


def source(shards: Path) -> Source:
    return Source(shards=str(shards), modalities={"image": "png", "text": "txt"})


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def files(folder: Path) -> dict[str, str]:
    found = {p.name: p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()}


def test_training_on_vectors_is_training_with_the_frozen_tower(
    tmp_path: Path, run: Path, glyphs: Any, tiny: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cached"
    cli.main(
        ["data", "add-embeddings", str(run), "--shards", str(glyphs.train), "--out", str(out), "--modality", "text"]
    )
    assert "2,000 samples, 2,000 vectors of 32 numbers (fp32) as .text.npy" in capsys.readouterr().err
    manifest = json.loads((out / "manifest.json").read_text())
    made_by = manifest["embeddings"]
    assert made_by["weights"] == weights_digest(mmcl.load(run))
    assert made_by["transform"].startswith("TextTransform(length=")
    assert "'eos_id': 3" in made_by["transform"]
    assert made_by["tower"]["policy"]["name"] == "frozen"
    assert [shard["samples"] for shard in manifest["shards"]] == [250] * 8

    content = Run(run).recipe().model_dump(mode="json")
    content |= {"run": str(tmp_path / "second")}
    content["towers"]["text"] = {"name": "ready", "width": 32, "head": "linear"}
    content["data"]["train"] |= {"shards": str(out), "modalities": {"image": "png", "text": "text.npy"}}
    second = Trainer(Recipe.model_validate(content), Run(tmp_path / "second"), lambda _: {})
    begin = mmcl.runs.build_model(Run(run).recipe()).towers
    second.model.towers["image"].load_state_dict(begin["image"].state_dict())
    second.model.towers["text"].head.load_state_dict(begin["text"].head.state_dict())  # type: ignore[arg-type, union-attr]
    (tmp_path / "second").mkdir()
    second.train()
    assert losses(tmp_path / "second") == pytest.approx(losses(run), rel=1e-5)
    assert len(losses(run)) == 5


def test_an_interrupted_call_goes_on_after_the_last_whole_shard(
    tmp_path: Path, encoder: Encoder, glyphs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = add_embeddings(encoder, source(glyphs.test), tmp_path / "whole", TEXT, batch_size=100)
    write, written = cache._write, list[str]()

    def dying(path: Path, *more: Any) -> Any:
        if len(written) == 1:
            path.with_name(f".{path.name}.partial").write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(path.name)
        return write(path, *more)

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_write", dying)
        with pytest.raises(KeyboardInterrupt):
            add_embeddings(encoder, source(glyphs.test), tmp_path / "cut", TEXT, batch_size=100)
    first = (tmp_path / "cut" / "00000.tar").stat()
    with pytest.raises(MmclError, match="was begun otherwise: dtype differ"):
        add_embeddings(encoder, source(glyphs.test), tmp_path / "cut", Member("text.npy", "text", dtype="fp16"))
    with pytest.raises(MmclError, match="still being written|finish"):
        mmcl.data.stream(tmp_path / "cut", {"text": "txt"}, batch_size=4)
    assert add_embeddings(encoder, source(glyphs.test), tmp_path / "cut", TEXT, batch_size=100) == whole
    assert (tmp_path / "cut" / "00000.tar").stat().st_mtime_ns == first.st_mtime_ns
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    with pytest.raises(MmclError, match="holds a finished data set"):
        add_embeddings(encoder, source(glyphs.test), tmp_path / "cut", TEXT)


def test_members_pass_unchanged_and_bad_samples_stay_without_a_vector(tmp_path: Path, encoder: Encoder) -> None:
    samples: list[dict[str, Any]] = [{"__key__": str(i), "txt": f"arrow {i}", "json": {"n": i}} for i in range(5)]
    samples[1]["txt"] = b"\xff\xfe\xff"
    del samples[3]["txt"]
    write_shards(samples, tmp_path / "in", samples_per_shard=2)
    out = tmp_path / "out"
    manifest = add_embeddings(encoder, source(tmp_path / "in"), out, Member("a.npy", "text", "tower", "fp16"))
    assert manifest["embeddings"]["samples"] == 3
    assert manifest["embeddings"]["bad"] == {"no txt": 1, "text is not UTF-8": 1}
    listed = [json.loads(line) for line in (out / "bad_samples.jsonl").read_text().splitlines()]
    assert [(one["key"], one["reason"]) for one in listed] == [("1", "text is not UTF-8"), ("3", "no txt")]
    shards = cache.ShardSet(cache.find_shards(str(out)))
    read = {}
    for number in range(3):
        shard = shards.open(number)
        for sample, key in enumerate(shard.index.keys):
            places = shard.members(sample)
            read[key] = dict(zip(places, shard.read(list(places.values())), strict=True))
    assert [sorted(members) for members in read.values()] == [
        ["a.npy", "json", "txt"],
        ["json", "txt"],
        ["a.npy", "json", "txt"],
        ["json"],
        ["a.npy", "json", "txt"],
    ]
    assert read["1"]["txt"] == b"\xff\xfe\xff"
    vector = np.load(io.BytesIO(read["2"]["a.npy"]))
    assert vector.dtype == np.float16
    unit = torch.nn.functional.normalize(torch.from_numpy(vector).float(), dim=0)
    torch.testing.assert_close(unit[None], encoder.embed("text", ["arrow 2"]), atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (Member("txt.npy", "text"), "sample 0 has a member .txt.npy already; call the new one otherwise"),
        (Member("text.json", "text"), "a new member is called as in text.npy; got 'text.json'"),
        (Member("x.npy", "image"), "no sample could be embedded: {'image cannot be decoded .*': 1, 'no png': 1}"),
        (Member("x.npy", "audio"), "the model has no tower for 'audio'"),
    ],
)
def test_what_cannot_be_added_is_refused(tmp_path: Path, encoder: Encoder, member: Member, message: str) -> None:
    write_shards([{"__key__": "0", "txt": "a", "txt.npy": np.ones(2)}, {"__key__": "1", "png": b"x"}], tmp_path / "in")
    with pytest.raises(MmclError, match=message):
        add_embeddings(encoder, source(tmp_path / "in"), tmp_path / "out", member)


def test_models_of_libraries_embed_too(tmp_path: Path, glyphs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cached"
    model = ["timm:test_vit", "--weights", "random", "--shards", str(glyphs.test), "--out", str(out)]
    with pytest.raises(SystemExit):
        cli.main(["data", "add-embeddings", *model, "--modality", "image"])
    assert "no recipe that says where image lies: say it, as in --modality image=jpg" in capsys.readouterr().err
    cli.main(["data", "add-embeddings", *model, "--modality", "image=png"])
    made_by = json.loads((out / "manifest.json").read_text())["embeddings"]
    assert made_by["tower"] == {"model": "timm:test_vit", "weights": "random"}
    assert made_by["width"] == 64
    assert made_by["samples"] == 500
    capsys.readouterr()
    cli.main(["embed", *model[:-1], str(tmp_path / "emb"), "--modalities", "image=png,text=txt,other=npy"])
    said = capsys.readouterr().err
    assert "the model has no tower for text, which goes into the metadata as it is" in said
    assert "the model has no tower for other, which is not read" in said
