"""FSD50K: recordings of Freesound with all that is heard in them, of 200 classes."""

from collections.abc import Iterator
from typing import Literal

from mmcl.layouts.base import LAYOUTS, Layout, Row
from mmcl.layouts.folder import Folder, key_of


@LAYOUTS.register("fsd50k")
class Fsd50k(Layout):
    """The folders of FSD50K: ``FSD50K.ground_truth/*.csv``, ``FSD50K.eval_audio`` and ``FSD50K.dev_audio``.

    A sample has the recording (``wav``) and ``json``: ``labels``, a list of names as the table writes them, those of
    the ontology's higher classes included. Nothing may be missing.

    Args:
        split: ``eval`` (10,231 recordings), or ``train`` and ``val``, which share a table and a folder.

    Reference:
        Fonseca et al., "FSD50K: an Open Dataset of Human-Labeled Sound Events", 2020.
        https://arxiv.org/abs/2010.00475
    """

    def __init__(self, split: Literal["eval", "train", "val"] = "eval") -> None:
        self.split = split
        self.part = "eval" if split == "eval" else "dev"

    def holds(self) -> list[str]:
        """The table and its recordings."""
        return [f"FSD50K.ground_truth/{self.part}.csv", f"FSD50K.{self.part}_audio/*.wav"]

    def rows(self, folder: Folder) -> Iterator[Row]:
        """A sample a row of the table."""
        columns = ["fname", "labels", *(["split"] if self.part == "dev" else [])]
        for row in folder.table(f"FSD50K.ground_truth/{self.part}.csv", columns):
            if row.get("split", "eval") == self.split:
                file = folder.media(f"FSD50K.{self.part}_audio", f"{row['fname']}.wav")
                yield {"__key__": key_of(row["fname"]), "wav": file, "json": {"labels": row["labels"].split(",")}}
