"""XTD10: 1,000 pictures of COCO with a caption in each of eleven languages."""

from collections.abc import Iterator
from typing import Literal

from mmcl.errors import MmclError
from mmcl.layouts.base import LAYOUTS, Layout, Row
from mmcl.layouts.folder import Folder, key_of

Language = Literal["de", "en", "es", "fr", "it", "jp", "ko", "pl", "ru", "tr", "zh"]
FOLDERS = ("XTD10", "MIC", "STAIR")


@LAYOUTS.register("xtd10")
class Xtd10(Layout):
    """The repository of XTD10, and a folder of the pictures that ``XTD10/test_image_names.txt`` names.

    A sample has the picture (``jpg``) and ``txt``, its caption in the language. Nothing may be missing. The captions
    lie in ``XTD10``, those of other data sets (de, en, fr; jp) in ``MIC`` and ``STAIR``.

    Args:
        language: as the files are named; Japanese is ``jp``.
        images: folder of the pictures, all of COCO's train2014.

    Reference:
        Aggarwal and Kale, "Towards Zero-shot Cross-lingual Image Retrieval", 2020. https://arxiv.org/abs/2012.05107
    """

    def __init__(self, language: Language, images: str = "images") -> None:
        self.language, self.images = language, images

    def holds(self) -> list[str]:
        """The captions, the names and the pictures."""
        captions = f"test_1kcaptions_{self.language}.txt"
        return ["XTD10/test_image_names.txt", f"{captions} in {' or '.join(FOLDERS)}", f"{self.images}/*.jpg"]

    def rows(self, folder: Folder) -> Iterator[Row]:
        """A sample a line."""
        names = folder.lines("XTD10/test_image_names.txt")
        said = folder.first(*(f"{place}/test_1kcaptions_{self.language}.txt" for place in FOLDERS))
        captions = folder.lines(said)
        yield from paired(folder, self.images, names, captions, said)


def paired(folder: Folder, images: str, names: list[str], captions: list[str], said: str) -> Iterator[Row]:
    """Samples of a file of names of pictures and one of captions, line by line.

    Raises:
        MmclError: they have not as many lines, or a line is empty.
    """
    if len(names) != len(captions):
        raise MmclError(
            f"{folder.root}: there are {len(names)} names of pictures, and {len(captions)} lines in {said}."
        )
    for number, (name, caption) in enumerate(zip(names, captions, strict=True), 1):
        if not name.strip() or not caption.strip():
            raise MmclError(f"{folder.root / said}, line {number}: this line, or that of the picture's name, is empty.")
        file = folder.media(images, name.strip())
        yield {"__key__": key_of(file.path.stem), file.extension: file, "txt": caption.strip()}
