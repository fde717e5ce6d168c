"""Multi30k: pictures of Flickr30k (and COCO) with a caption in English, German, French and Czech."""

from collections.abc import Iterator
from typing import Literal

from mmcl.layouts.base import LAYOUTS, Layout, Row
from mmcl.layouts.folder import Folder
from mmcl.layouts.xtd10 import paired


@LAYOUTS.register("multi30k")
class Multi30k(Layout):
    """The repository of Multi30k (task 1), and a folder of the pictures.

    A sample has the picture (``jpg``) and ``txt``, its caption in the language. Nothing may be missing.

    Args:
        language: ``en``, ``de``, ``fr`` or ``cs``.
        split: as the files are named; ``test_2016_flickr`` has 1,000 pictures.
        images: folder of the pictures.

    Reference:
        Elliott et al., "Multi30K: Multilingual English-German Image Descriptions", 2016.
        https://github.com/multi30k/dataset
    """

    def __init__(
        self,
        language: Literal["en", "de", "fr", "cs"],
        split: str = "test_2016_flickr",
        images: str = "flickr30k-images",
    ) -> None:
        self.language, self.split, self.images = language, split, images

    def holds(self) -> list[str]:
        """The captions, the names and the pictures."""
        return [self._names(), self._captions(), f"{self.images}/*.jpg"]

    def rows(self, folder: Folder) -> Iterator[Row]:
        """A sample a line."""
        names = [line.partition("#")[0] for line in folder.lines(self._names())]  # COCO's names end in #number
        yield from paired(folder, self.images, names, folder.lines(self._captions()), self._captions())

    def _names(self) -> str:
        return f"data/task1/image_splits/{self.split}.txt"

    def _captions(self) -> str:
        return f"data/task1/raw/{self.split}.{self.language}.gz"
