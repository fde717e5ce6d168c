"""Karpathy's splits of COCO and Flickr30k: pictures with five captions each."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from mmcl.errors import MmclError
from mmcl.layouts.base import LAYOUTS, Layout, Row
from mmcl.layouts.folder import Folder, key_of


@LAYOUTS.register("karpathy")
class Karpathy(Layout):
    """``dataset_coco.json`` or ``dataset_flickr30k.json`` of Karpathy and Fei-Fei, and the pictures.

    A sample has the picture (``jpg``) and ``json``: ``captions``, a list of texts as they were written, and ``file``.
    Nothing may be missing. COCO's pictures lie in the folder that its ``filepath`` names (``val2014``).

    Args:
        annotations: the JSON.
        images: folder of the pictures; COCO's folders lie below it.
        split: ``test`` (5,000 pictures of COCO, 1,000 of Flickr30k), ``val``, ``train`` or ``restval``.
        captions: how many of each picture, the first ones. A few pictures of COCO have six or seven, and five are what
            results are reported with; None takes all.

    Reference:
        Karpathy and Fei-Fei, "Deep Visual-Semantic Alignments for Generating Image Descriptions", CVPR 2015.
        https://cs.stanford.edu/people/karpathy/deepimagesent/
    """

    def __init__(
        self,
        annotations: str,
        images: str = ".",
        split: Literal["test", "val", "train", "restval"] = "test",
        captions: Annotated[int, Field(ge=1)] | None = 5,
    ) -> None:
        self.annotations, self.images, self.split, self.captions = annotations, images, split, captions

    def holds(self) -> list[str]:
        """The JSON and the pictures."""
        return [self.annotations, f"{self.images}/*.jpg (of COCO: {self.images}/val2014/*.jpg)"]

    def rows(self, folder: Folder) -> Iterator[Row]:
        """A sample a picture of the split."""
        for image in folder.json(self.annotations, dict).get("images", []):
            if image["split"] != self.split:
                continue
            file = folder.media(self.images, image.get("filepath", "."), image["filename"])
            captions = first_captions(
                [one["raw"] for one in image["sentences"]], self.captions, f"{self.annotations}: {image['filename']}"
            )
            yield {
                "__key__": key_of(file.path.stem),
                file.extension: file,
                "json": {"captions": captions, "file": image["filename"]},
            }


def first_captions(captions: list[str], count: int | None, where: str) -> list[str]:
    """As many captions of a picture as are asked for.

    Raises:
        MmclError: it has fewer.
    """
    if count is None:
        return captions
    if len(captions) < count:
        raise MmclError(f"{where} has {len(captions)} captions, where {count} are asked for (captions).")
    return captions[:count]
