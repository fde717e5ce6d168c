"""Rows of made-up values, by which an export is held to the towers that it was made of."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.exports.base import Source
from mmcl.media import Picture, Sound
from mmcl.types import Transform

TOLERANCE = 1e-4


def examples(takes: str, transform: Transform) -> tuple[Tensor, Tensor]:
    """Two batches of rows: of short values, and of long ones."""
    rng = np.random.default_rng(0)
    pair: list[list[Any]] = [[], []]
    if takes == "text":
        pair = [["a b", "c"], ["a photo of a small red house by the sea", "a b"]]
    elif takes == "audio":
        noise = rng.uniform(-1, 1, 48_000).astype(np.float32)
        pair = [[Sound.of(noise[:n], 16_000) for n in lengths] for lengths in ((9_000, 8_000), (48_000, 20_000))]
    elif takes == "image":
        pixels = rng.integers(0, 256, (64, 48, 3), dtype=np.uint8)
        pair = [[Picture.of(pixels), Picture.of(pixels[::-1].copy())]] * 2
    batches = []
    for values in pair:
        rows = transform.empty(2)
        if not values:  # numbers of one width
            rows.copy_(torch.from_numpy(rng.normal(size=rows.shape)))
        for value, row in zip(values, rows, strict=bool(values)):
            transform(value, np.random.default_rng, row)
        batches.append(transform.finish(rows, torch.ones(2, dtype=torch.bool)).contiguous())
    return batches[0], batches[1]


def compare(source: Source, modality: str, theirs: Callable[[Tensor], Tensor]) -> None:
    """Hold a library's vectors of a few rows to the tower's.

    Args:
        source: the run.
        modality: of the tower.
        theirs: vectors of rows as the tower's transform makes them, by the library's model.

    Raises:
        MmclError: they differ.
    """
    tower = source.tower(modality)
    for rows in examples(tower.takes, source.encoder.transforms[modality]):
        with torch.no_grad():
            ours, others = (F.normalize(embed(rows).float(), dim=-1) for embed in (tower, theirs))
        if ours.shape != others.shape or not (ours - others).abs().max() <= TOLERANCE:
            raise MmclError(f"towers.{modality}: the library's class finds other vectors than this tower.")
