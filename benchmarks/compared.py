"""Where a run lies, what its processes told of it, and what is not the same of two runs, bit for bit."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from kills import lines

from mmcl import checkpoints

CLOCK = ("samples_per_second", "seconds_per_step", "seconds")


@dataclass(frozen=True)
class Place:
    """Where a run lies: its recipe, its folder, what its processes said."""

    folder: Path

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder / "run"

    def step(self) -> int:
        """Of the newest checkpoint; 0 where there is none."""
        found = checkpoints.latest(self.run / "checkpoints")
        return 0 if found is None else found.state["step"]

    def begun(self, number: int) -> int:
        """Steps that a life began with its first process."""
        return len(list(lines(self.folder / f"told-{number}-0.jsonl")))


def steps(place: Place) -> dict[int, dict[int, str]]:
    """Step -> place in the global batch -> key; every life that did a step must have told the same."""
    found: dict[int, dict[int, str]] = {}
    for path in sorted(place.folder.glob("told-*.jsonl")):
        for step, offset, keys in lines(path):
            for row, key in enumerate(keys, offset):
                before = found.setdefault(step, {}).setdefault(row, key)
                assert before == key, f"{path}: row {row} of step {step} is {key}, where another life had {before}"
    return found


def rows(place: Place) -> list[dict[str, Any]]:
    """metrics.jsonl without the clock."""
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in lines(place.run / "metrics.jsonl")]


def differences(one: Place, other: Place, ends: int) -> list[str]:
    """What is not the same of two runs that came to their last step, bit for bit."""
    found = [checkpoints.latest(place.run / "checkpoints") for place in (one, other)]
    assert all(checkpoint is not None and checkpoint.state["step"] == ends for checkpoint in found), found
    told = []
    for file in ("weights", "optimizer", "rng"):
        a, b = (checkpoint.tensors(file) for checkpoint in found if checkpoint is not None)
        assert a
        told += [f"{file}: {name} is in one" for name in sorted(a.keys() ^ b.keys())]
        told += [f"{file}: {name}" for name in sorted(a.keys() & b.keys()) if bits(a[name]) != bits(b[name])]
    states = [checkpoint.state for checkpoint in found if checkpoint is not None]
    for state in (*states, *(state["window"] for state in states)):
        del state["seconds"]
    told += [f"state: {key}" for key in states[0] if states[0][key] != states[1].get(key)]
    first, second = rows(one), rows(other)
    assert [row["step"] for row in first] == list(range(1, ends + 1))
    told += [f"metrics.jsonl: {len(second)} rows"] if len(second) != len(first) else []
    told += [f"metrics.jsonl: step {a['step']}" for a, b in zip(first, second, strict=False) if a != b]
    results = [json.loads((place.run / "results.json").read_text()) for place in (one, other)]
    for result in results:
        del result["train"]["seconds"]
    told += ["results.json"] if results[0] != results[1] else []
    bad = [sorted((place.run / "bad_samples.jsonl").read_text().splitlines()) for place in (one, other)]
    assert bad[0], "no sample was bad"
    told += ["bad_samples.jsonl"] if bad[0] != bad[1] else []
    return told + (["samples of steps"] if steps(one) != steps(other) else [])


def bits(tensor: torch.Tensor) -> tuple[Any, ...]:
    """All of a tensor."""
    return tensor.dtype, tensor.shape, tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
