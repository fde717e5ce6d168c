"""SugarCrepe: pictures of COCO, each with a caption that fits and one that does not."""

from collections.abc import Iterator
from typing import Literal

from mmcl.layouts.base import LAYOUTS, Layout, Row
from mmcl.layouts.folder import Folder, field

Part = Literal["add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj"]


@LAYOUTS.register("sugar_crepe")
class SugarCrepe(Layout):
    """The repository of SugarCrepe (``data/replace_rel.json``, ...), and COCO's pictures of val2017 beside ``data``.

    A sample has the picture (``jpg``) and ``json``: ``caption``, ``negative_caption``, ``filename``. Nothing may be
    missing.

    Args:
        part: of the seven.
        images: folder of the pictures.

    Reference:
        Hsieh et al., "SugarCrepe: Fixing Hackable Benchmarks for Vision-Language Compositionality", NeurIPS 2023.
        https://github.com/RAIVNLab/sugar-crepe
    """

    def __init__(self, part: Part, images: str = "val2017") -> None:
        self.part, self.images = part, images

    def holds(self) -> list[str]:
        """The JSON and the pictures."""
        return [f"data/{self.part}.json", f"{self.images}/*.jpg"]

    def rows(self, folder: Folder) -> Iterator[Row]:
        """A sample an entry."""
        path = f"data/{self.part}.json"
        for number, entry in folder.json(path, dict).items():
            said = {name: field(entry, name, path) for name in ("caption", "negative_caption", "filename")}
            file = folder.media(self.images, said["filename"])
            yield {"__key__": f"{self.part}_{number}", file.extension: file, "json": said}
