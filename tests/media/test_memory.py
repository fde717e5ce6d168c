"""Memory of batches comes back, and never while somebody holds it."""

import copy
import gc
import pickle

import pytest
import torch
from torch import Tensor

from mmcl.media.memory import KEPT, Memory

SHAPE = (4, 3, 5)


def made(memory: Memory, dtype: torch.dtype = torch.float32) -> Tensor:
    return memory.empty(SHAPE, dtype)


@pytest.mark.parametrize(
    "hold",
    [
        lambda x: x,
        lambda x: x[1:2],
        lambda x: x.permute(2, 0, 1),
        lambda x: x.numpy()[2],
        lambda x: x.untyped_storage(),
    ],
)
def test_what_is_held_in_any_way_is_not_used_again(hold: object) -> None:
    memory = Memory()
    first = made(memory)
    place = first.data_ptr()
    held = hold(first)  # type: ignore[operator]
    del first
    gc.collect()
    assert made(memory).data_ptr() != place
    del held
    gc.collect()
    assert place in {x.data_ptr() for x in [made(memory), made(memory)]}


def test_another_size_has_memory_of_its_own() -> None:
    memory = Memory()
    made(memory)
    assert memory.empty((2, 3), torch.uint8).shape == (2, 3)
    assert made(memory).dtype == torch.float32


def test_not_more_is_kept_than_is_useful() -> None:
    memory = Memory()
    many = [made(memory) for _ in range(3 * KEPT)]
    assert len({x.data_ptr() for x in many}) == 3 * KEPT
    del many
    gc.collect()
    assert len(memory._free) == KEPT
    assert memory.empty((0, 3), torch.float32).shape == (0, 3)


def test_a_copy_takes_no_pixels_along() -> None:
    memory = Memory()
    made(memory)
    assert len(memory._free) == 1
    assert len(pickle.dumps(memory)) < 200
    assert not copy.deepcopy(memory)._free
