"""What the tests of the data tools share."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mmcl import bundled
from mmcl.data import read_samples


@pytest.fixture(scope="session")
def tool() -> Callable[[str], SimpleNamespace]:
    """A data tool by its name."""
    return lambda name: SimpleNamespace(**runpy.run_path(str(bundled.shelf("data_tools") / f"{name}.py")))


@pytest.fixture(scope="session")
def written() -> Callable[[Path], tuple[dict[str, dict[str, bytes]], dict[str, int], list[dict[str, Any]]]]:
    """What a tool has written: key -> members, counts, bad samples."""

    def read(out: Path) -> tuple[dict[str, dict[str, bytes]], dict[str, int], list[dict[str, Any]]]:
        samples = {sample.pop("__key__"): sample for sample in read_samples(out)}
        lines = (out / "bad_samples.jsonl").read_text().splitlines()
        return samples, json.loads((out / "counts.json").read_text()), [json.loads(line) for line in lines]

    return read
