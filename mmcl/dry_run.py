"""Everything that a run would stumble over, and its plan, without beginning it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mmcl import distributed
from mmcl.data.index import stored_count
from mmcl.data.remote import is_remote
from mmcl.data.shards import Listed, find_shards, is_pipe
from mmcl.errors import MmclError
from mmcl.losses import Objective
from mmcl.model import MultiTower
from mmcl.recipe import Recipe, load_recipe
from mmcl.runs import Run, build_tower, check_free
from mmcl.tasks import Task, load_task
from mmcl.towers import Tower
from mmcl.training import checks
from mmcl.training.devices import check_precision
from mmcl.training.loop import make_stream
from mmcl.training.plan import Plan, make_plan
from mmcl.training.tracking import check_installed
from mmcl.training.validation import Validation
from mmcl.workflow import check_best, check_task


@dataclass
class DryRun:
    """What came of it."""

    errors: list[str] = field(default_factory=list)
    """What would stop the run before its first step."""
    unchecked: list[str] = field(default_factory=list)
    """What could not be checked here."""
    plan: Plan | None = None
    """None where a tower cannot be built."""

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Take up what is wrong, or what the hub does not answer, and go on."""
        try:
            yield
        except MmclError as error:
            said = " ".join(str(error).split())
            (self.unchecked if _unanswered(error) else self.errors).append(said)


def dry_run(recipe: Recipe | str | Path, *overrides: str, resume: bool = False) -> DryRun:
    """Check all that a run would, and plan it; no weights are read and no run folder is made.

    An index of a shard that has none is made, as by any command that reads shards.

    Args:
        recipe: a recipe, a path to one, or a name as `mmcl recipes` lists it.
        overrides: ``key.path=value``, where the recipe is given by its name.
        resume: as a run would be told.

    Raises:
        MmclError: the recipe itself is wrong.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    found, processes = DryRun(), _processes(recipe)
    _look_at_tasks(recipe, found)
    with found.looking():
        _look_at_folder(recipe, resume)
    with found.looking():
        check_installed(recipe.training.trackers)
    if recipe.training.mirror is not None:
        found.unchecked.append("that training.mirror can be written, and holds no other run")
    with found.looking():
        check_precision(recipe.training.precision, "gpu" if torch.accelerator.is_available() else "cpu")
    if distributed.launched()[1] > 1:
        with found.looking():
            checks.check_count(recipe, distributed.launched()[1])
    elif processes > 1:
        found.unchecked.append(f"that it is started with the {processes} processes that training.processes asks for")
    towers = _towers(recipe, found, weights=not (resume and any(Run(Path(recipe.run)).checkpoints.glob("step-*"))))
    whole = towers.keys() == recipe.towers.keys()
    model = MultiTower(towers, recipe.dim)
    if whole:
        with found.looking():
            checks.check_learning(model)
        with found.looking():
            checks.check_copies(recipe, model)
        with found.looking():
            checks.check_mixing(recipe, model, processes)
    epoch = _look_at_data(recipe, model if whole else None, found)
    validation = None
    if whole and recipe.data.held_out:
        with found.looking():
            validation = Validation(recipe, model).samples
    if towers:
        with torch.device("meta"):
            objective = Objective(recipe.objective, recipe.dim)
        with found.looking():
            found.plan = make_plan(recipe, model, objective, processes, epoch, validation)
    return found


def _processes(recipe: Recipe) -> int:
    """Of the launcher, or those that the recipe asks for, or one."""
    launched = distributed.launched()[1]
    return launched if launched > 1 else recipe.training.processes or 1


def _look_at_tasks(recipe: Recipe, found: DryRun) -> None:
    tasks: list[Task] = []
    for name in recipe.tasks:
        with found.looking():
            tasks.append(load_task(name))
    for task in tasks:
        with found.looking():
            check_task(task, tasks, recipe)
    if len(tasks) == len(recipe.tasks):
        with found.looking():
            check_best(tasks, recipe)


def _look_at_folder(recipe: Recipe, resume: bool) -> None:
    """See that the run's folder is free and can be written."""
    run = Run(Path(recipe.run))
    check_free(run, recipe, resume)
    there = next(path for path in (run.path, *run.path.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK):
        raise MmclError(f"run: {run.path} cannot be written, since {there} is read-only for this user.")


def _towers(recipe: Recipe, found: DryRun, weights: bool) -> dict[str, Tower]:
    """Those that can be built, on the meta device."""
    towers: dict[str, Tower] = {}
    for modality, part in recipe.towers.items():
        with found.looking():
            with torch.device("meta"):
                towers[modality] = build_tower(recipe, modality, load=False)
            if weights and (unknown := part.look(towers[modality], modality)) is not None:
                found.unchecked.append(unknown)
    return towers


def _look_at_data(recipe: Recipe, model: MultiTower | None, found: DryRun) -> int | None:
    """See that all shards are there, and that they have what the recipe reads; samples of an epoch, where known."""
    listed: list[Listed] = []
    before = len(found.errors)
    for source in recipe.data.sources:
        with found.looking():
            listed += find_shards(source.shards)
    if len(found.errors) > before:
        return None
    if model is not None:
        with found.looking():
            make_stream(recipe, model)
    counts = [_count(shard) for shard in listed]
    return None if None in counts else sum(count for count in counts if count is not None)


def _count(shard: Listed) -> int | None:
    """Samples of a shard, where something says it without reading the shard."""
    if shard.samples is not None or is_remote(shard.url) or is_pipe(shard.url):
        return shard.samples
    return stored_count(Path(shard.url))


def _unanswered(error: BaseException) -> bool:
    """Whether an error comes of a hub that could not be reached."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    seen: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in seen:
        if isinstance(one, LocalEntryNotFoundError | OfflineModeIsEnabled):
            return True
        seen.append(one)
        one = one.__cause__ or one.__context__
    return False
