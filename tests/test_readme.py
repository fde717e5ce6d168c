"""What the README shows is what is there."""

import re
from pathlib import Path
from typing import Any

import pytest

from mmcl import bundled

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```\n", README, re.MULTILINE | re.DOTALL)  # opening to closing, in turn
    return [text for tag, text in fences if tag == language]


def test_it_is_short() -> None:
    assert README.count("\n") <= 200


def test_the_recipe_in_it_is_the_recipe() -> None:
    assert (bundled.shelf("recipes") / "glyphs" / "clip_tiny.yaml").read_text() in blocks("yaml")


def test_the_tree_in_it_names_what_is_there() -> None:
    (tree,) = [block for block in blocks("") if "data_tools/" in block]
    for line in tree.splitlines():
        name = line.split()[0]
        assert (ROOT / name).exists() or (ROOT / "mmcl" / name).exists(), name
    listed = {line.split()[0].rstrip("/") for line in tree.splitlines()}
    leaves = {"__init__.py", "__main__.py", "py.typed", "__pycache__", "report.html.jinja", "page.css"}
    small = {
        "errors.py",
        "files.py",
        "types.py",
        "registry.py",
        "bundled.py",
        "compare.py",
        "dry_run.py",
        "eval_page",
        "marks.py",
        "optimizers.py",
        "plots.py",
        "schedules.py",
        "specs.py",
        "stops.py",
        "api.py",
    }
    assert {path.name for path in (ROOT / "mmcl").iterdir()} - leaves - small <= listed


def test_the_python_in_it_runs(
    glyphs: Any, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As written, but for the length of the run and where the data lies."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "glyphs").symlink_to(glyphs.root)
    monkeypatch.chdir(tmp_path)
    code = blocks("python")[0]
    assert code.count("\n") <= 14
    assert "training.samples=10_000" in code
    code = code.replace('"training.samples=10_000"', '"training.samples=256", "tasks=[]"')
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "samples_seen" in printed
    assert "LossOutput" not in printed


def test_a_loss_of_ones_own_is_a_recipe_line() -> None:
    """The example of README and docs/adding.md, registered as it stands there."""
    code = next(block for block in blocks("python") if "class Poly1" in block)
    assert code in (ROOT / "docs" / "adding.md").read_text()
    import torch
    from pydantic import Field

    import mmcl
    from mmcl.losses import CONTRASTS, Contrast
    from mmcl.losses.statistics import LogSumExp

    names: dict[str, Any] = {"CONTRASTS": CONTRASTS, "Contrast": Contrast, "LogSumExp": LogSumExp, "Field": Field}
    exec("from typing import Annotated\nimport torch\n" + code, names)
    try:
        x = {m: torch.eye(4) for m in ("text", "image", "audio")}
        term = {"score": "gram", "anchor": "text", "temperature": 0.5}
        losses = [mmcl.objective({**term, "contrast": c})(x).total for c in ("softmax", "poly1")]
        assert losses[1] > losses[0]
    finally:
        del CONTRASTS.classes["poly1"], CONTRASTS._specs["poly1"]
