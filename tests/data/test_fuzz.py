"""Damaged files end in reasons: a few hundred of the cases of benchmarks/fuzz.py."""

import runpy
from pathlib import Path

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "fuzz.py"))


@pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged files
def test_damaged_files_end_in_reasons(tmp_path: Path) -> None:
    kinds = SCRIPT["files"]()
    outcomes = {SCRIPT["case"](seed, kinds, tmp_path) for seed in range(300)}
    assert outcomes == {"damaged, told", "fine", "no tar"}
    assert not list(tmp_path.iterdir())
