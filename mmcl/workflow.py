"""The main job, put together: a recipe in, a trained, measured and reported run out."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from mmcl import checkpoints, distributed
from mmcl.errors import MmclError, StoppedError, did_you_mean
from mmcl.files import write_json
from mmcl.model import Encoder
from mmcl.recipe import Recipe, load_recipe
from mmcl.report import write_report
from mmcl.runs import Run, changes, check_free, create, holding
from mmcl.stops import Stops
from mmcl.tasks import Task, load_task
from mmcl.training import Trainer, validation
from mmcl.training.mirror import fetch, mirrored
from mmcl.training.saving import first_process, writing


class Measurement:
    """Measures tasks, and remembers the examples of the last time."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = tasks
        self.examples: dict[str, list[dict[str, Any]]] = {}

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """``task/metric`` -> number."""
        numbers: dict[str, float] = {}
        for task in self.tasks:
            measured = task.measure(encoder)
            numbers |= {f"{task.name}/{metric}": value for metric, value in measured.result.items()}
            self.examples[task.name] = measured.examples
        return numbers


def train(recipe: Recipe | str | Path, *overrides: str, resume: bool = False, stops: Stops | None = None) -> Path:
    """Train a recipe, measure its tasks and write the report.

    Args:
        recipe: a recipe, a path to one, or a name as `mmcl recipes` lists it.
        overrides: ``key.path=value``, where the recipe is given by its name.
        resume: go on from the newest whole checkpoint of the run folder.
        stops: what hears signals already; unless told, they are heard once the towers are built.

    Returns:
        The run folder.

    Raises:
        MmclError: something in the recipe is wrong, shards are missing, or the folder holds a run already.
        StoppedError: a signal has ended the run, and all is saved.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    elif overrides:
        raise MmclError("overrides go with the name of a recipe; this recipe is complete already.")
    measurement = Measurement([load_task(name) for name in recipe.tasks])
    for task in measurement.tasks:
        check_task(task, measurement.tasks, recipe)
    check_best(measurement.tasks, recipe)
    run, mirror = Run(Path(recipe.run)), recipe.training.mirror
    fetched = None
    if mirror is not None:
        with writing(run, 0):
            fetched = fetch(mirror, run, partial(check_free, recipe=recipe, resume=True), resume)
    there, anew = checkpoints.listed(run.checkpoints), check_free(run, recipe, resume)
    trainer = Trainer(recipe, run, measurement, resume)
    trainer.notes += [told for told in distributed.collect(fetched) if told is not None]  # by one of each machine
    if not trainer.begins:
        trainer.notes += changes(run.recipe(), recipe)
    if anew and not resume:
        trainer.notes.append(
            f"{run.path} holds a run without a checkpoint or a row of metrics; this one starts anew there"
        )
    with ExitStack() as stack:
        stops = stops or stack.enter_context(Stops())
        with first_process(run, trainer.step) as first:
            if first:
                _begin(stack, trainer, there)
        with _reporting(run, measurement.tasks):
            numbers = trainer.train(stops)
        with first_process(run, trainer.step) as first:
            if first:
                _finish(run, numbers, measurement)
    return run.path


def _begin(stack: ExitStack, trainer: Trainer, there: Sequence[Path]) -> None:
    """Make a run's folder, and hold it.

    Args:
        stack: as long as which it is held, and mirrored.
        trainer: what trains there.
        there: checkpoints that it has seen there.
    """
    run, mirror = trainer.run, trainer.recipe.training.mirror
    run.path.mkdir(parents=True, exist_ok=True)
    stack.enter_context(holding(run))
    if checkpoints.listed(run.checkpoints) != there:
        raise MmclError(f"{run.path} was trained by another process while this one began. Begin again, with --resume.")
    create(run, trainer.recipe, trainer.model, trainer.begins)
    if mirror is not None:
        trainer.saving.mirror = stack.enter_context(mirrored(mirror, run))


@contextmanager
def _reporting(run: Run, tasks: Sequence[Task]) -> Iterator[None]:
    """Write a report where the run ends early, too."""
    try:
        yield
    except (MmclError, StoppedError):
        if distributed.rank() == 0:
            with suppress(Exception):  # what ended the run is worth more, and may be why this fails
                _report(run, tasks)
        raise


def _finish(run: Run, numbers: dict[str, float], measurement: Measurement) -> None:
    """Write what the run came to."""
    write_json(run.results, nest(numbers, {task.name: task.key for task in measurement.tasks}))
    write_json(run.examples, measurement.examples)
    _report(run, measurement.tasks)


def report(path: Path) -> Path:
    """Write the report of a run anew, from what lies in its folder: of one that was killed, say.

    Raises:
        MmclError: this is no run folder.
    """
    run = Run(path)
    return _report(run, [load_task(name) for name in run.recipe().tasks])


def _report(run: Run, tasks: Sequence[Task]) -> Path:
    return write_report(run, {task.name: task.spec.title for task in tasks})


def nest(numbers: dict[str, float], keys: dict[str, str]) -> dict[str, Any]:
    """``task/metric`` -> number, as nested objects; tasks under their keys.

    >>> nest({"glyphs/retrieval/n": 5, "train/seconds": 2}, {"glyphs/retrieval": "retrieval"})
    {'retrieval': {'n': 5}, 'train': {'seconds': 2}}
    >>> nest({"validation/loss": 3, "validation/loss/clip": 2}, {})
    {'validation': {'loss': 3, 'loss/clip': 2}}
    """
    nested: dict[str, Any] = {}
    for name, value in numbers.items():
        task = max((t for t in keys if name.startswith(f"{t}/")), key=len, default=None)
        parents = [] if task is None else [keys[task]]
        *more, last = name.removeprefix(f"{task}/").split("/", -1 if task else 1)
        place = nested
        for parent in [*parents, *more]:
            place = place.setdefault(parent, {})
        place[last] = value
    return nested


def check_task(task: Task, tasks: Sequence[Task], recipe: Recipe) -> None:
    """Refuse, before anything is trained, a task that could not be measured or whose numbers would hide others'.

    Args:
        task: one of them.
        tasks: all that the recipe names.
        recipe: whose they are.
    """
    task.check(list(recipe.towers))
    if [one.key for one in tasks].count(task.key) > 1 or task.key in ("train", "validation"):
        raise MmclError(f"tasks: {task.name}: its key {task.key!r} is taken; its numbers would hide others.")
    _ = task.items  # texts and labels that do not fit are told now, and not at the first evaluation


def check_best(tasks: Sequence[Task], recipe: Recipe) -> None:
    """Refuse to keep the best checkpoint by a number that no task gives, or by its worst values."""
    best = recipe.training.best
    if best is None:
        return
    known = {f"{task.name}/{name}": larger for task in tasks for name, larger in task.evaluator.metrics().items()}
    known |= dict.fromkeys(validation.metrics(recipe), False)
    if best.metric not in known:
        if best.metric.startswith("validation/") and not recipe.data.held_out:
            raise MmclError(f"training.best.metric: {best.metric} needs held-out samples: say data.validation=SHARDS.")
        near = did_you_mean(best.metric, known)
        raise MmclError(
            f"training.best.metric: no task of the recipe gives {best.metric!r}{near} They and data.validation give, "
            f"in each evaluation: {', '.join(known) or 'nothing'}."
        )
    if known[best.metric] == best.lower:
        better, said = ("smaller", "true") if not best.lower else ("larger", "false")
        raise MmclError(
            f"training.best: of {best.metric} the {better} is better: say {{metric: {best.metric}, lower: {said}}}."
        )
