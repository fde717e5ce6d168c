"""Rows that are mixtures of two before they reach the towers (CutMix, mixup); the objective's targets follow."""

import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mmcl import distributed
from mmcl.errors import MmclError
from mmcl.model import MultiTower, evaluating
from mmcl.specs import MixSpec
from mmcl.types import modality_of

RELEVANCE = 0.1  # temperature of the patches' softmax


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
    spec: MixSpec,
    x: Shaped[Tensor, "present ..."],
    drawn: Drawn,
    present: Bool[Tensor, " rows"],
    matter: Float[Tensor, "rows height width"] | None = None,
) -> tuple[Shaped[Tensor, "present ..."], Float[Tensor, " rows"]]:
    """The rows that are there, as mixtures, and the weight of what is the own of each of all rows.

    Args:
        spec: how.
        x: rows that are there, on the device.
        drawn: for all rows of this process.
        present: which of them are there.
        matter: how much each patch of all rows matters (`matters`); weights are areas where None.
    """
    place = (present.long().cumsum(0) - 1).clamp(min=0)  # of each row among those that are there
    partner = place[drawn.partner][present].to(x.device, non_blocking=True)
    if spec.kind == "mixup":
        weight = drawn.weight[present].to(x.device, x.dtype).view(-1, *[1] * (x.ndim - 1))
        return weight * x + (1 - weight) * x[partner], drawn.weight
    height, width = x.shape[-2:]
    size = torch.tensor([height, width, height, width])
    edges = (drawn.boxes * size).round().long()
    top, left, bottom, right = edges[present].to(x.device, non_blocking=True)[:, :, None].unbind(1)
    rows, columns = (torch.arange(n, device=x.device) for n in (height, width))
    inside = ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None, :]
    return torch.where(inside[:, None], x[partner], x), _weights(edges / size, drawn.partner, matter)


def _weights(
    boxes: Float[Tensor, "rows 4"], partner: Int[Tensor, " rows"], matter: Float[Tensor, "rows height width"] | None
) -> Float[Tensor, " rows"]:
    """Of what a row's own picture shows: its share of the area, or of all that matters and is seen."""
    if matter is None:
        return 1 - (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    boxes, partner = boxes.to(matter, non_blocking=True), partner.to(matter.device, non_blocking=True)
    covered = [_covered(boxes[:, i], boxes[:, i + 2], matter.shape[i + 1]) for i in (0, 1)]
    under = covered[0][:, :, None] * covered[1][:, None, :]  # share of each patch that the box hides
    own, other = (matter * (1 - under)).sum((1, 2)), (matter[partner] * under).sum((1, 2))
    return own / (own + other)


def _covered(low: Float[Tensor, " rows"], high: Float[Tensor, " rows"], parts: int) -> Float[Tensor, "rows parts"]:
    """Which share of each of so many equal parts of a side lies between two places."""
    first = torch.arange(parts, device=low.device) / parts
    return (torch.minimum(high[:, None], first + 1 / parts) - torch.maximum(low[:, None], first)).clamp(min=0) * parts


@torch.no_grad()
def matters(
    model: MultiTower, rows: Mapping[str, Tensor], present: Mapping[str, Bool[Tensor, " rows"]], name: str, by: str
) -> Float[Tensor, "rows height width"]:
    r"""How much each patch of a picture matters to what another modality says of it, as the towers see it now.

    .. math:: r_{ip} = \mathrm{softmax}_p(\cos(x_{ip}, t_i) / 0.1)

    over the patches p of row i. Where one of the two is missing, all patches matter alike.

    Differs from the paper: known here from a summary of it, by which weights are shares of relevant patches. It trains
    a predictor of relevance that also chooses what is pasted; here relevance comes from the towers themselves, in
    evaluation mode, and boxes are drawn as in CutMix.

    Args:
        model: the towers, before anything wraps them.
        rows: those of each name that are there.
        present: which of this process's rows are there, by name.
        name: of the pictures.
        by: of what is said of them.

    Reference:
        Jiang et al., "TiMix: Text-aware Image Mixing for Effective Vision-Language Pre-training", AAAI 2024
        (https://arxiv.org/abs/2312.08846).
    """
    pictures, others = (model.tower(modality_of(m)) for m in (name, by))
    both = present[name] & present[by]
    with evaluating(pictures, others):
        patches = F.normalize(pictures.patches(rows[name]).float(), dim=-1)
        alike = patches.new_zeros(both.shape[0], *patches.shape[1:3])
        if both.any():
            said = F.normalize(others(rows[by][both[present[by]]]).float(), dim=-1)
            cosines = torch.einsum("nhwd,nd->nhw", patches[both[present[name]]], said)
            alike = alike.index_put((both.nonzero()[:, 0].to(alike.device, non_blocking=True),), cosines)
    return (alike / RELEVANCE).flatten(1).softmax(1).view_as(alike)
