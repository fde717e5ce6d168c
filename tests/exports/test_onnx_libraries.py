"""Graphs of libraries' towers, whose rows are padded in every way there is: onnxruntime finds the towers' vectors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmcl.errors import MmclError
from mmcl.exports import Source, onnx
from mmcl.model import Encoder, MultiTower
from mmcl.towers import TOWERS, TowerSpec
from tests.towers import libraries, tiny_texts
from tests.towers.test_transformers_audio import MAKES
from tests.towers.test_transformers_text import CASES

DIM = 20
POOLS = {kind: pool for kind, pool in CASES.items() if kind != "t5"}  # of which torch cannot make a graph


class OneTower(Source):
    """As much of a source as the format looks at."""

    def __init__(self, **said: Any) -> None:
        torch.manual_seed(0)
        spec = TOWERS.check({**said, "weights": "random"})
        assert isinstance(spec, TowerSpec)
        tower = spec.build(dim=DIM, modality="one")
        self.encoder = Encoder(MultiTower({"one": libraries.stirred(tower)}, DIM).eval())


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return tiny_texts.folders(tmp_path_factory.mktemp("texts"))


def graph(folder: Path, **said: Any) -> dict[str, Any]:
    """What is said of a graph; the format has compared it with the tower before."""
    written = onnx.write(OneTower(**said), folder)
    assert "vectors differ by at most" in written.notes[0]
    return json.loads((folder / "graphs.json").read_text())["one"]


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in POOLS if kind != "bert"]


@pytest.mark.parametrize("kind", ["bert", *SLOW])
def test_texts_padded_with_minus_one(kind: str, texts: dict[str, str], tmp_path: Path) -> None:
    described = graph(tmp_path, name="transformers_text", model=texts[kind], pool=POOLS[kind])
    assert described["input"]["shape"] == ["batch", 24 if kind == "siglip" else "tokens"]
    assert described["rows"]["padding"] == -1


@pytest.mark.slow
def test_a_text_tower_of_open_clip(tmp_path: Path) -> None:
    config = {"embed_dim": 16, "vision_cfg": libraries.VIT, "text_cfg": {**libraries.TEXT, "vocab_size": 49408}}
    (tmp_path / "small.json").write_text(json.dumps(config))
    graph(tmp_path, name="open_clip_text", model=str(tmp_path / "small.json"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip", "dinov2", "resnet", "mobile", "timm"])
def test_pictures(kind: str, tmp_path: Path) -> None:
    said = {"name": "timm_image", "model": "test_vit"}
    if kind != "timm":
        make: Any = libraries.of_transformers if kind in libraries.MODELS else libraries.of_open_clip
        said = make(kind, tmp_path / "model").spec
    assert graph(tmp_path, **said)["input"]["dtype"] == "uint8"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clap", "ast", "whisper"])
def test_sounds_padded_with_nan(kind: str, tmp_path: Path) -> None:
    MAKES[kind](tmp_path).save_pretrained(tmp_path)
    described = graph(tmp_path, name="transformers_audio", model=str(tmp_path))
    assert described["input"]["shape"] == ["batch", 16_000 if kind == "clap" else "frames"]


@pytest.mark.slow
def test_what_no_graph_can_express_is_told(texts: dict[str, str], tmp_path: Path) -> None:
    MAKES["clap_fused"](tmp_path).save_pretrained(tmp_path)
    for said in (
        {"name": "transformers_audio", "model": str(tmp_path)},  # looks up which sounds are long
        {"name": "transformers_text", "model": texts["t5"], "pool": "mean"},
    ):
        with pytest.raises(MmclError, match="one: torch cannot trace this tower: "):
            onnx.write(OneTower(**said), tmp_path)
