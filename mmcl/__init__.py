"""mmcl trains a shared embedding space over images, text and audio from tar shards, measures it, and hands it on.

    recipe.yaml -> [ shards -> towers -> objective -> optimizer ] -> run folder -> eval | embed | export

The public names; each module is imported when a name of it is first used, so that ``import mmcl`` is instant.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmcl import data
    from mmcl.api import evaluate, export, load, objective, score, train
    from mmcl.errors import MmclError
    from mmcl.recipe import Recipe

__version__ = "0.1.0"
__all__ = ["MmclError", "Recipe", "data", "evaluate", "export", "load", "objective", "score", "train"]

_HOMES = {
    "MmclError": "mmcl.errors",
    "Recipe": "mmcl.recipe",
    "evaluate": "mmcl.api",
    "export": "mmcl.api",
    "load": "mmcl.api",
    "objective": "mmcl.api",
    "score": "mmcl.api",
    "train": "mmcl.api",
}


def __getattr__(name: str) -> Any:
    if name == "data":
        return importlib.import_module("mmcl.data")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"mmcl has no {name!r}; it has: {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
