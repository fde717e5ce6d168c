"""Twenty steps of the recipe, from a fixed seed, are what they were.

A change that must not alter numbers leaves the file alone; one that must shows the old and the new in its commit:

    MMCL_WRITE_GOLDEN=1 pytest tests/training/test_golden.py
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mmcl import workflow
from mmcl.recipe import Recipe

GOLDEN = Path(__file__).parents[1] / "golden" / "clip_tiny.json"


@pytest.mark.slow
def test_twenty_steps_of_the_recipe_are_what_they_were(tmp_path: Path, whole: Callable[..., Recipe]) -> None:
    samples = 20 * whole(tmp_path).data.batch_size
    recipe = whole(tmp_path / "run", f"training.samples={samples}", "training.log_every_steps=1")
    run = workflow.train(recipe)
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    if os.environ.get("MMCL_WRITE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(losses, indent=1) + "\n")
    assert losses == pytest.approx(json.loads(GOLDEN.read_text()), rel=2e-3)
    assert len(losses) == 20
