"""Pooling by mask."""

import pytest
import torch

from mmcl.towers.pooling import Pool, masked_mean, pooled

ROWS = torch.tensor([[5, 3, 7, 3, -1], [5, 3, -1, -1, -1], [6, 6, 3, 6, 6]])  # 3 ends a text
HIDDEN = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("pool", "places"), [("cls", [0, 0, 0]), ("eos", [3, 1, 2]), ("last", [3, 1, 4])])
def test_one_state_stands_for_a_text(pool: Pool, places: list[int]) -> None:
    assert pooled(HIDDEN, ROWS, pool, eos_id=3).equal(HIDDEN[[0, 1, 2], places])


def test_the_mean_is_that_of_the_tokens() -> None:
    expected = torch.stack([HIDDEN[0, :4].mean(0), HIDDEN[1, :2].mean(0), HIDDEN[2].mean(0)])
    hidden = HIDDEN.masked_fill((ROWS < 0)[:, :, None], torch.nan)  # what stands at padding is not looked at
    torch.testing.assert_close(pooled(hidden, ROWS, "mean"), expected)


@pytest.mark.parametrize("pool", ["mean", "cls", "eos", "last"])
def test_padding_may_stand_anywhere(pool: Pool) -> None:
    left = pooled(HIDDEN.roll(2, 1), ROWS.roll(2, 1)[1:2].expand(3, -1), pool, eos_id=3)[1]
    torch.testing.assert_close(left, pooled(HIDDEN, ROWS, pool, eos_id=3)[1])


def test_the_mean_is_taken_in_fp32() -> None:
    hidden = torch.randn(4, 300, 64, generator=torch.Generator().manual_seed(1)).bfloat16() + 1
    rows = torch.zeros(4, 300, dtype=torch.long)
    rows[1, 217:], rows[2, 7:] = -1, -1
    expected = torch.stack([h[r >= 0].float().mean(0) for h, r in zip(hidden, rows, strict=True)])
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(masked_mean(hidden, rows >= 0), expected, rtol=1e-6, atol=1e-6)
        assert pooled(hidden, rows, "mean").equal(expected.bfloat16())
