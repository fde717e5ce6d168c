"""A run's picture and text towers as one CLIP, under the names of open_clip's classes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.exports.base import LogitScale, Source
from mmcl.recipe import Recipe

FAMILIES = {"image": "vit", "text": "text_transformer"}
PROJECTIONS = {"image": "proj", "text": "text_projection"}
OWN = "backbone.transformer."


@dataclass(frozen=True)
class Clip:
    """Two towers of open_clip's own classes."""

    image: str
    """Modality of the pictures."""
    text: str
    """Modality of the texts."""
    vision: Any
    """What the recipe says of the picture tower."""
    words: Any
    """What it says of the text tower."""
    tokenizer: Any
    """Of the text tower."""
    state: dict[str, Tensor]
    """Weights of both: ``visual.…``, and those of the text tower without a prefix; projections are (width, dim)."""
    logit_scale: LogitScale
    notes: tuple[str, ...]

    @property
    def modalities(self) -> tuple[str, str]:
        """Both."""
        return self.image, self.text


def clip_of(source: Source) -> Clip:
    """The one picture tower and the one text tower of a run.

    Raises:
        MmclError: there are none or several, or they are of another family, or their head is no single matrix.
    """
    image, text = source.one_of_each("image", "text")
    parts = {kind: source.recipe.towers[m] for kind, m in (("image", image), ("text", text))}
    for kind, part in parts.items():
        if part.name != FAMILIES[kind]:
            raise MmclError(f"towers.{image if kind == 'image' else text}: a {part.name} is none of CLIP's towers.")
    vision: Any = parts["image"]
    words: Any = parts["text"]
    if vision.pool not in ("tok", "avg"):
        raise MmclError(f"towers.{image}: pool: {vision.pool}: tok and avg are exported.")
    if not words.causal:
        raise MmclError(
            f"towers.{text}: causal: false: the tokens see all others but the padding, and CLIP's classes cannot leave "
            "out the padding."
        )
    state = {f"visual.{k}": t for k, t in _plain(source, image, "image").items()} | _plain(source, text, "text")
    scale, others = source.logit_scale, [m for m in source.modalities if m not in (image, text)]
    notes = [f"The logit scale, {math.exp(scale.log_scale):.4g}, is {scale.note}."]
    if others:
        notes.append(
            f"The run's towers of {', '.join(others)} are not in this export: the format has no place for them."
        )
    tokenizer: Any = source.tower(text).backbone
    return Clip(image, text, vision, words, tokenizer.tokenizer, state, scale, tuple(notes))


def own_states(clip: Mapping[str, Tensor], recipe: Recipe, image: str, text: str) -> dict[str, dict[str, Tensor]]:
    """Both towers' weights under their own names, from a CLIP's: the way back."""
    visual = {k.removeprefix("visual."): t for k, t in clip.items() if k.startswith("visual.")}
    words = {k: t for k, t in clip.items() if not k.startswith(("visual.", "logit_"))}
    states = {}
    for kind, m, state in (("image", image, visual), ("text", text, words)):
        own = {f"{OWN}{name}": t for name, t in state.items()}
        if (head := recipe.towers[m].head) is not None:
            matrix = own.pop(f"{OWN}{PROJECTIONS[kind]}")
            own |= {"head.weight": matrix.T.contiguous()} if head.name == "linear" else {}
        states[m] = own
    return states


def _plain(source: Source, modality: str, kind: str) -> dict[str, Tensor]:
    """A tower's weights under the names of its class in open_clip, its head as the class's own projection."""
    state = source.state(modality)
    plain = {k.removeprefix(OWN): t for k, t in state.items() if k.startswith(OWN)}
    head, names = source.recipe.towers[modality].head, {k for k in state if not k.startswith(OWN)}
    if head is None and not names:
        return plain
    if head is not None and head.name == "none" and not names:
        matrix = torch.eye(source.encoder.dim)
    elif head is not None and names == {"head.weight"}:
        matrix = state["head.weight"].T
    else:
        by = ", ".join(sorted(names)) if head is None else head.name
        raise MmclError(f"towers.{modality}.head: CLIP projects by one matrix, and not by {by}.")
    return plain | {PROJECTIONS[kind]: matrix}
