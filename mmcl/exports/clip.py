"""A run's picture and text towers as one CLIP, in open_clip's words."""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mmcl.errors import MmclError
from mmcl.exports.base import LogitScale, Source
from mmcl.exports.sides import SIDES, Side
from mmcl.towers.pictures import Preprocessing

OWN = ("vit", "text_transformer")
"""Families of mmcl's own sizes, which have no need for a model's name when they are opened again."""


@dataclass(frozen=True)
class Clip:
    """Two towers of open_clip's own classes."""

    image: str
    """Modality of the pictures."""
    text: str
    """Modality of the texts."""
    vision: Side
    words: Side
    shown: Preprocessing
    """How pictures are prepared."""
    logit_scale: LogitScale
    notes: tuple[str, ...]

    @property
    def modalities(self) -> tuple[str, str]:
        """Both."""
        return self.image, self.text

    def state(self, text: str) -> dict[str, Tensor]:
        """Weights of both under the names of one model, those of the text side under a prefix."""
        visual = {f"visual.{name}": t for name, t in self.vision.state.items()}
        return visual | {f"{text}{name}": t for name, t in self.words.state.items()}


def clip_of(source: Source) -> Clip:
    """The one picture tower and the one text tower of a run.

    Raises:
        MmclError: there are none or several, or they are of another family, or their head is no single matrix.
    """
    image, text = source.one_of_each("image", "text")
    sides = {}
    for kind, m in (("image", image), ("text", text)):
        family = source.recipe.towers[m].name
        if family not in SIDES[kind]:
            raise MmclError(
                f"towers.{m}: a {family} is none of the towers that can be one CLIP: {', '.join(SIDES[kind])}."
            )
        sides[kind] = SIDES[kind][family](source, m)
    backbone: Any = source.tower(image).backbone
    shown: Preprocessing = backbone.preprocessing
    scale = source.logit_scale
    notes = [
        f"The logit scale, {math.exp(scale.log_scale):.4g}, is {scale.note}.",
        *left_out(source, (image, text)),
        *(note for side in sides.values() for note in side.notes),
    ]
    return Clip(image, text, sides["image"], sides["text"], shown, scale, tuple(notes))


def left_out(source: Source, held: tuple[str, ...]) -> list[str]:
    """What the card says of towers that a format has no place for."""
    others = [m for m in source.modalities if m not in held]
    if not others:
        return []
    return [f"The run's towers of {', '.join(others)} are not in this export: the format has no place for them."]
