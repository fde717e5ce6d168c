"""COCO's own captions of its validation pictures."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from mmcl.layouts.base import LAYOUTS, Layout, Row
from mmcl.layouts.folder import Folder, key_of
from mmcl.layouts.karpathy import first_captions


@LAYOUTS.register("coco_captions")
class CocoCaptions(Layout):
    """``captions_val2017.json`` of COCO and its pictures.

    A sample has the picture (``jpg``) and ``json``: ``captions`` (a list), ``image_id``. Nothing may be missing.

    Args:
        annotations: the JSON.
        images: folder of the pictures.
        captions: how many of each picture, by ascending number; None takes all.

    Reference:
        Chen et al., "Microsoft COCO Captions: Data Collection and Evaluation Server", 2015.
        https://arxiv.org/abs/1504.00325
    """

    def __init__(
        self,
        annotations: str = "annotations/captions_val2017.json",
        images: str = "val2017",
        captions: Annotated[int, Field(ge=1)] | None = 5,
    ) -> None:
        self.annotations, self.images, self.captions = annotations, images, captions

    def holds(self) -> list[str]:
        """The JSON and the pictures."""
        return [self.annotations, f"{self.images}/*.jpg"]

    def rows(self, folder: Folder) -> Iterator[Row]:
        """A sample a picture, in the order of the JSON."""
        content = folder.json(self.annotations, dict)
        said: dict[int, list[str]] = {}
        for one in sorted(content.get("annotations", []), key=lambda annotation: annotation["id"]):
            said.setdefault(one["image_id"], []).append(one["caption"])
        for image in content.get("images", []):
            file = folder.media(self.images, image["file_name"])
            where = f"{self.annotations}: {image['file_name']}"
            captions = first_captions(said.get(image["id"], []), self.captions, where)
            yield {
                "__key__": key_of(file.path.stem),
                file.extension: file,
                "json": {"captions": captions, "image_id": image["id"]},
            }
