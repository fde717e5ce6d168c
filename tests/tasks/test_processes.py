"""Several real processes give every digit of one, also where samples and blocks do not divide."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmcl
from mmcl.tasks import load_task
from mmcl.tasks.columns import BLOCK
from tests.distributed_worker import run_processes
from tests.evaluators.clip_benchmark_folders import (
    RETRIEVAL,
    ZEROSHOT,
    encoded,
    pictures,
    write_folder,
    write_model,
    write_task,
)

COUNT = 3 * BLOCK + 17  # four blocks, of which the last is nearly empty
FEW = 100  # one block: the other process has none
NAMES = ["sea", "dog", "boat", "moon", "tree", "car", "hat"]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, and tasks over folders of shards of several sizes."""
    folder = tmp_path_factory.mktemp("tasks")
    write_model(folder)
    rng, shown = np.random.default_rng(0), [encoded(picture, "png") for picture in pictures(COUNT)]
    words = [" ".join(rng.choice(NAMES, 3)) for _ in range(3 * COUNT)]
    said = [words[3 * i : 3 * i + rng.integers(1, 4)] for i in range(COUNT)]
    said[-1] = [*words[:5], "the last one"]
    for name, count in (("captions", COUNT), ("few", FEW)):
        rows = zip(shown[:count], said[:count], strict=True)
        samples = [{"png": png, "txt": "\n".join(some).encode()} for png, some in rows]
        write_folder(folder / name, samples, 150, "retrieval")
        write_task(folder / name, RETRIEVAL, "txt")
    samples = [{"png": png, "cls": str(rng.integers(len(NAMES))).encode()} for png in shown]
    templates = [f"{{c}} number {number}" for number in range(BLOCK // len(NAMES) + 10)]  # several blocks of prompts
    write_folder(folder / "classes", samples, 150, classes=NAMES, templates=templates)
    write_task(folder / "classes", ZEROSHOT, "cls")
    return folder


def measured(folder: Path, names: list[str]) -> dict[str, Any]:
    """Numbers, intervals and vectors of some tasks."""
    encoder = mmcl.load(f"open_clip:{folder / 'small.json'}", "cpu", weights=folder / "weights.safetensors")
    found = {}
    for name in names:
        one = load_task(str(folder / f"{name}.yaml")).measure(encoder, with_intervals=True)
        found[name] = (json.dumps(one.result.to_json()), one.examples, dict(one.data.vectors), dict(one.data.owner))
    return found


NAMED = ["captions", "classes", "few"]


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_every_digit_is_that_of_one_process(tasks: Path, tmp_path: Path, processes: int) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = measured(tasks, NAMED)
    finally:
        torch.set_num_threads(threads)
    numbers = {name: json.loads(alone[name][0]) for name in NAMED}
    assert numbers["captions"]["n"] == numbers["classes"]["n"] == COUNT
    assert len(alone["captions"][2]["text"]) > COUNT
    assert 0 < numbers["captions"]["text_to_image/recall@10"] < 1
    assert 0 < numbers["classes"]["acc1"] < 1
    for rank, found in enumerate(run_processes(measured, processes, tmp_path / "processes", tasks, NAMED)):
        for name in NAMED:
            text, examples, vectors, owner = found[name]
            assert text == alone[name][0], (rank, name)
            assert examples == alone[name][1]
            for m, rows in vectors.items():
                assert torch.equal(rows, alone[name][2][m])
                assert torch.equal(owner[m], alone[name][3][m])


@pytest.mark.slow
def test_torchrun_prints_the_numbers_of_one_process_once(tasks: Path) -> None:
    words = ["-m", "mmcl", "eval", f"open_clip:{tasks / 'small.json'}", "--weights", tasks / "weights.safetensors"]
    words += ["--on", *(tasks / f"{name}.yaml" for name in NAMED), "--json", "--no-cache"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    printed = []
    for launcher in ([], ["-m", "torch.distributed.run", "--nproc-per-node", "2"]):
        command = [sys.executable, *launcher, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        printed.append(done.stdout)
    assert printed[0] == printed[1]
    said = json.loads(printed[0])
    assert len(said) == 3
    assert {one["n"] for one in said.values()} == {COUNT, FEW}
