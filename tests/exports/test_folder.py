"""The folder of an export: whole or not there, the same bytes each time, and nothing of anybody else's is replaced."""

import json
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

import mmcl
from mmcl.cli import main
from mmcl.embed import weights_digest
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


@pytest.mark.parametrize("format", ["open_clip", "transformers"])
def test_formats_of_others_are_the_same_bytes_too(format: str, run: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        mmcl.export(run, format, tmp_path / name)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_an_export_is_replaced_and_nothing_else_is(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    mmcl.export(run, "open_clip", out)
    mmcl.export(run, "safetensors", out)
    assert not (out / "open_clip_model.safetensors").exists()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(MmclError, match=r"holds notes.txt, which is of no export"):
        mmcl.export(run, "safetensors", out)
    with pytest.raises(MmclError, match="which is of no export"):
        mmcl.export(run, "safetensors", run)
    assert (run / "recipe.yaml").exists()


def test_a_killed_export_leaves_the_last_one(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmcl.exports import folder

    out = tmp_path / "out"
    mmcl.export(run, "safetensors", out)
    before = content(out)

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "write_card", killed)
    with pytest.raises(KeyboardInterrupt):
        mmcl.export(run, "safetensors", out)
    assert content(out) == before
    with pytest.raises(KeyboardInterrupt):
        mmcl.export(run, "safetensors", tmp_path / "other")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_was_changed_is_not_opened(run: Path, tmp_path: Path) -> None:
    mmcl.export(run, "safetensors", tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["kind"] == "safetensors"
    assert manifest["model"] == weights_digest(mmcl.load(run, "cpu"))
    with (tmp_path / "out" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    with pytest.raises(MmclError, match="model.safetensors is not what was exported"):
        open_export(tmp_path / "out")
    with pytest.raises(MmclError, match="is no export"):
        open_export(run)


def test_the_card_says_what_is_true_of_the_run(run: Path, tmp_path: Path) -> None:
    mmcl.export(run, "open_clip", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    front = YAML(typ="safe").load(card.split("---")[1])
    assert front["library_name"] == "open_clip"
    assert front["pipeline_tag"] == "zero-shot-image-classification"
    results = json.loads((run / "results.json").read_text())
    recall = results["retrieval"]["text_to_image"]["recall@10"]
    assert f"| retrieval | text_to_image recall@10 | {recall:.4g} | 500 |" in card
    parameters = sum(p.numel() for p in mmcl.load(run, "cpu").model.tower("image").parameters())
    assert f"| image | image | `vit` | {parameters:,} | its own projection | trained | random weights |" in card
    assert "256 samples seen (repeats counted) in 8 steps of 32" in card
    assert 'create_model_and_transforms("local-dir:DIR")' in card


def test_the_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", str(run), "--format", "safetensors", "--out", str(tmp_path / "out")])
    assert "safetensors: image, text, 16 numbers each" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["export", str(run), "--format", "gguf", "--out", str(tmp_path / "other")])
    assert "no format is called 'gguf'" in capsys.readouterr().err


def test_an_export_without_its_manifest_is_no_run(run: Path, tmp_path: Path) -> None:
    mmcl.export(run, "safetensors", tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(MmclError, match=r"is no run: it has a recipe.yaml alone. An export has a manifest.json"):
        mmcl.load(tmp_path / "out")
