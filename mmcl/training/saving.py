"""When a run leaves a checkpoint, and which ones stay."""

import errno
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmcl import checkpoints, distributed
from mmcl.errors import MmclError, did_you_mean
from mmcl.files import write_json
from mmcl.runs import Run
from mmcl.specs import TrainingSpec
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

    @property
    def newest(self) -> str:
        """What is left of the run, in words."""
        return newest(self.run)

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
        problem: MmclError | None = None
        if distributed.rank() == 0:
            try:
                with writing(self.run, step):
                    checkpoints.write(self.run.checkpoints, step, files, known, self.spec.keep_checkpoints, best)
            except MmclError as error:
                problem = error
        problem = distributed.collect(problem)[0]
        if problem is not None:
            raise problem
        self.number, self.last = self.number + 1, time.monotonic()


class Best:
    """The best of a run's evaluations so far.

    Args:
        run: where `checkpoints/best.json` says which it is.
        spec: how it is found.
        rows: of the run's metrics so far.
    """

    def __init__(self, run: Run, spec: TrainingSpec, rows: list[Row]) -> None:
        self.run, self.spec = run, spec.best
        self.step: int | None = None
        self.value = 0.0
        self.without = 0
        """Evaluations since then."""
        if self.spec is not None:
            for row in rows:
                if self.spec.metric in row:
                    self._meet(int(row["step"]), row[self.spec.metric])

    def meet(self, step: int, results: Mapping[str, float]) -> None:
        """Take up an evaluation.

        Raises:
            MmclError: the number is not among its results.
        """
        if self.spec is None:
            return
        if self.spec.metric not in results:
            near = did_you_mean(self.spec.metric, results)
            raise MmclError(
                f"training.best.metric: the tasks give no {self.spec.metric!r}{near} They give: {', '.join(results)}. "
                f"The run goes on from here with another one: mmcl train {self.run.path} training.best=... --resume"
            )
        if self._meet(step, results[self.spec.metric]) and distributed.rank() == 0:
            with writing(self.run, step):
                found = {"step": step, "metric": self.spec.metric, "value": self.value}
                write_json(self.run.best, found)

    def _meet(self, step: int, value: float) -> bool:
        """Whether it is the best."""
        assert self.spec is not None
        better = self.step is None or (value < self.value if self.spec.lower else value > self.value)
        self.without = 0 if better else self.without + 1
        if better:
            self.step, self.value = step, value
        return better

    @property
    def settled(self) -> bool:
        """Whether the recipe's patience is at its end."""
        patience = None if self.spec is None else self.spec.patience
        return patience is not None and self.without >= patience


@contextmanager
def writing(run: Run, step: int) -> Iterator[None]:
    """What writes into a run's folder.

    Raises:
        MmclError: the disk is full, the folder cannot be written, or the like.
    """
    try:
        yield
    except OSError as error:
        where = Path(error.filename) if isinstance(error.filename, str) else run.path
        what = "free some space there" if error.errno in FULL else "make it writable"
        raise MmclError(
            f"step {step}: {where} cannot be written: {error.strerror or error}. {newest(run)}; {what}, and go on "
            f"with: mmcl train {run.path} --resume"
        ) from None


def newest(run: Run) -> str:
    """What is left of a run, in words."""
    found = checkpoints.listed(run.checkpoints)
    return f"The newest checkpoint is {found[-1].name}" if found else "There is no checkpoint yet"


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_due(step: int, every: int | None) -> bool:
    """Whether a step is one of every so many."""
    return every is not None and step % every == 0
