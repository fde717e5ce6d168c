"""What else is known of samples: numbers that lie in the shards, one or a vector of fixed width each."""

import contextlib
from collections import Counter
from collections.abc import Iterable
from itertools import islice

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmcl.data.source import Choice, Selector, array, parsed
from mmcl.data.store import Shard
from mmcl.errors import AbsentError, BadSampleError, MmclError
from mmcl.types import Draw, Transform

LOOKED_AT = 10_000  # samples of a source, for one that has an extra
ENOUGH = 16  # values that say how many numbers it has


def extra_selector(said: str, where: str) -> Selector:
    """Where an extra lies in a sample, from what a recipe says.

    Raises:
        MmclError: no numbers lie there.
    """
    selector = Selector.parse(said, where)
    for choice in selector.choices:
        if choice.kind not in ("npy", "json") or (choice.kind == "npy" and choice.field):
            raise MmclError(
                f"{where}: {said!r}: numbers lie in a member (`npy`, `json`) or in a field of a JSON member, as in "
                "`json:score`."
            )
    return selector


def numbers(choice: Choice, data: bytes) -> Float[Tensor, "..."]:
    """A number (no axis), or a vector, as float32.

    Raises:
        AbsentError: the sample has none.
        BadSampleError: what lies there is neither.
    """
    if choice.kind == "npy":
        values = array(data)
    else:
        found = parsed(data, choice.field)
        if found is None:
            raise AbsentError("no number in the JSON")
        if not all(isinstance(one, int | float) for one in (found if isinstance(found, list) else [found])):
            raise BadSampleError("the JSON has no number there, and no list of numbers")
        try:
            values = torch.tensor(found, dtype=torch.float64).float()
        except OverflowError:
            values = torch.tensor(torch.inf)
        if not values.isfinite().all():
            raise BadSampleError("numbers are not finite")
    if values.ndim > 1:
        raise BadSampleError(f"an array of {values.ndim} axes is neither a number nor a vector")
    if not values.numel():
        raise AbsentError("a vector of no numbers")
    return values


class Numbers(Transform):
    """Numbers, as they are.

    Args:
        shape: of one value: nothing, or the width of a vector.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def empty(self, rows: int) -> Float[Tensor, "rows ..."]:
        """Zeros."""
        return torch.zeros(rows, *self.shape)

    def __call__(self, value: Float[Tensor, "..."], draw: Draw, out: Float[Tensor, "..."]) -> None:
        """Fill one row."""
        if tuple(value.shape) != self.shape:
            raise BadSampleError(f"{in_words(tuple(value.shape))} where others have {in_words(self.shape)}")
        out.copy_(value)

    def finish(self, rows: Float[Tensor, "rows ..."], present: Bool[Tensor, " rows"]) -> Float[Tensor, "rows ..."]:
        """The rows; nothing was written to those that are absent."""
        return rows


def in_words(shape: tuple[int, ...]) -> str:
    """A shape, for a message.

    >>> in_words(()), in_words((512,))
    ('one number', 'a vector of 512')
    """
    return f"a vector of {shape[0]}" if shape else "one number"


def shape_of(name: str, selector: Selector, shards: Iterable[Shard], shown: str) -> tuple[int, ...]:
    """How many numbers an extra has, as most of the first samples that have it say.

    Args:
        name: of the extra.
        selector: where it lies.
        shards: of a source.
        shown: what a message calls them.

    Raises:
        MmclError: none of the first samples has it.
    """
    found, members, looked = Counter[tuple[int, ...]](), set[str](), 0
    samples = ((shard, sample) for shard in shards for sample in range(len(shard)))
    for shard, sample in islice(samples, LOOKED_AT):
        looked += 1
        there = shard.members(sample)
        members.update(there)
        choice = selector.find(there)
        if choice is not None:
            with contextlib.suppress(BadSampleError):
                found[tuple(numbers(choice, shard.read([there[choice.extension]])[0]).shape)] += 1
        if found.total() == ENOUGH:
            break
    if not found:
        raise MmclError(
            f"data: none of the first {looked:,} samples of {shown} has the extra {name}, or none can be read; their "
            f"members are: {', '.join(sorted(members)[:20])}. Correct `extras`, or leave {name} out."
        )
    return found.most_common(1)[0][0]
