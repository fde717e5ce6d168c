"""Rows of metrics.jsonl to other trackers as well, through accelerate's."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from mmcl.errors import MmclError
from mmcl.overrides import flat
from mmcl.recipe import Recipe
from mmcl.runs import Run, identity
from mmcl.training.progress import Metrics, Row
from mmcl.training.saving import writing

PROJECT = "mmcl"
Say = Callable[[str], None]


def check_installed(names: Sequence[str]) -> None:
    """Refuse trackers whose packages are not here, before anything begins.

    Raises:
        MmclError: one is missing.
    """
    found = {name: find_spec(name) for name in names}
    missing = [name for name, spec in found.items() if spec is None or spec.origin is None]  # wandb leaves a folder
    if missing:
        extras = ",".join(missing)
        raise MmclError(
            f"training.trackers: {', '.join(missing)} is not installed: pip install 'mmcl[{extras}]', or leave it out."
        )


class Tracked(Metrics):
    """metrics.jsonl, and the same numbers under the same names at the same steps to trackers.

    A tracker that fails is left alone from then on, with one warning: the run goes on.

    Args:
        path: of metrics.jsonl.
        resume_step: up to which its rows stay.
        trackers: that have begun.
        say: takes the warning.
    """

    def __init__(self, path: Path, resume_step: int, trackers: Mapping[str, GeneralTracker], say: Say) -> None:
        super().__init__(path, resume_step)
        self.trackers, self.say = dict(trackers), say
        self._step = resume_step

    def write(self, row: Row) -> None:
        """One row."""
        super().write(row)
        self._step = int(row["step"])
        self._log({name: value for name, value in row.items() if name != "step"})

    def extend(self, row: Row) -> None:
        """Add numbers to the row of a step."""
        super().extend(row)
        self._log({name: value for name, value in row.items() if name not in ("step", "samples")})

    def finish(self) -> None:
        """Let all trackers write what they still hold."""
        self._each(lambda tracker: tracker.finish())

    def _log(self, numbers: Row) -> None:
        self._each(lambda tracker: tracker.log(numbers, step=self._step))

    def _each(self, do: Callable[[GeneralTracker], Any]) -> None:
        for name, tracker in list(self.trackers.items()):
            try:
                with redirect_stdout(sys.stderr):
                    do(tracker)
            except Exception as error:  # whatever a server or a library does, the run is worth more
                del self.trackers[name]
                self.say(
                    f"training.trackers: {name} failed at step {self._step} and gets no more rows "
                    f"({type(error).__name__}: {error}); metrics.jsonl has all of them"
                )


@contextmanager
def tracked(recipe: Recipe, run: Run, step: int, say: Say) -> Iterator[Tracked]:
    """The metrics of a run, with its trackers begun; on the process that writes them.

    Args:
        recipe: what it runs.
        run: its folder.
        step: from which it goes on; 0 where it begins.
        say: takes warnings.

    Raises:
        MmclError: a tracker does not begin.
    """
    trackers = {name: _begun(name, recipe, run, step) for name in recipe.training.trackers}
    with writing(run, step):
        metrics = Tracked(run.metrics, step, trackers, say)
    try:
        yield metrics
    finally:
        metrics.finish()


def _begun(name: str, recipe: Recipe, run: Run, step: int) -> GeneralTracker:
    who = run.path.resolve().name
    project = os.environ.get("WANDB_PROJECT", PROJECT) if name == "wandb" else PROJECT
    said: dict[str, dict[str, Any]] = {
        "tensorboard": {"logging_dir": str(run.path), "purge_step": step + 1 if step else None},
        "wandb": {"name": who, "id": identity(run), "resume": "allow", "dir": str(run.path)},
        "trackio": {"name": f"{who}-{identity(run)}", "resume": "allow", "embed": False},
    }
    try:
        tracker = LOGGER_TYPE_TO_CLASS[name]("tensorboard" if name == "tensorboard" else project, **said[name])
        with redirect_stdout(sys.stderr):  # what libraries say is no result
            tracker.start()
            if not (step and name == "tensorboard"):  # which would write it once more
                tracker.store_init_configuration(settings(recipe))
    except Exception as error:
        raise MmclError(
            f"training.trackers: {name} does not begin ({type(error).__name__}: {error}). Mend that, or leave it out; "
            "without a server wandb runs with WANDB_MODE=offline."
        ) from None
    return tracker


def settings(recipe: Recipe) -> dict[str, str | int | float | bool]:
    """A recipe as trackers take it: one value a path of keys, lists as text."""
    ends = flat(recipe.model_dump(mode="json"))
    return {path: end if isinstance(end, bool | int | float | str) else str(end) for path, end in ends}
