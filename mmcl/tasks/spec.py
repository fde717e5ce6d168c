"""eval/tasks/*.yaml and eval/suites/*.yaml: what to measure, as files say it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from mmcl import bundled
from mmcl.data import Source
from mmcl.data.remote import is_remote, read_remote
from mmcl.errors import MmclError, did_you_mean
from mmcl.evaluators import EvaluatorPart
from mmcl.layouts import LayoutPart
from mmcl.recipe import check, read_yaml
from mmcl.registry import Spec

DATA = "data"
"""Where the shards of tasks lie, below the current folder, unless told."""


class TaskData(Source):
    """Shards, or another layout in which a data set is distributed, and where the modalities lie."""

    shards: str | list[str] = []
    """Files, folders, URLs; braces and globs. Relative ones lie below the task's `root`."""
    layout: LayoutPart | None = None
    """What reads `root` where it holds no shards; it is packed once, into shards in the user's cache."""

    @model_validator(mode="after")
    def _one_of_them(self) -> "TaskData":
        if bool(self.shards) == (self.layout is not None):
            raise MmclError("say `shards`, or the `layout` of the root; one of them.")
        return self


class TaskSpec(Spec):
    """A task as its file says it."""

    title: str
    """What is measured, in a few words."""
    evaluator: EvaluatorPart
    data: TaskData
    """Where the modalities lie, and other fields of the samples under names of their own (`label`)."""
    train: TaskData | None = None
    """What an evaluator learns from."""
    version: Annotated[int, Field(ge=1)] = 1
    """Raised when numbers of before cannot be compared with those of now."""
    headline: str | None = None
    """The metric to quote; the evaluator's own unless told."""
    root: str | None = None
    """Folder or URL that relative paths of shards and prompts lie below."""
    get: str | None = None
    """Where the data can be had; told where they are missing."""
    language: str = "en"
    """Of the texts, as CLIP_benchmark's JSON names it."""
    key: str | None = None
    """Where the numbers stand in results.json, and what other suites call the task; its name unless told."""
    source: str | None = None
    """Paper or page that the task comes from."""
    licence: str | None = None
    """Of the data."""

    def below(self, data: str) -> "TaskSpec":
        """The same with data that lie in another folder than ``data/``."""

        def moved(path: str) -> str:
            return f"{data.rstrip('/')}{path.removeprefix(DATA)}" if path.split("/")[0] == DATA else path

        def placed(source: TaskData | None) -> TaskData | None:
            if source is None or source.layout is not None:
                return source
            shards = [source.shards] if isinstance(source.shards, str) else source.shards
            under = [moved(path) if self.root is None else _under(moved(self.root), path) for path in shards]
            return source.model_copy(update={"shards": under if len(under) > 1 else under[0]})

        update = {"data": placed(self.data), "train": placed(self.train)}
        return self.model_copy(update=update | {"root": None if self.root is None else moved(self.root)})


class SuiteSpec(Spec):
    """A suite as its file says it."""

    title: str
    tasks: list[str]
    """Names, as `mmcl tasks` lists them."""


def find_spec(name: str, data: str | None = None) -> tuple[TaskSpec, Path]:
    """A task that ships with mmcl, or one from a file of the user's own; and the file.

    Args:
        name: as `mmcl tasks` lists it, or a path to a YAML file.
        data: the folder of the shards, in place of ``data``.

    Raises:
        MmclError: there is no such task, or something in it is wrong.
    """
    path = bundled.find("task", name, bundled.shelf("eval") / "tasks", ".yaml", "mmcl tasks")
    return check(TaskSpec, read_yaml(path), str(path)).below(data or DATA), path


def expand_suites(names: Sequence[str]) -> list[str]:
    """Names of tasks, with those of suites in place of the suites' own; each once.

    Raises:
        MmclError: a name is neither a task's nor a suite's.
    """
    shelf = bundled.shelf("eval")
    suites = bundled.names(shelf / "suites", ".yaml") if (shelf / "suites").is_dir() else []
    tasks = bundled.names(shelf / "tasks", ".yaml")
    found: list[str] = []
    for name in names:
        if name in suites:
            path = shelf / "suites" / f"{name}.yaml"
            found += check(SuiteSpec, read_yaml(path), str(path)).tasks
        elif name.endswith(".yaml") and Path(name).is_file() and "tasks" in read_yaml(Path(name)):
            found += expand_suites(check(SuiteSpec, read_yaml(Path(name)), name).tasks)
        elif name in tasks or name.endswith(".yaml"):
            found.append(name)
        else:
            hint = did_you_mean(name, [*tasks, *suites], cutoff=0.4)
            raise MmclError(f"no task or suite is called {name!r}{hint} List them with: mmcl tasks")
    return list(dict.fromkeys(found))


def read_prompts(name: str, root: str | None, beside: Path) -> str:
    """Text of a file that a task names: below its root, beside its own file, or in eval/prompts.

    Raises:
        MmclError: it is in none of them.
    """
    if root is not None and is_remote(f"{root}/"):
        content = read_remote(_under(root, name))
        if content is not None:
            return content.decode("utf-8", "replace")
    places = [*([Path(root) / name] if root is not None else []), beside.parent / name]
    places.append(bundled.shelf("eval") / "prompts" / name)
    for place in places:
        if place.is_file():
            return place.read_text(encoding="utf-8")
    raise MmclError(f"there is no file {name}; looked for {', '.join(map(str, places))}.")


def _under(root: str, path: str) -> str:
    if path.startswith(("/", "~", "$", "pipe:")) or is_remote(path) or path == "-":
        return path
    return f"{root.rstrip('/')}/{path}"
