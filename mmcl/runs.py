"""Run folders: what a run leaves behind, and how it is opened again.

recipe.yaml        fully resolved; files that it names are copied to assets/
environment.json   versions of the packages, the git commit, the machine, sizes of the towers
weights.json       what the towers began with: from where, and which tensors
metrics.jsonl      a row every few steps
bad_samples.jsonl  what could not be used
warnings.jsonl     signs of collapse, with advice
results.json       the tasks' numbers at the end
report.html        the same, to look at
checkpoints/
"""

import contextlib
import json
import platform
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import filelock
import torch

from mmcl import checkpoints
from mmcl.errors import MmclError
from mmcl.files import replacing, write_json
from mmcl.model import Encoder, MultiTower
from mmcl.overrides import flat, put
from mmcl.recipe import Recipe, assets, dump_yaml, load_recipe, model_folders
from mmcl.towers import Tower
from mmcl.towers.tensor_files import read_run
from mmcl.towers.weights import PRETRAINED, RANDOM

PACKAGES = ("mmcl", "torch", "torchvision", "open_clip_torch", "transformers", "accelerate", "webdataset", "numpy")
GOES_ON = {"training", "tasks", "optimizer", "schedule"}  # keys that may differ when a run goes on, and are then told
RESUMABLE = {"run", *GOES_ON}
MENDABLE = (
    "shards",
    "modalities",
    "extras",
    "optional",
)  # those of a source: a copy will do, since the stream knows its samples


@dataclass(frozen=True)
class Run:
    """One run folder."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints lie."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """Which of them is the best, where the recipe asks for one."""
        return self.checkpoints / "best.json"

    @property
    def metrics(self) -> Path:
        """Its metrics, a JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def results(self) -> Path:
        """The tasks' numbers."""
        return self.path / "results.json"

    @property
    def bad_samples(self) -> Path:
        """What could not be used, a JSON object a line."""
        return self.path / "bad_samples.jsonl"

    @property
    def warnings(self) -> Path:
        """Signs that it learns nothing, a JSON object a line."""
        return self.path / "warnings.jsonl"

    @property
    def examples(self) -> Path:
        """What the tasks found for a few queries, for the report."""
        return self.path / "examples.json"

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.path / "report.html"

    def recipe(self) -> Recipe:
        """Its recipe; the files that it names are the run's own copies.

        Raises:
            MmclError: this is no run folder.
        """
        if not (self.path / "recipe.yaml").is_file():
            raise MmclError(f"{self.path} is no run folder: it has no recipe.yaml. A run is made by: mmcl train RECIPE")
        return load_recipe(self.path)


def check_free(run: Run, recipe: Recipe, resume: bool) -> bool:
    """See that a recipe may be run in a folder, before anything is made there.

    Returns:
        Whether the folder holds a run that came to nothing, whose place this one takes.

    Raises:
        MmclError: the folder holds a run and it is not to be resumed, or its recipe is another one, or another process
            trains there.
    """
    blocking = next((p for p in (run.path, *run.path.parents) if p.exists() and not p.is_dir()), None)
    if blocking is not None:
        raise MmclError(f"run: {run.path} cannot be a folder, since {blocking} is a file.")
    if not (run.path / "recipe.yaml").exists():
        if not came_to_nothing(run):
            raise MmclError(
                f"{run.path} holds checkpoints or rows of a run whose recipe.yaml is gone, and a run is never "
                "overwritten. Put its recipe back, or choose another folder with run=DIR."
            )
        return False
    if came_to_nothing(run):
        with holding(run, seconds=10):  # or it is only beginning; the other processes of this run ask, too, one by one
            return True
    if not resume:
        raise MmclError(
            f"{run.path} holds a run already, and a run is never overwritten. Go on with it with --resume, "
            "or choose another folder with run=DIR."
        )
    _same(run.recipe(), recipe, run.path)
    return False


def identity(run: Run) -> str:
    """What trackers and a mirror know the run by, so that it goes on there when it goes on here."""
    path = run.path / "tracking.json"
    if not path.exists():
        write_json(path, {"id": uuid.uuid4().hex[:8]})
    try:
        return json.loads(path.read_text())["id"]
    except (ValueError, KeyError, TypeError):
        raise MmclError(f"{path} is damaged; without it the run is another one to trackers and mirrors.") from None


