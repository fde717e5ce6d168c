"""Winoground: pairs of pictures and of captions of the same words."""

from collections.abc import Iterator

from mmcl.layouts.base import LAYOUTS, Layout, Row
from mmcl.layouts.folder import Folder, field

PAIRS = ("image_0", "image_1", "caption_0", "caption_1")


@LAYOUTS.register("winoground")
class Winoground(Layout):
    """``examples.jsonl`` of Winoground, and the folder of its pictures (``images/ex_0_img_0.png``).

    A sample has the pictures, ``0.png`` and ``1.png``, and ``json``: ``caption_0``, ``caption_1``, which belong to
    them, and all else that the line says (``id``, ``tag``, ``secondary_tag``, ``collapsed_tag``, ``num_main_preds``).
    Nothing may be missing.

    Args:
        examples: the file of lines; ``data/examples.jsonl`` in the repository itself.
        images: folder of the pictures.

    Reference:
        Thrush et al., "Winoground: Probing Vision and Language Models for Visio-Linguistic Compositionality", CVPR
        2022. https://huggingface.co/datasets/facebook/winoground
    """

    def __init__(self, examples: str = "examples.jsonl", images: str = "images") -> None:
        self.examples, self.images = examples, images

    def holds(self) -> list[str]:
        """The lines and the pictures."""
        return [self.examples, f"{self.images}/*.png"]

    def rows(self, folder: Folder) -> Iterator[Row]:
        """A sample a line."""
        for line in folder.json_lines(self.examples):
            pair = {name: field(line, name, self.examples) for name in PAIRS}
            files = [folder.media(self.images, f"{pair[name].removesuffix('.png')}.png") for name in PAIRS[:2]]
            said = {name: value for name, value in line.items() if name not in PAIRS[:2]}
            number = field(line, "id", self.examples)
            yield {"__key__": f"ex_{int(number):03d}", "0.png": files[0], "1.png": files[1], "json": said}
