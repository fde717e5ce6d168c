"""Groups of what is equal, and of what differs in few bits."""

import io

import numpy as np
import pytest
from PIL import Image

from mmcl.data_stats.alike import BITS, Alike, alike, near
from mmcl.data_stats.values import look
from mmcl.media import Picture
from tests.data_stats.test_stats import photo

COUNT, COPIES = 20_000, 500


def test_equal_numbers_are_groups_the_largest_first() -> None:
    found = alike(np.array([7, 3, 9, 3, 7, 3, 1, 1], np.uint64), 2)
    assert (found.groups, found.values) == (3, 7)
    assert [rows.tolist() for rows in found.largest] == [[1, 3, 5], [0, 4]]  # of two pairs the one that comes first
    assert alike(np.array([1, 2], np.uint64), 5) == Alike(0, 0, [])
    assert alike(np.empty(0, np.uint64), 5) == Alike(0, 0, [])


@pytest.mark.parametrize(("bits", "least"), [(0, 1.0), (1, 1.0), (BITS, 1.0)])
def test_looks_that_differ_in_few_bits_are_found(bits: int, least: float) -> None:
    generator = np.random.default_rng(bits)
    looks = generator.integers(0, 2**64, COUNT, dtype=np.uint64)
    copies = looks[:COPIES].copy()
    for i in range(COPIES):
        for bit in generator.choice(64, bits, replace=False):
            copies[i] ^= np.uint64(1) << np.uint64(bit)
    group = near(np.concatenate([looks, copies]))
    assert np.mean(group[:COPIES] == group[COUNT:]) >= least
    assert len(np.unique(group[:COUNT])) == COUNT  # nothing else is joined


def test_looks_that_differ_in_more_bits_are_not_joined() -> None:
    found = near(np.array([0, 0b111, 0b11, 2**63], np.uint64)).tolist()
    assert found[0] == found[2] == found[3] != found[1]  # 0b11 is near to 0b111, but is led by 0
    assert len(set(near(np.array([5], np.uint64)))) == 1
    assert len(near(np.empty(0, np.uint64))) == 0


def test_a_picture_that_was_scaled_and_compressed_looks_the_same() -> None:
    """And another does not."""
    looks = [look(Picture(photo(seed, 320, 240, quality=95)))[0] for seed in range(40)]
    again = [look(Picture(photo(seed, 160, 120, quality=75)))[0] for seed in range(40)]
    assert np.mean([(a ^ b).bit_count() <= BITS for a, b in zip(looks, again, strict=True)]) >= 0.85
    assert not any((a ^ b).bit_count() <= BITS for i, a in enumerate(looks) for b in again[:i])


def test_a_picture_of_one_colour_is_flat() -> None:
    out = io.BytesIO()
    Image.new("RGB", (50, 40), (200, 30, 30)).save(out, "PNG")
    assert look(Picture(out.getvalue()))[1]
    assert not look(Picture(photo(0, 50, 40)))[1]
