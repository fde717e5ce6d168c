"""UrbanSound8K: 8,732 excerpts of ten kinds of sounds of a city."""

from collections.abc import Iterator

from mmcl.layouts.base import LAYOUTS, Layout, Row
from mmcl.layouts.folder import Folder, key_of


@LAYOUTS.register("urbansound8k")
class Urbansound8k(Layout):
    """The folder of UrbanSound8K: ``metadata/UrbanSound8K.csv`` and ``audio/fold1`` to ``audio/fold10``.

    A sample has the excerpt (``wav``) and ``json``: ``class``, as the table writes it (air_conditioner), ``classID``,
    ``fold``, ``salience``. Nothing may be missing.

    Args:
        folds: of the ten; all of them unless told. (CLIP_benchmark measures fold 10.)

    Reference:
        Salamon et al., "A Dataset and Taxonomy for Urban Sound Research", ACM Multimedia 2014.
        https://urbansounddataset.weebly.com/urbansound8k.html
    """

    def __init__(self, folds: list[int] | None = None) -> None:
        self.folds = folds

    def holds(self) -> list[str]:
        """The table and its excerpts."""
        return ["metadata/UrbanSound8K.csv", "audio/fold1/*.wav to audio/fold10/*.wav"]

    def rows(self, folder: Folder) -> Iterator[Row]:
        """A sample a row of the table."""
        columns = ["slice_file_name", "fold", "classID", "class"]
        for row in folder.table("metadata/UrbanSound8K.csv", columns):
            if self.folds is None or int(row["fold"]) in self.folds:
                file = folder.media("audio", f"fold{row['fold']}", row["slice_file_name"])
                yield {"__key__": key_of(file.path.stem), file.extension: file, "json": dict(row)}
