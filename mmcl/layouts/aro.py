"""ARO: parts of Visual Genome's pictures, each with a caption that fits and one that does not."""

from collections.abc import Iterator
from typing import Literal

from mmcl.layouts.base import LAYOUTS, Layout, Row
from mmcl.layouts.folder import Folder, field

BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")


@LAYOUTS.register("aro")
class Aro(Layout):
    """``visual_genome_relation.json`` or ``visual_genome_attribution.json`` of ARO, and the folder ``images``.

    A sample has the part of the picture that its box marks, as ``png`` (no pixel is changed after JPEG's decoding), and
    ``json``: ``true_caption``, ``false_caption``, and ``group``, which results are averaged over: the relation, or the
    two attributes (``open_white``). Nothing may be missing.

    Args:
        part: ``relation`` or ``attribution``.
        without: groups that are left out; ARO's own figures leave out relations that may mean the same the other way
            round (`near`, `with`), which a notebook of it lists. Names that no entry has do no harm.
        images: folder of the pictures.

    Reference:
        Yuksekgonul et al., "When and Why Vision-Language Models Behave like Bags-Of-Words, and What to Do About It?",
        ICLR 2023. https://github.com/mertyg/vision-language-models-are-bows
    """

    def __init__(
        self, part: Literal["relation", "attribution"], without: list[str] | None = None, images: str = "images"
    ) -> None:
        self.part, self.without, self.images = part, frozenset(without or ()), images

    def holds(self) -> list[str]:
        """The JSON and the pictures."""
        return [f"visual_genome_{self.part}.json", f"{self.images}/*.jpg"]

    def rows(self, folder: Folder) -> Iterator[Row]:
        """A sample an entry, but for those of groups that are left out."""
        path = f"visual_genome_{self.part}.json"
        for number, entry in enumerate(folder.json(path, list)):
            if self.part == "relation":
                group = field(entry, "relation_name", path)
            else:
                group = "_".join(field(entry, "attributes", path)[:2])
            if group in self.without:
                continue
            x, y, width, height = (field(entry, name, path) for name in BOX)
            said = {name: field(entry, name, path) for name in ("true_caption", "false_caption")}
            cut = folder.cut((x, y, x + width, y + height), self.images, field(entry, "image_path", path))
            yield {"__key__": f"{self.part}_{number:05d}", "png": cut, "json": {**said, "group": group}}
