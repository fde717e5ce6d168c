"""The numbers of a task are the same on any number of threads, as two processes have fewer each than one."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mmcl.data import write_shards
from mmcl.evaluators.few_shot import fit_from
from mmcl.evaluators.labelled import Labelled
from mmcl.evaluators.probing import SMALL, few_threads
from mmcl.tasks import load_task
from mmcl.tasks.ready import ReadyVectors
from mmcl.tasks.result import rounded

COUNT, DIM = 700, 48
TASK = """
title: a task
version: 1
evaluator: {evaluator}
data: {{shards: '{shards}', modalities: {{text: txt, image: png}}}}
"""


def ready(folder: Path) -> ReadyVectors:
    """Vectors of texts and pictures, each near to its partner."""
    rng = np.random.default_rng(0)
    text = rng.normal(size=(COUNT, DIM)).astype(np.float32)
    image = text + 1.5 * rng.normal(size=(COUNT, DIM)).astype(np.float32)
    for name, array in (("text_emb", text), ("img_emb", image)):
        (folder / name).mkdir(parents=True)
        np.save(folder / name / f"{name}_0.npy", array)
    (folder / "metadata").mkdir()
    pq.write_table(pa.table({"key": [f"{i:05d}" for i in range(COUNT)]}), folder / "metadata" / "metadata_0.parquet")
    return ReadyVectors(folder)


def test_numbers_are_the_same_on_any_number_of_threads(tmp_path: Path) -> None:
    samples = [{"__key__": f"{i:05d}", "txt": f"text {i}", "png": b"x"} for i in range(COUNT)]
    write_shards(samples, tmp_path / "shards", 1000)
    vectors, before, told = ready(tmp_path / "vectors"), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for name in ("geometry", "retrieval"):
                path = tmp_path / f"{name}.yaml"
                evaluator = f"{{name: {name}, modalities: [text, image]}}"
                path.write_text(TASK.format(evaluator=evaluator, shards=tmp_path / "shards"))
                found = load_task(str(path)).measure(None, with_intervals=True, ready=vectors)
                told.append(json.dumps(found.result.to_json()))
    finally:
        torch.set_num_threads(before)
    assert told[0] == told[2] == told[4]
    assert told[1] == told[3] == told[5]


def test_digits_that_are_told() -> None:
    assert rounded({"a": [1 / 3, (2, None)], "b": 123456.78901234567, "c": True, "d": "x"}) == {
        "a": [0.3333333333, [2, None]],
        "b": 123456.789,
        "c": True,
        "d": "x",
    }
    assert math.isnan(rounded(math.nan))
    assert rounded(-math.inf) == -math.inf


def test_small_problems_are_solved_on_one_thread_and_the_others_come_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with few_threads(SMALL - 1):
            assert torch.get_num_threads() == 1
        with few_threads(SMALL):
            assert torch.get_num_threads() == 2
        fit_from(Labelled(torch.eye(3), torch.arange(3), torch.arange(3), list("abc")), torch.eye(3), 0.1, 10.0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
