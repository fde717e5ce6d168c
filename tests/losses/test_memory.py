"""What a loss remembers of each sample, against a dictionary."""

import logging

import pytest
import torch
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.losses.memory import NOBODY, SampleMemory, keyed


def drawn(rows: int, among: Tensor, generator: torch.Generator) -> Tensor:
    return among[torch.randint(0, len(among), (rows,), generator=generator)]


def samples(count: int, generator: torch.Generator) -> Tensor:
    """Ids of every kind: any 64 bits, small ones in a row, and multiples that a poor hash would heap up."""
    anything = torch.randint(NOBODY + 1, 2**63 - 1, (count // 2,), generator=generator)
    return torch.cat([anything, torch.arange(count // 4), 4096 * torch.arange(1, count - count // 2 - count // 4 + 1)])


@pytest.mark.parametrize("slots", [1, 40, 2000])
def test_it_remembers_what_a_dictionary_does(slots: int) -> None:
    generator = torch.Generator().manual_seed(slots)
    among = samples(max(4, 3 * slots // 4), generator)  # three quarters full at the end
    memory, expected = SampleMemory(slots, 2), dict[int, list[float]]()
    for _ in range(60):
        ids = drawn(64, among, generator)
        values = torch.randn(64, 2, generator=generator)
        memory.write(ids, values)
        for key in set(ids.tolist()):
            expected[key] = values[ids == key].double().mean(0).tolist()
        asked = torch.cat([among, torch.tensor([-5, 2**62 + 1])])
        found, seen = memory.read(asked)
        assert seen.tolist() == [key in expected for key in asked.tolist()]
        truth = torch.tensor([expected.get(key, [0.0, 0.0]) for key in asked.tolist()])
        torch.testing.assert_close(found, truth)
    assert memory.lost == 0
    assert len(expected) > 0.7 * len(among)


def test_a_nearly_full_table_loses_nothing_and_a_full_one_says_what_it_lost(caplog: pytest.LogCaptureFixture) -> None:
    generator = torch.Generator().manual_seed(0)
    memory = SampleMemory(20_000)
    room = memory.buckets * 16
    ids = torch.randint(NOBODY + 1, 2**63 - 1, (2 * room,), generator=generator)
    values = torch.arange(2.0 * room)[:, None]
    for start in range(0, 8 * room // 10, 500):
        memory.write(ids[start : start + 500], values[start : start + 500])
    assert memory.lost == 0
    memory.state_dict()
    assert not caplog.records
    for start in range(0, 2 * room, 500):
        memory.write(ids[start : start + 500], values[start : start + 500])
    found, seen = memory.read(ids)
    assert int(seen.sum()) > 0.95 * room  # it takes on until there is no room
    assert int(seen.sum()) + int(memory.lost) == 2 * room
    torch.testing.assert_close(found[seen], values[seen])
    assert seen[: 8 * room // 10].all()  # nobody is thrown out
    with caplog.at_level(logging.WARNING):
        memory.state_dict()
    assert f"{int(memory.lost)} times a sample found none" in caplog.text


def test_rows_that_are_nobody_are_not_written_whatever_they_hold() -> None:
    memory = SampleMemory(64)
    memory.write(torch.tensor([3, NOBODY, NOBODY]), torch.tensor([[1.0], [float("nan")], [float("inf")]]))
    found, seen = memory.read(torch.tensor([NOBODY, 3]))
    assert (found.flatten().tolist(), seen.tolist()) == ([0.0, 1.0], [False, True])
    assert int((memory.keys != NOBODY).sum()) == 1
    assert memory.values.isfinite().all()
    memory.write(torch.zeros(0, dtype=torch.long), torch.zeros(0, 1))
    assert memory.read(torch.zeros(0, dtype=torch.long))[1].shape == (0,)


def test_names_keep_the_same_samples_apart() -> None:
    ids = torch.cat([torch.arange(500), torch.randint(NOBODY, 2**63 - 1, (500,))])
    names = [keyed(ids, name) for name in ("text>image", "image>text", "text>image/64", "")]
    assert len(torch.cat(names).unique()) == 4000


def test_it_goes_on_from_a_checkpoint_of_the_same_size_only() -> None:
    memory, other = SampleMemory(64, 2), SampleMemory(64, 2)
    memory.write(torch.tensor([5, -7]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    other.load_state_dict(memory.state_dict())
    assert other.read(torch.tensor([-7]))[0].tolist() == [[3.0, 4.0]]
    for wrong in (SampleMemory(640, 2), SampleMemory(64, 1)):
        with pytest.raises(MmclError, match=r"remembers samples in 80 places of 2 numbers, .*`slots` as it was"):
            wrong.load_state_dict(memory.state_dict())


def test_nothing_waits_for_a_device() -> None:
    """On the meta device every question about a value is an error."""
    memory = SampleMemory(1000, 2).to("meta")
    ids = torch.zeros(32, dtype=torch.long, device="meta")
    memory.write(ids, torch.zeros(32, 2, device="meta"))
    values, seen = memory.read(keyed(ids, "text>image"))
    assert (values.shape, seen.shape) == ((32, 2), (32,))
