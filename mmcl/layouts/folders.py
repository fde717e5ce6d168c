"""Folders of classes, as of GTZAN and of many collections of one's own."""

from collections.abc import Iterator

from mmcl.errors import MmclError
from mmcl.layouts.base import LAYOUTS, Layout, Row
from mmcl.layouts.folder import File, Folder, key_of


@LAYOUTS.register("folders")
class Folders(Layout):
    """A folder a class, which holds the files of its items: ``rock/rock.00001.wav``.

    A sample has the file, under its extension, and ``json``: ``class``, the name of the folder. Names that begin with a
    dot are left out.

    Args:
        files: pattern of the files in the folders.
        below: the folder of the folders, below the task's root.
    """

    def __init__(self, files: str = "*", below: str = ".") -> None:
        self.files, self.below = files, below

    def holds(self) -> list[str]:
        """Folders of files."""
        return [f"{self.below}/CLASS/{self.files}".removeprefix("./")]

    def rows(self, folder: Folder) -> Iterator[Row]:
        """A sample a file, classes and files in the order of their names."""
        root = folder.root / self.below
        classes = sorted(path for path in root.glob("*") if path.is_dir() and not path.name.startswith("."))
        if not classes:
            raise MmclError(f"{root}: there are no folders of classes here. The folder holds {self.holds()[0]}.")
        for one in classes:
            for path in sorted(one.glob(self.files)):
                if path.is_dir() or path.name.startswith("."):
                    continue
                file = File(path)
                if not file.extension:
                    raise MmclError(f"{path}: this name has no extension; say by `files` which ones are meant (*.wav).")
                yield {
                    "__key__": f"{key_of(one.name)}/{key_of(path.stem)}",
                    file.extension: file,
                    "json": {"class": one.name},
                }
