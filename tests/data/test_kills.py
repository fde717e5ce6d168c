"""Processes that are killed at random instants change nothing: twenty of the trials of benchmarks/kills.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kills.py"


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--trials", "20", "--json", str(tmp_path / "kills.json")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout
    found = {record["figure"]: record["value"] for record in json.loads((tmp_path / "kills.json").read_text())}
    assert found["trials in which the sequence changed"] == 0
    assert found["kills"] >= 20
    assert found["kills after steps"] >= 5, "they came too early or too late to mean anything"
