"""Several models on several tasks, side by side."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import PartialState

from mmcl.embed import weights_digest
from mmcl.errors import MissingDataError, MmclError
from mmcl.opening import load
from mmcl.tasks import Measured, ReadyVectors, Result, Task, VectorStore, expand_suites, load_task


class Measurement(NamedTuple):
    """One model on one task."""

    model: str
    task: Task
    measured: Measured

    @property
    def result(self) -> Result:
        """Its numbers."""
        return self.measured.result


def load_tasks(
    names: Sequence[str], data: str | None = None, skip_missing: bool = False, say: Callable[[str], None] = print
) -> list[Task]:
    """Tasks, with those of suites; their texts and labels are read, so that what is wrong is told before any model is.

    Args:
        names: of tasks and suites, or paths of files.
        data: the folder that the shards of tasks lie in.
        skip_missing: whether tasks whose data are not there are left out, and told.
        say: tells them.

    Raises:
        MmclError: there is no such task, or its data are missing or wrong.
    """
    tasks, missing = [], []
    for name in expand_suites(names):
        try:
            tasks.append(load_task(name, data))
        except MissingDataError:
            if not skip_missing:
                raise
            missing.append(name)
    if missing:
        say(f"note: the data of {len(missing)} tasks are not there, and these are left out: {', '.join(missing)}.")
    if not tasks:
        raise MmclError(f"no task is left of {', '.join(names)}.")
    for task in tasks:
        _ = task.items
    return tasks


def compare(
    models: Sequence[str],
    tasks: Sequence[Task],
    *,
    weights: str | None = None,
    embeddings: Path | None = None,
    store: VectorStore | None = None,
    intervals: bool = True,
    say: Callable[[str], None] = lambda told: None,
) -> Iterator[Measurement]:
    """Measure every model on every task, one after the other.

    Args:
        models: what `mmcl.load` takes.
        tasks: what is measured.
        weights: of a model of a library.
        embeddings: a folder of vectors that are taken instead of the models'; without a model they are measured alone.
        store: keeps vectors from one task to the next.
        intervals: whether bootstrap intervals are wanted.
        say: tells what is being measured.

    Raises:
        MmclError: a model cannot be opened, lacks a modality, or did not make the vectors that are given.
    """
    device = PartialState(cpu=not torch.accelerator.is_available()).device  # processes of a launcher share the work
    ready = None if embeddings is None else ReadyVectors(embeddings)
    lie = () if ready is None else ready.modalities
    if ready is not None and len(models) > 1:
        raise MmclError(f"{embeddings}: vectors are of one model, and {len(models)} are named.")
    for model in models or [str(embeddings)]:
        encoder = load(model, device, weights) if models else None
        if encoder and ready and ready.model not in (None, weights_digest(encoder)):
            raise MmclError(f"{embeddings}: these vectors were not made by {model}; leave one of them out.")
        for task in tasks:
            task.check(encoder.modalities if encoder else (), lie)
        for task in tasks:
            say(f"{model} on {task.name}")
            yield Measurement(model, task, task.measure(encoder, store, intervals, ready))
