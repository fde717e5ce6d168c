"""Runs to export, trained once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mmcl import workflow
from mmcl.recipe import Recipe

AS_CLIP = (
    "towers.image.pool=tok",
    "towers.image.activation=gelu",
    "towers.text.activation=gelu",
    "towers.text.causal=true",
)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Recipe], task: Path) -> Path:
    """A tiny CLIP: what every format can express."""
    return workflow.train(tiny(tmp_path_factory.mktemp("exports") / "tiny_clip", *AS_CLIP, f"tasks=[{task}]"))
