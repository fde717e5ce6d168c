"""mmcl recipes."""

import shutil
from pathlib import Path

from cyclopts import App

from mmcl import bundled
from mmcl.errors import MmclError

app = App(name="recipes", help="List, show or copy the recipes that ship with mmcl.", help_format="plaintext")


@app.default
def recipes() -> None:
    """List the recipes that ship with mmcl."""
    folder = bundled.shelf("recipes")
    for name in bundled.names(folder, ".yaml"):
        print(f"{name:<32}{bundled.first_line(folder / f'{name}.yaml')}")


@app.command
def show(name: str, /) -> None:
    """Print a recipe.

    Args:
        name: as `mmcl recipes` lists it.
    """
    print(_find(name).read_text(), end="")


@app.command
def copy(name: str, folder: Path = Path(), /) -> None:
    """Copy a recipe, to change it.

    Args:
        name: as `mmcl recipes` lists it.
        folder: where to put it.
    """
    source = _find(name)
    target = folder / source.name
    if target.exists():
        raise MmclError(f"{target} is there already; it was not touched.")
    folder.mkdir(parents=True, exist_ok=True)
    print(shutil.copyfile(source, target))


def _find(name: str) -> Path:
    return bundled.find("recipe", name, bundled.shelf("recipes"), ".yaml", "mmcl recipes")
