"""When a run leaves a checkpoint, and which ones stay."""

import errno
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmcl import checkpoints, distributed
from mmcl.errors import MmclError, did_you_mean
from mmcl.files import sync, write_json
from mmcl.runs import Run
from mmcl.specs import TrainingSpec
from mmcl.training.mirror import Mirror
from mmcl.training.progress import Row
from mmcl.training.state import Files


class Saving:
    """The checkpoints of a run.

    Args:
        run: where they lie.
        spec: how often they are written, and which stay.
    """

    def __init__(self, run: Run, spec: TrainingSpec) -> None:
        self.run, self.spec = run, spec
        self.number, self.last = 0, time.monotonic()
        self.mirror: Mirror | None = None
        """On the first process, where the recipe wants one."""

    def due(self, step: int, before: int, samples: int) -> bool:
        """Whether the recipe wants a checkpoint after a step, by which the samples seen went from `before` on."""
        steps, every = self.spec.checkpoint_every_steps, self.spec.checkpoint_every_samples
        best = self.spec.best is not None and is_due(step, self.spec.eval_every_steps)
        return is_due(step, steps) or best or (every is not None and before // every < samples // every)

    def wanted(self) -> int:
        """The number of a checkpoint that this process wants because time has passed; 0 unless it does."""
        minutes = self.spec.checkpoint_every_minutes
        return self.number + 1 if minutes is not None and time.monotonic() - self.last >= 60 * minutes else 0

    def agreed(self, number: int) -> bool:
        """Whether all processes want a checkpoint, which was not written since they said so."""
        return number == self.number + 1

    def write(self, step: int, files: Files, known: Mapping[str, Any], best: int | None) -> None:
        """Write one; a collective.

        Raises:
            MmclError: on every process, where it cannot be written.
        """
        with first_process(self.run, step) as first:
            if first:
                for path in (self.run.metrics, self.run.bad_samples, self.run.warnings):
                    if path.exists():  # a power cut leaves no checkpoint that is newer than its rows
                        sync(path)
                checkpoints.write(self.run.checkpoints, step, files, known, self.spec.keep_checkpoints, best)
                if self.mirror is not None:
                    self.mirror.due()
        self.number, self.last = self.number + 1, time.monotonic()


class Best:
    """The best of a run's evaluations so far.

    Args:
        run: where `checkpoints/best.json` says which it is.
        spec: how it is found.
        rows: of the run's metrics so far; the best one is among those whose checkpoint is still there.
    """

    def __init__(self, run: Run, spec: TrainingSpec, rows: list[Row]) -> None:
        self.run, self.spec, self.keep = run, spec.best, spec.keep_checkpoints
        self.step: int | None = None
        self.value = 0.0
        self.without = 0
        """Evaluations since then."""
        if self.spec is not None:
            there = [checkpoints.step_of(path) for path in checkpoints.listed(run.checkpoints)]
            there = distributed.collect(there)[0]
            for row in rows:
                if self.spec.metric in row and row["step"] in there:
                    self._meet(int(row["step"]), row[self.spec.metric])
                elif "evaluated" in row and self.step is not None:
                    self.without += 1
            self._write()
        else:
            with first_process(run, 0) as first:
                if first:
                    run.best.unlink(missing_ok=True)

    def meet(self, step: int, results: Mapping[str, float]) -> None:
        """Take up an evaluation.

        Raises:
            MmclError: the number is not among its results.
        """
        if self.spec is None:
            return
        # a validation loss that is not there was not finite
        if self.spec.metric not in results and not self.spec.metric.startswith("validation/"):
            near = did_you_mean(self.spec.metric, results)
            raise MmclError(
                f"training.best.metric: the tasks give no {self.spec.metric!r}{near} They give: {', '.join(results)}. "
                f"The run goes on from here with another one: mmcl train {self.run.path} training.best=... --resume"
            )
        if self._meet(step, results.get(self.spec.metric, math.nan)):
            self._write()

    def _meet(self, step: int, value: float) -> bool:
        """Whether it is the best."""
        assert self.spec is not None
        better = self.step is None or (value < self.value if self.spec.lower else value > self.value)
        better = better and math.isfinite(value)
        self.without = 0 if better else self.without + 1
        if better:
            self.step, self.value = step, value
        return better

    def _write(self) -> None:
        """Say which it is, and leave no other one in its place; a collective."""
        assert self.spec is not None
        with first_process(self.run, self.step or 0) as first:
            if first and self.step is None:
                self.run.best.unlink(missing_ok=True)
            elif first:
                write_json(self.run.best, {"step": self.step, "metric": self.spec.metric, "value": self.value})
                checkpoints.prune(self.run.checkpoints, self.keep, self.step)

    @property
    def settled(self) -> bool:
        """Whether the recipe's patience is at its end."""
        patience = None if self.spec is None else self.spec.patience
        return patience is not None and self.without >= patience


@contextmanager
def first_process(run: Run, step: int) -> Iterator[bool]:
    """What the first process alone does, to which it says True; a collective.

    Raises:
        MmclError: on every process, what went wrong on the first one, or what cannot be written there.
    """
    problem: MmclError | None = None
    try:
        with writing(run, step):
            yield distributed.rank() == 0
    except MmclError as error:
        problem = error
    problem = next((one for one in distributed.collect(problem) if one is not None), None)
    if problem is not None:
        raise problem


@contextmanager
def writing(run: Run, step: int) -> Iterator[None]:
    """What writes into a run's folder.

    Raises:
        MmclError: the disk is full, the folder cannot be written, or the like.
    """
    try:
        yield
    except OSError as error:
        named = error.filename2 or error.filename  # the second one is what a copy is written to
        where = Path(named) if isinstance(named, str) else run.path
        what = "free some space there" if error.errno in FULL else "make it writable"
        begun = checkpoints.listed(run.checkpoints)
        raise MmclError(
            f"{f'step {step}' if step else 'run'}: {where} cannot be written: {error.strerror or error}. "
            + (
                f"{newest(run)}; {what}, and go on with: mmcl train {run.path} --resume"
                if begun
                else f"{what.capitalize()}, or choose another folder with run=DIR."
            )
        ) from None


def newest(run: Run) -> str:
    """What is left of a run, in words."""
    found = checkpoints.listed(run.checkpoints)
    return f"The newest checkpoint is {found[-1].name}" if found else "There is no checkpoint yet"


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_due(step: int, every: int | None) -> bool:
    """Whether a step is one of every so many."""
    return every is not None and step % every == 0
