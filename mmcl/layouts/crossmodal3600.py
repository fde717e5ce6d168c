"""Crossmodal-3600: 3,600 pictures from all over the world with captions in 36 languages."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from mmcl.layouts.base import LAYOUTS, Layout, Row
from mmcl.layouts.folder import Folder, field, key_of
from mmcl.layouts.karpathy import first_captions


@LAYOUTS.register("crossmodal3600")
class Crossmodal3600(Layout):
    """``captions.jsonl`` of Crossmodal-3600 and its pictures.

    A sample has the picture (``jpg``) and ``json``: ``captions``, a list of those in the language. Nothing may be
    missing.

    Args:
        language: as the file names it (``en``, ``quz``, ``fil``).
        captions: how many of each picture, the first ones; None takes all (two of most).
        images: folder of the pictures.

    Reference:
        Thapliyal et al., "Crossmodal-3600: A Massively Multilingual Multimodal Evaluation Dataset", EMNLP 2022.
        https://arxiv.org/abs/2205.12522
    """

    def __init__(
        self, language: str, captions: Annotated[int, Field(ge=1)] | None = None, images: str = "images"
    ) -> None:
        self.language, self.captions, self.images = language, captions, images

    def holds(self) -> list[str]:
        """The captions and the pictures."""
        return ["captions.jsonl", f"{self.images}/*.jpg"]

    def rows(self, folder: Folder) -> Iterator[Row]:
        """A sample a line."""
        for line in folder.json_lines("captions.jsonl"):
            name = field(line, "image/key", "captions.jsonl")
            said = field(line, self.language, f"captions.jsonl: {name}")["caption"]
            file = folder.media(self.images, f"{name}.jpg")
            captions = first_captions(said, self.captions, f"captions.jsonl: {name}")
            yield {"__key__": key_of(name), "jpg": file, "json": {"captions": captions}}
