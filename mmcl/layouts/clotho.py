"""Clotho: recordings of Freesound with five captions each."""

from collections.abc import Iterator
from typing import Literal

from mmcl.layouts.base import LAYOUTS, Layout, Row
from mmcl.layouts.folder import Folder, key_of

CAPTIONS = [f"caption_{number}" for number in range(1, 6)]


@LAYOUTS.register("clotho")
class Clotho(Layout):
    """The files of Clotho: ``clotho_captions_evaluation.csv``, and the folder ``evaluation`` of the unpacked archive.

    A sample has the recording (``wav``) and ``json``: ``captions`` (a list of five) and ``file_name``. Nothing may be
    missing. (The archive ``clotho_audio_evaluation.7z`` unpacks to ``evaluation``.)

    Args:
        split: ``evaluation`` (1,045 recordings, on which results are reported), ``validation`` or ``development``.

    Reference:
        Drossos et al., "Clotho: an Audio Captioning Dataset", ICASSP 2020. https://arxiv.org/abs/1910.09387
    """

    def __init__(self, split: Literal["evaluation", "validation", "development"] = "evaluation") -> None:
        self.split = split

    def holds(self) -> list[str]:
        """The table and its recordings."""
        return [f"clotho_captions_{self.split}.csv", f"{self.split}/*.wav"]

    def rows(self, folder: Folder) -> Iterator[Row]:
        """A sample a row of the table."""
        table = folder.table(f"clotho_captions_{self.split}.csv", ["file_name", *CAPTIONS])
        for number, row in enumerate(table):
            file = folder.media(self.split, row["file_name"])
            captions = [row[caption] for caption in CAPTIONS]
            yield {
                "__key__": f"{number:05d}_{key_of(file.path.stem)}",  # without the number some names are the same
                file.extension: file,
                "json": {"captions": captions, "file_name": row["file_name"]},
            }
