"""mmcl objectives."""

import re
import textwrap
from pathlib import Path

from cyclopts import App

app = App(name="objectives", help="List or show the objectives that have a name (presets).", help_format="plaintext")


@app.default
def objectives() -> None:
    """List the objectives that have a name: what a recipe may say as `objective: NAME`, alone or in a list of terms."""
    for name, comment in _comments().items():
        without_address = re.sub(r",? https?://\S+?(?=[:),.]*(\s|$))", "", comment)
        first = re.split(r"(?<=[.])\s+(?=[A-Z])| \(", without_address)[0].rstrip(".")
        print(f"{name:<24}{textwrap.shorten(first, 104, placeholder=' ...')}")


@app.command
def show(name: str, /) -> None:
    """Print the terms of an objective as lines of a recipe.

    Args:
        name: as `mmcl objectives` lists it.
    """
    from mmcl.losses import with_presets
    from mmcl.recipe import dump_yaml

    terms = with_presets(name)
    print(textwrap.fill(_comments()[name], 118, initial_indent="# ", subsequent_indent="# ", break_long_words=False))
    print(dump_yaml({"objective": terms}), end="")


def _comments() -> dict[str, str]:
    """What is said above each preset in their file; one that says nothing belongs to what the one before it says."""
    lines = (Path(__file__).parents[1] / "losses" / "presets.yaml").read_text(encoding="utf-8").splitlines()
    comments, block, before = dict[str, str](), list[str](), ""
    for line in lines:
        if line.startswith("#"):
            block.append(line.lstrip("# "))
        elif key := re.match(r"(\w+):", line):
            comments[key[1]] = before = " ".join(block) or before
            block = []
        elif not line:
            block = []  # of the file
    return comments
