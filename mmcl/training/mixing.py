"""Rows that are mixtures of two before they reach the towers (CutMix, mixup); the objective's targets follow."""

import zlib
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mmcl import distributed
from mmcl.errors import MmclError
from mmcl.recipe import MixSpec


class Drawn(NamedTuple):
    """What this process's rows are mixed with."""

    partner: Int[Tensor, " rows"]  # number of the other row among this process's
    weight: Float[Tensor, " rows"]  # of what is the row's own; 1 where it stays alone
    boxes: Float[Tensor, "rows 4"]  # cutmix: top, left, bottom and right, as shares of the picture


def check_blocks(mix: dict[str, MixSpec], rows: int, processes: int) -> None:
    """Refuse blocks that two processes would share.

    Raises:
        MmclError: a process's rows do not begin with a block.
    """
    for name, spec in mix.items():
        if any(distributed.share(rows, rank, processes)[0] % spec.group for rank in range(processes)):
            raise MmclError(
                f"data.mix.{name}: {rows} rows on {processes} processes are not whole groups of {spec.group} each; "
                "let data.batch_size be a multiple of processes x group."
            )


def draw(spec: MixSpec, name: str, present: Bool[Tensor, " rows"], offset: int, seed: int, step: int) -> Drawn:
    """Partners, weights and boxes of this process's rows, by (seed, step, block); absent rows stay alone.

    Weights are what is left of a picture once its box is cut to its borders.
    """
    rows = present.shape[0]
    partner, weight, boxes = np.arange(rows), np.ones(rows), np.zeros((rows, 4))
    there = present.numpy()
    for first in range(0, rows, spec.group):
        rng = np.random.default_rng([seed % 2**64, step, zlib.crc32(name.encode()), (offset + first) // spec.group])
        own = np.arange(first, min(first + spec.group, rows))
        mixed, share = rng.random(spec.group) < spec.p, rng.beta(spec.alpha, spec.alpha, spec.group)
        centre, order = rng.random((spec.group, 2)), rng.random(spec.group)
        some = own[there[own]]
        partner[some] = some[order[some - first].argsort()]
        alone = ~mixed[own - first] | ~there[own] | (partner[own] == own)
        half = np.sqrt(1 - share[own - first])[:, None] / 2
        low, high = (centre[own - first] - half).clip(0, 1), (centre[own - first] + half).clip(0, 1)
        if spec.kind == "mixup":
            weight[own] = np.where(alone, 1.0, share[own - first])
        else:
            boxes[own] = np.where(alone[:, None], 0.0, np.concatenate([low, high], 1))
    return Drawn(torch.from_numpy(partner), torch.from_numpy(weight).float(), torch.from_numpy(boxes).float())


def mixed(
    spec: MixSpec, x: Shaped[Tensor, "present ..."], drawn: Drawn, present: Bool[Tensor, " rows"]
) -> tuple[Shaped[Tensor, "present ..."], Float[Tensor, " rows"]]:
    """The rows that are there, as mixtures, and the weight of what is the own of each of all rows.

    Args:
        spec: how.
        x: rows that are there, on the device.
        drawn: for all rows of this process.
        present: which of them are there.
    """
    place = (present.long().cumsum(0) - 1).clamp(min=0)  # of each row among those that are there
    partner = place[drawn.partner][present].to(x.device, non_blocking=True)
    if spec.kind == "mixup":
        weight = drawn.weight[present].to(x.device, x.dtype).view(-1, *[1] * (x.ndim - 1))
        return weight * x + (1 - weight) * x[partner], drawn.weight
    height, width = x.shape[-2:]
    size = torch.tensor([height, width, height, width])
    edges = (drawn.boxes * size).round().long()
    cut = (edges[:, 2] - edges[:, 0]) * (edges[:, 3] - edges[:, 1])
    top, left, bottom, right = edges[present].to(x.device, non_blocking=True)[:, :, None].unbind(1)
    rows, columns = (torch.arange(n, device=x.device) for n in (height, width))
    inside = ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None, :]
    return torch.where(inside[:, None], x[partner], x), 1 - cut / (height * width)
