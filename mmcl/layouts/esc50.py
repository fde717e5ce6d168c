"""ESC-50: 2,000 recordings of 50 kinds of environmental sounds."""

from collections.abc import Iterator

from mmcl.layouts.base import LAYOUTS, Layout, Row
from mmcl.layouts.folder import Folder, key_of


@LAYOUTS.register("esc50")
class Esc50(Layout):
    """The repository of ESC-50: ``meta/esc50.csv`` and ``audio/*.wav``.

    A sample has the recording (``wav``) and ``json``: ``category``, as the table writes it (crying_baby), ``target``,
    ``fold`` and ``esc10``. Nothing may be missing.

    Args:
        folds: of the five; all of them unless told, as zero-shot results are reported.

    Reference:
        Piczak, "ESC: Dataset for Environmental Sound Classification", ACM Multimedia 2015.
        https://github.com/karolpiczak/ESC-50
    """

    def __init__(self, folds: list[int] | None = None) -> None:
        self.folds = folds

    def holds(self) -> list[str]:
        """The table and its recordings."""
        return ["meta/esc50.csv", "audio/*.wav"]

    def rows(self, folder: Folder) -> Iterator[Row]:
        """A sample a row of the table."""
        for row in folder.table("meta/esc50.csv", ["filename", "fold", "target", "category", "esc10"]):
            if self.folds is None or int(row["fold"]) in self.folds:
                file = folder.media("audio", row["filename"])
                yield {"__key__": key_of(file.path.stem), file.extension: file, "json": dict(row)}