def changes(stored: Recipe, given: Recipe) -> list[str]:
    """What a run goes on with that was otherwise before: a line for each key."""
    told = GOES_ON | {"data"}
    contents = (recipe.model_dump(mode="json", include=told, exclude_none=True) for recipe in (stored, given))
    one, two = (dict(flat(content)) for content in contents)
    new = [f"goes on with {key}: {value}, which was not said before" for key, value in two.items() if key not in one]
    gone = [f"goes on without {key}, which was {value}" for key, value in one.items() if key not in two]
    both = [key for key in one if key in two and one[key] != two[key]]
    return [*(f"goes on with another {key}: {two[key]} instead of {one[key]}" for key in both), *new, *gone]


@contextmanager
def holding(run: Run, seconds: float = 0) -> Iterator[None]:
    """Hold a run's folder, so that nobody else trains there; whoever dies holds it no more.

    Raises:
        MmclError: another process holds it, for longer than so many seconds.
    """
    try:
        lock = filelock.FileLock(run.path / ".lock").acquire(timeout=seconds)
    except filelock.Timeout:
        raise MmclError(
            f"{run.path} is being trained by another process; choose another folder with run=DIR."
        ) from None
    with lock:
        yield


def create(run: Run, recipe: Recipe, model: MultiTower, begins: bool) -> None:
    """Make the folder of a run: its recipe, the files that the recipe names, its weights' origin, and what it runs on.

    Args:
        run: the folder.
        recipe: what is run.
        model: its towers.
        begins: whether it begins with the weights that the recipe names, not with a checkpoint's.
    """
    run.path.mkdir(parents=True, exist_ok=True)
    content = _portable(recipe)
    for keys, file in assets(recipe):
        put(content, keys, str(_keep(run, keys, file, [file])))
    for keys, said, mark in model_folders(recipe):
        place = mark.place(said)
        if place is not None:
            put(content, keys, mark.named(_keep(run, keys, place, mark.files(place))))
    write_json(run.path / "environment.json", _environment(model))
    if begins:
        loaded = {m: model.tower(m).loaded for m in model.modalities}
        write_json(run.path / "weights.json", {m: one.described() if one else RANDOM for m, one in loaded.items()})
    with replacing(run.path / "recipe.yaml") as file:  # a run that goes on may be killed here, too
        file.write(dump_yaml(content).encode())


def beginnings(model: MultiTower) -> list[str]:
    """What the towers begin with, where that is not only a matter of their sizes: a line each."""
    towers = {m: model.tower(m) for m in model.modalities}
    return [
        f"towers.{m}: {tower.loaded or 'random weights, as the recipe says'}"
        for m, tower in towers.items()
        if tower.loaded is not None or tower.backbone.named
    ]


def build_model(recipe: Recipe, load: bool = True) -> MultiTower:
    """The recipe's towers, with random weights drawn from its seed and those that it names.

    Args:
        recipe: what says them.
        load: bring the weights that it names; otherwise all are random, because a checkpoint brings them.
    """
    torch.manual_seed(recipe.seed)
    return MultiTower({modality: build_tower(recipe, modality, load) for modality in recipe.towers}, recipe.dim)


def build_tower(recipe: Recipe, modality: str, load: bool) -> Tower:
    """One of the towers, with random weights drawn as torch stands; see `build_model`."""
    part = recipe.towers[modality]
    try:
        return part.build(dim=recipe.dim, modality=modality, load=load)
    except (AssertionError, RuntimeError) as error:  # torch's own words for sizes that do not fit
        raise MmclError(f"towers.{modality}: {part.name} cannot be built: {error}") from None
    except MmclError as error:
        place = f"towers.{modality}"
        raise error if str(error).startswith(place) else MmclError(f"{place}: {error}") from None


def load(path: str | Path, device: str | torch.device | None = None) -> Encoder:
    """The model of a run, as its newest whole checkpoint has it; the average of its weights where the recipe says so.

    Args:
        path: a run folder; or one of its checkpoints (``RUN/checkpoints/step-00000260``, ``RUN/checkpoints/best``).
        device: where to compute; a GPU if there is one, unless told.

    Raises:
        MmclError: this is no run folder, or it has no checkpoint.
    """
    recipe = Run(checkpoints.place(Path(path))[0]).recipe()
    weights = read_run(Path(path))
    with torch.random.fork_rng():  # the caller's own draws go on as they were
        model = build_model(recipe, load=False)
    model.load_state_dict(weights.state)
    return Encoder(model.eval(), computing(device))


