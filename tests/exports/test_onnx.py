"""Graphs of towers: onnxruntime alone gives the towers' vectors, in batches of any size."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

import mmcl
from mmcl import workflow
from mmcl.cache import Member, add_embeddings
from mmcl.data import Source as Shards
from mmcl.data import write_shards
from mmcl.errors import MmclError
from mmcl.exports import Source, onnx, open_export
from mmcl.model import Encoder, MultiTower
from mmcl.recipe import Recipe
from mmcl.towers import Backbone, Tower
from tests import small_model

DOCS = Path(__file__).parents[2] / "docs" / "exports.md"


class OneTower(Source):
    """As much of a source as the format looks at."""

    def __init__(self, backbone: Backbone) -> None:
        self.encoder = Encoder(MultiTower({"voice": Tower(backbone)}, small_model.DIM).eval())


def by_onnxruntime(folder: Path, modality: str, rows: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(folder / f"{modality}.onnx"), providers=["CPUExecutionProvider"])
    return session.run(None, {modality: rows.numpy()})[0]


def test_a_graph_with_a_spectrum_in_it(tmp_path: Path) -> None:
    source = OneTower(small_model.Loudness())
    written = onnx.write(source, tmp_path)
    sounds = [(sound["array"], sound["sampling_rate"]) for sound in small_model.sounds(5)]
    rows = source.encoder.rows("voice", sounds)
    vectors = by_onnxruntime(tmp_path, "voice", rows)
    np.testing.assert_allclose(vectors, source.encoder.embed("voice", sounds), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    described = json.loads((tmp_path / "graphs.json").read_text())["voice"]
    assert described["input"] == {"name": "voice", "dtype": "float32", "shape": ["batch", 4000]}
    assert described["rows"] == {
        "transform": "AudioTransform",
        "rate": 8000,
        "seconds": 0.5,
        "crop": "start",
        "short": "pad",
        "frames": 4000,
        "multiple": 1,
        "windows": 1,
    }
    assert "vectors differ by at most" in written.notes[0]


class Fixed(small_model.Loudness):
    """One whose code settles the number of rows while it is traced."""

    def forward(self, rows: Tensor) -> Tensor:
        return super().forward(rows) * torch.ones(len(rows) if len(rows) == 2 else 2, 1)


class Untraceable(small_model.Loudness):
    def forward(self, rows: Tensor) -> Tensor:
        return super().forward(rows) if rows.sum().item() > 0 else super().forward(-rows)


def test_a_tower_that_no_graph_can_express_is_told(tmp_path: Path) -> None:
    source = OneTower(Untraceable())
    with pytest.raises(MmclError, match="voice: torch cannot trace this tower: "):
        onnx.write(source, tmp_path)


def test_a_graph_for_one_batch_size_is_no_export(tmp_path: Path) -> None:
    source = OneTower(Fixed())
    with pytest.raises(MmclError, match="voice: torch cannot trace this tower: .* static shape of 2"):
        onnx.write(source, tmp_path)


def test_without_its_libraries_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = OneTower(small_model.Loudness())
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MmclError, match=r"onnxscript is not installed: pip install 'mmcl\[onnx\]'"):
        onnx.write(source, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("causal", [True, False])
def test_a_runs_towers(causal: bool, tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    run = workflow.train(tiny(tmp_path / "run", f"towers.text.causal={str(causal).lower()}"))
    mmcl.export(run, "onnx", tmp_path / "out")
    encoder, again = mmcl.load(run, "cpu"), open_export(tmp_path / "out", "cpu")
    for modality, values in (("image", small_model.pictures(7)), ("text", small_model.texts(7))):
        for some in (values, values[:1]):
            expected, rows = encoder.embed(modality, some), encoder.rows(modality, some)
            found = by_onnxruntime(tmp_path / "out", modality, rows.contiguous())
            np.testing.assert_allclose(found, expected, atol=1e-5)
            torch.testing.assert_close(again.embed(modality, some), expected, atol=1e-5, rtol=0)
    write_shards([{"__key__": "0", "txt": "a"}], tmp_path / "in")
    source = Shards(shards=str(tmp_path / "in"), modalities={"text": "txt"})
    with pytest.raises(MmclError, match="the head is inside text's graph; .* --of tower"):
        add_embeddings(again, source, tmp_path / "added", Member("text.npy", "text"))
    described = json.loads((tmp_path / "out" / "graphs.json").read_text())
    assert described["image"]["input"]["dtype"] == "uint8"
    assert described["text"]["input"]["shape"][1] == "tokens" or causal
    assert described["text"]["rows"]["tokenizer"]["eos_id"] == 3
    assert described["text"]["rows"]["length"] == encoder.transforms["text"].length  # type: ignore[attr-defined]
    assert described["image"]["rows"]["fit"]["interpolation"] == "bicubic"
    assert len(described["image"]["rows"]["normalize"]["mean"]) == 3
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"at most {described['text']['rows']['length']} tokens" in card
    assert {p.name for p in (tmp_path / "out").glob("*.onnx*")} == {"image.onnx", "text.onnx"}
    (code,) = re.findall(r"## ONNX.*?```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("exports/demo_onnx", str(tmp_path / "out")), names)
    expected = encoder.embed("text", ["greek small letter alpha"])
    np.testing.assert_allclose(names["vectors"], expected, atol=1e-5)
