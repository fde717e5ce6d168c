"""Pictures and a table of their captions, as Hugging Face's nlphuji data sets have them (DataComp's retrieval)."""

import json
from collections.abc import Iterator

from mmcl.errors import MmclError
from mmcl.layouts.base import LAYOUTS, Layout, Row
from mmcl.layouts.folder import Folder, key_of


@LAYOUTS.register("captions_table")
class CaptionsTable(Layout):
    """``test_1k_flickr.csv`` or ``test_5k_mscoco_2014.csv``, and the pictures of the archive beside it.

    A sample has the picture (``jpg``) and ``json``: ``captions`` (a list: all that the cell ``raw`` holds), ``file``.
    Nothing may be missing.

    Args:
        table: its columns are ``raw`` (a list of captions in JSON), ``filename`` and ``split``.
        images: folder of the pictures, as the archive unpacks.
        split: of the rows that are taken.

    Reference:
        https://huggingface.co/datasets/nlphuji/flickr_1k_test_image_text_retrieval and
        https://huggingface.co/datasets/nlphuji/mscoco_2014_5k_test_image_text_retrieval
    """

    def __init__(self, table: str, images: str, split: str = "test") -> None:
        self.table, self.images, self.split = table, images, split

    def holds(self) -> list[str]:
        """The table and the pictures."""
        return [self.table, f"{self.images}/*.jpg"]

    def rows(self, folder: Folder) -> Iterator[Row]:
        """A sample a row of the split."""
        for row in folder.table(self.table, ["raw", "filename", "split"]):
            if row["split"] != self.split:
                continue
            file = folder.media(self.images, row["filename"])
            yield {
                "__key__": key_of(file.path.stem),
                file.extension: file,
                "json": {"captions": listed(row["raw"], f"{self.table}: {row['filename']}"), "file": row["filename"]},
            }


def listed(cell: str, where: str) -> list[str]:
    """The texts of a cell that holds a list in JSON.

    Raises:
        MmclError: it holds something else.
    """
    try:
        texts = json.loads(cell)
    except ValueError:
        texts = None
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise MmclError(f"{where}: {cell[:60]!r} is no list of texts in JSON.")
    return texts
