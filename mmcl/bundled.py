"""Find the files that ship beside the code: recipes, tasks and data tools."""

from pathlib import Path
from typing import Literal

from mmcl.errors import MmclError, did_you_mean

Shelf = Literal["recipes", "eval", "data_tools"]
_PACKAGE = Path(__file__).parent


def shelf(name: Shelf) -> Path:
    """Folder of one shelf, whether mmcl runs from a wheel, an editable install or a checkout."""
    for root in (_PACKAGE / "_bundled", _PACKAGE.parent):
        if (root / name).is_dir():
            return root / name
    raise MmclError(f"mmcl was installed without its {name!r} folder; reinstall it with pip.")


def names(folder: Path, suffix: str) -> list[str]:
    """Names of all files with this suffix below a folder, as a user types them: ``glyphs/clip_tiny``.

    A file whose name begins with an underscore is a part of its neighbours, not one of them.
    """
    files = [path for path in folder.rglob(f"*{suffix}") if not path.name.startswith("_")]
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in files)


def find(what: str, name: str, folder: Path, suffix: str, listing: str) -> Path:
    """The file a user means: a path of their own, or the name of one that ships with mmcl.

    Args:
        what: the kind of thing, for the message ("recipe", "task", "data set").
        name: a path, or a name as `names` lists it.
        folder: where the shipped ones lie.
        suffix: of the files of this kind.
        listing: the command that lists them, for the message.

    Raises:
        MmclError: there is no such file; the message names the nearest.
    """
    own = Path(name)
    if own.suffix == suffix:
        if own.is_file():
            return own
        raise MmclError(f"{name}: there is no such file. List the {what}s that ship with mmcl with: {listing}")
    known = names(folder, suffix)
    if name in known:
        return folder / f"{name}{suffix}"
    hint = did_you_mean(name, known, cutoff=0.4)
    raise MmclError(f"no {what} is called {name!r}{hint} List them with: {listing}")


def first_line(path: Path) -> str:
    """What a shipped file says of itself in its first line, as a comment or a docstring."""
    return path.read_text(encoding="utf-8").splitlines()[0].lstrip('#" ').rstrip('"')