def computing(device: str | torch.device | None) -> torch.device:
    """Where a model computes that is opened: a GPU if there is one, unless told."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return torch.device(device or accelerator or "cpu")


def came_to_nothing(run: Run) -> bool:
    """Whether a run left neither a checkpoint nor a number."""
    rows = run.metrics.read_bytes().strip() if run.metrics.exists() else b""
    return not rows and not run.results.exists() and not any(run.checkpoints.glob("step-*"))


def _keep(run: Run, keys: Sequence[str], place: Path, files: Sequence[Path]) -> Path:
    """Copy a file that a recipe names, or those of a folder; the copy, as the run's recipe says it."""
    folder = place.is_dir()
    copy = Path("assets", f"{'-'.join(keys[1:])}{'' if folder else place.suffix}")
    target = run.path / copy
    if folder and target.exists() and not target.samefile(place):  # of a run that came to nothing
        shutil.rmtree(target)
    for file in files:
        if not file.is_file():
            raise MmclError(f"the recipe names {str(file)!r}, which is not there.")
        to = target / file.name if folder else target
        to.parent.mkdir(parents=True, exist_ok=True)
        if not (to.exists() and to.samefile(file)):
            shutil.copyfile(file, to)
    return copy


def _portable(recipe: Recipe) -> dict[str, Any]:
    """Content of a recipe whose models' folders may be replaced by copies without weights.

    Where such a folder is also what the weights are from, the content says so.
    """
    content = recipe.model_dump(mode="json")
    for keys, said, mark in model_folders(recipe):
        tower = content["towers"][keys[1]] if len(keys) == 3 else {}  # others are of a tokenizer
        weights = tower.get("weights") or {"from": PRETRAINED, "partial": False, "prefix": None}
        origin = mark.origin(said)
        if tower and origin is not None and weights["from"] == PRETRAINED:
            tower["weights"] = {**weights, "from": origin}
    return content


def _content(recipe: Recipe) -> dict[str, Any]:
    """Content of a recipe, with that of the files which it names."""
    content = _portable(recipe)
    for keys, file in assets(recipe):  # the run's own copy stands for the file that it was made of
        put(content, keys, file.read_bytes() if file.is_file() else str(file))
    for keys, said, mark in model_folders(recipe):
        with contextlib.suppress(MmclError):
            place = mark.place(said)
            if place is not None:
                files = {"" if file == place else file.name: file.read_bytes() for file in mark.files(place)}
                put(content, keys, files)
    return content


def _moved(one: Any, other: Any) -> bool:
    """Whether weights of two recipes may be the same, of which one is no longer where it was."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    paths = [Path(said["from"]) for said in (one, other)]
    alike = {**one, "from": paths[0].name} == {**other, "from": paths[1].name}
    return alike and not all(path.exists() for path in paths)


def _same(stored: Recipe, given: Recipe, path: Path) -> None:
    before, now = _content(stored), _content(given)
    for modality, tower in before["towers"].items():
        other = now["towers"].get(modality, tower)
        if _moved(tower["weights"], other["weights"]):
            tower["weights"] = other["weights"]
    best, held = given.training.best, before["data"]["validation"]
    for key in ("workers", "cache", "max_bad", "validation"):
        before["data"][key] = now["data"][key]
    for one, other in zip(_sources(before), _sources(now), strict=False):
        one.update({key: other[key] for key in MENDABLE})
    different = [key for key in now if key not in RESUMABLE and now[key] != before[key]]
    if best is not None and best.metric.startswith("validation/") and held not in (None, now["data"]["validation"]):
        different.append("data.validation, by whose loss training.best compares (or say training.best=null),")
    if before["optimizer"]["name"] != now["optimizer"]["name"]:  # which could not read what the other remembers
        different.append("optimizer.name")
    if different:
        one, two = (dict(flat({key: side[key] for key in side if key in different})) for side in (before, now))
        keys = [key for key in {**one, **two} if key not in one or key not in two or one[key] != two[key]]
        where = ", ".join([*keys, *(key for key in different if key not in now)])
        raise MmclError(
            f"{path} was made with another recipe: {where} differ. Resume it with its own "
            f"(mmcl train {path} --resume), or choose another folder with run=DIR."
        )


def _sources(content: dict[str, Any]) -> list[dict[str, Any]]:
    train = content["data"]["train"]
    return train if isinstance(train, list) else [train]


def _environment(model: MultiTower) -> dict[str, Any]:
    try:
        git = ["git", "rev-parse", "HEAD"]
        commit = subprocess.run(git, capture_output=True, text=True, cwd=Path(__file__).parent, check=False).stdout
    except OSError:  # no git here
        commit = ""
    return {
        "packages": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "git_commit": commit.strip() or None,
        "machine": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "parameters": {m: _parameters(model.tower(m)) for m in model.modalities},
    }


def _parameters(tower: Tower) -> dict[str, int]:
    """How many there are, and how many of them ever learn."""
    sizes = [(p.numel(), p.requires_grad) for p in tower.parameters()]
    return {"all": sum(n for n, _ in sizes), "trained": sum(n for n, learns in sizes if learns)}
