"""Run folders: what a run leaves behind, and how it is opened again.

recipe.yaml        fully resolved; files that it names are copied to assets/
environment.json   versions of the packages, the git commit, the machine
metrics.jsonl      a row every few steps
bad_samples.jsonl  what could not be used
results.json       the tasks' numbers at the end
report.html        the same, to look at
checkpoints/
"""

import json
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import filelock
import torch

from mmcl import checkpoints
from mmcl.errors import MmclError
from mmcl.model import Encoder, MultiTower
from mmcl.overrides import put
from mmcl.recipe import Recipe, assets, dump_yaml, load_recipe

PACKAGES = ("mmcl", "torch", "torchvision", "open_clip_torch", "transformers", "accelerate", "webdataset", "numpy")
RESUMABLE = ("run", "training", "tasks")  # keys that may differ when a run goes on
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
        return False
    if _came_to_nothing(run):
        with holding(run, seconds=10):  # or it is only beginning; the other processes of this run ask, too, one by one
            return True
    if not resume:
        raise MmclError(
            f"{run.path} holds a run already, and a run is never overwritten. Go on with it with --resume, "
            "or choose another folder with run=DIR."
        )
    _same(run.recipe(), recipe, run.path)
    return False


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


def create(run: Run, recipe: Recipe) -> None:
    """Make the folder of a run: its recipe, the files that the recipe names, and what it runs on."""
    run.path.mkdir(parents=True, exist_ok=True)
    content = recipe.model_dump(mode="json")
    for keys, file in assets(recipe):
        copy = Path("assets") / f"{'-'.join(keys[1:])}{file.suffix}"
        _copy(file, run.path / copy)
        put(content, keys, str(copy))
    (run.path / "environment.json").write_text(json.dumps(_environment(), indent=1) + "\n")
    (run.path / "recipe.yaml").write_text(dump_yaml(content))


def build_model(recipe: Recipe) -> MultiTower:
    """The recipe's towers with random weights, drawn from its seed."""
    torch.manual_seed(recipe.seed)
    towers = {}
    for modality, part in recipe.towers.items():
        try:
            towers[modality] = part.build(dim=recipe.dim)
        except (AssertionError, RuntimeError) as error:  # torch's own words for sizes that do not fit
            raise MmclError(f"towers.{modality}: {part.name} cannot be built: {error}") from None
    return MultiTower(towers, recipe.dim)


def load(path: str | Path, device: str | torch.device | None = None) -> Encoder:
    """The model of a run, as its newest whole checkpoint has it; the average of its weights where the recipe says so.

    Args:
        path: a run folder.
        device: where to compute; a GPU if there is one, unless told.

    Raises:
        MmclError: this is no run folder, or it has no checkpoint.
    """
    run = Run(Path(path))
    recipe = run.recipe()
    checkpoint = checkpoints.latest(run.checkpoints)
    if checkpoint is None:
        raise MmclError(f"{path} has no checkpoint yet. Train it on with: mmcl train {path} --resume")
    with torch.random.fork_rng():  # the caller's own draws go on as they were
        model = build_model(recipe)
    weights, ema = checkpoint.tensors("weights"), recipe.training.ema
    kind = "ema.module." if ema is not None and ema.evaluate else "model."
    own = {k.removeprefix(kind): t for k, t in weights.items() if k.startswith(kind)}
    if not own:
        raise MmclError(
            f"{path}: {checkpoint.path.name} has no averaged weights yet. Train it on with: mmcl train {path} --resume"
        )
    model.load_state_dict(own)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return Encoder(model.eval(), torch.device(device or accelerator or "cpu"))


def _came_to_nothing(run: Run) -> bool:
    """Whether a run left neither a checkpoint nor a number."""
    rows = run.metrics.read_text().strip() if run.metrics.exists() else ""
    return not rows and not run.results.exists() and not any(run.checkpoints.glob("step-*"))


def _copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise MmclError(f"the recipe names {str(source)!r}, which is not there.")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not (target.exists() and target.samefile(source)):
        shutil.copyfile(source, target)


def _same(stored: Recipe, given: Recipe, path: Path) -> None:
    before, now = (r.model_dump(mode="json") for r in (stored, given))
    for recipe, content in ((stored, before), (given, now)):
        for keys, file in assets(recipe):  # the run's own copy stands for the file that it was made of
            put(content, keys, file.read_bytes() if file.is_file() else str(file))
    for key in ("workers", "cache", "max_bad"):
        before["data"][key] = now["data"][key]
    for one, other in zip(_sources(before), _sources(now), strict=False):
        one.update({key: other[key] for key in MENDABLE})
    different = [key for key in now if key not in RESUMABLE and now[key] != before[key]]
    if different:
        raise MmclError(
            f"{path} was made with another recipe: {', '.join(different)} differ. Resume it with its own "
            f"(mmcl train {path} --resume), or choose another folder with run=DIR."
        )


def _sources(content: dict[str, Any]) -> list[dict[str, Any]]:
    train = content["data"]["train"]
    return train if isinstance(train, list) else [train]


def _environment() -> dict[str, Any]:
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
    }
