"""What a loss remembers of each sample."""

import hashlib
import itertools
import logging
from math import isqrt
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmcl.errors import MmclError

NOBODY = -(2**63)
"""The id of rows that are no samples: never found and never written."""
WIDTH = 16  # places of a bucket
PROBES = 8  # buckets in which a sample may lie
_log = logging.getLogger(__name__)


class SampleMemory(nn.Module):
    """A table of a few numbers for each sample, which checkpoints carry.

    Samples are named by any 64-bit numbers, and the table has a fixed number of places, so that it lies on the device
    and nothing waits for it. It is open addressing over buckets of 16 places: a sample lies in the first one with room,
    of eight that its id names (double hashing; neighbours, as in linear probing, fill up together, and the first
    sample was lost at 7 in 10 places). A batch is placed at once: of the new samples that look into the same bucket,
    the n-th takes the n-th free place, so the layout depends on no race and is the same on every process.

    Rows of one batch with the same id write the mean of their values. A sample that finds no room is not remembered and
    is new whenever it comes again; how often that happened is counted in `lost` and told when a checkpoint is made,
    which is when the host waits for the device anyway. Of a million places, eight in ten are taken before the first
    sample is lost.

    Args:
        slots: places, rounded up to a prime number of buckets.
        columns: numbers of each sample.

    Example:
        >>> memory = SampleMemory(slots=100)
        >>> memory.write(torch.tensor([7, 9, 7]), torch.tensor([[1.0], [5.0], [3.0]]))
        >>> values, seen = memory.read(torch.tensor([7, 8, 9]))
        >>> values.flatten().tolist(), seen.tolist()
        ([2.0, 0.0, 5.0], [True, False, True])
    """

    keys: Tensor
    values: Tensor
    lost: Tensor

    def __init__(self, slots: int, columns: int = 1) -> None:
        super().__init__()
        self.buckets = _prime(-(-slots // WIDTH))
        # one more bucket takes what is not to be written; it stays empty
        self.register_buffer("keys", torch.full((self.buckets + 1, WIDTH), NOBODY))
        self.register_buffer("values", torch.zeros(self.buckets + 1, WIDTH, columns))
        self.register_buffer("lost", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def read(self, ids: Int[Tensor, " rows"]) -> tuple[Float[Tensor, "rows columns"], Bool[Tensor, " rows"]]:
        """Values, and whether there are any; zeros where there are none."""
        bucket, place, found = self._find(ids)
        return torch.where(found[:, None], self.values[bucket, place], 0.0), found

    @torch.no_grad()
    def write(self, ids: Int[Tensor, " rows"], values: Float[Tensor, "rows columns"]) -> None:
        """Remember values; rows whose id is `NOBODY` are left out, whatever they hold."""
        ids, values = _means(ids, values.to(self.values.dtype))
        bucket, place, found = self._find(ids)
        waiting, nowhere = ~found & (ids != NOBODY), self.buckets
        probes = self._probes(ids)
        for probe in range(PROBES):
            if waiting.device.type == "cpu" and not waiting.any():
                break
            here = torch.where(waiting, probes[:, probe], nowhere)
            free = self.keys[here] == NOBODY
            chosen = free & (free.cumsum(1) == _before(here)[:, None] + 1)
            fits = waiting & chosen.any(1)
            bucket, place = torch.where(fits, here, bucket), torch.where(fits, chosen.byte().argmax(1), place)
            self.keys[torch.where(fits, here, nowhere), place] = torch.where(fits, ids, NOBODY)
            waiting = waiting & ~fits
        self.lost += waiting.sum()
        placed = ~waiting & (ids != NOBODY)
        self.values[torch.where(placed, bucket, nowhere), place] = torch.where(placed[:, None], values, 0.0)

    def _probes(self, ids: Int[Tensor, " rows"]) -> Int[Tensor, "rows probes"]:
        """The buckets in which a sample may lie: from a first one on, by a stride of its own (double hashing)."""
        first = _mixed(ids)
        stride = _mixed(first) % max(1, self.buckets - 1) + 1
        return (
            first[:, None] % self.buckets + stride[:, None] * torch.arange(PROBES, device=ids.device)
        ) % self.buckets

    def _find(self, ids: Int[Tensor, " rows"]) -> tuple[Int[Tensor, " rows"], Int[Tensor, " rows"], Tensor]:
        """Bucket and place of each sample, and whether it is there."""
        probes = self._probes(ids)
        hit = (self.keys[probes] == ids[:, None, None]).flatten(1)
        at = hit.byte().argmax(1)
        return probes.gather(1, at[:, None] // WIDTH)[:, 0], at % WIDTH, hit.any(1) & (ids != NOBODY)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        if self.lost.device.type != "meta" and (lost := int(self.lost)):
            _log.warning(
                "the memory of samples has %d places and is full: %d times a sample found none, and what was learned "
                "of it is forgotten. Raise `slots` in the next run.",
                self.buckets * WIDTH,
                lost,
            )
        super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        theirs = state_dict.get(f"{prefix}values")
        if theirs is not None and theirs.shape != self.values.shape:
            raise MmclError(
                f"{prefix}values: the checkpoint remembers samples in {(theirs.shape[0] - 1) * WIDTH} places of "
                f"{theirs.shape[2]} numbers, and here are {self.buckets * WIDTH} of {self.values.shape[2]}. "
                "Set `slots` as it was; it cannot change within a run."
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _prime(least: int) -> int:
    """The next prime: then every stride comes to every bucket."""
    return next(n for n in itertools.count(least) if all(n % d for d in range(2, isqrt(n) + 1)))


def keyed(ids: Int[Tensor, " rows"], name: str) -> Int[Tensor, " rows"]:
    """Ids under a name: what one memory keeps of the same samples for different purposes does not mix."""
    return ids ^ int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


def _means(
    ids: Int[Tensor, " rows"], values: Float[Tensor, "rows columns"]
) -> tuple[Int[Tensor, " rows"], Float[Tensor, "rows columns"]]:
    """Each id once with the mean of its values, and `NOBODY` in the rows that are left over."""
    order = ids.argsort(stable=True)
    ids = ids[order]
    first = torch.searchsorted(ids, ids)  # the first of those with the same id
    sums = torch.zeros_like(values).index_add(0, first, values[order])
    count = torch.zeros_like(ids).index_add(0, first, torch.ones_like(ids))
    return torch.where(count > 0, ids, NOBODY), sums / count.clamp(min=1)[:, None]


def _before(groups: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """How many rows before each one are of its group."""
    order = groups.argsort(stable=True)
    ranked = groups[order]
    rank = torch.arange(len(groups), device=groups.device) - torch.searchsorted(ranked, ranked)
    return torch.empty_like(rank).scatter(0, order, rank)


def _mixed(x: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """A number in which every bit depends on every bit (the finalizer of SplitMix64)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ ((x >> shift) & (2 ** (64 - shift) - 1))) * (factor - 2**64)
    return x ^ ((x >> 31) & (2**33 - 1))
