"""The folder of an export: whole or not there, the same bytes each time, and nothing of anybody else's is replaced."""

import json
from pathlib import Path

import pytest
import torch

import mmcl
from mmcl.errors import MmclError
from mmcl.exports import open_export

VALUES = {"text": ["cat", "dog", "Ä"], "image": [torch.arange(48 * 48 * 3).reshape(3, 48, 48).to(torch.uint8)]}


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_safetensors_open_as_the_run_itself(run: Path, tmp_path: Path) -> None:
    manifest = mmcl.export(run, "safetensors", tmp_path / "out")
    assert manifest == json.loads((tmp_path / "out" / "manifest.json").read_text())
    ours, again = mmcl.load(run), open_export(tmp_path / "out", "cpu")
    for modality, values in VALUES.items():
        assert torch.equal(ours.embed(modality, values), again.embed(modality, values))


def test_twice_the_same_bytes(run: Path, tmp_path: Path) -> None:
    mmcl.export(run, "safetensors", tmp_path / "one")
    mmcl.export(run, "safetensors", tmp_path / "two")
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_an_unknown_format_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(MmclError, match="no format is called 'safetensor'; did you mean 'safetensors'"):
        mmcl.export(run, "safetensor", tmp_path / "out")
