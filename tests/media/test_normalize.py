"""Normalised pixels are those of the equation, in every layout."""

import pytest
import torch

from mmcl.errors import MmclError
from mmcl.media import Normalize

MEAN, STD = (0.48, 0.1, 0.4), (0.26, 0.3, 0.5)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pixels_are_those_of_the_equation(layout: torch.memory_format, dtype: torch.dtype) -> None:
    rows = torch.randint(0, 256, (5, 3, 7, 9), dtype=torch.uint8).to(memory_format=layout)
    before = rows.clone()
    module = Normalize(MEAN, STD).to(dtype)
    mean, std = (torch.tensor(x, dtype=torch.float64).view(3, 1, 1) for x in (MEAN, STD))
    expected = (rows.double() / 255 - mean) / std
    found = module(rows)
    assert found.dtype == dtype
    assert found.is_contiguous()  # whatever the layout of the rows
    assert torch.allclose(found.double(), expected, atol=1e-6)
    assert torch.equal(rows, before)


def test_many_pictures_are_written_in_parts_that_do_not_fit_evenly() -> None:
    rows = torch.randint(0, 256, (7, 3, 110, 120), dtype=torch.uint8)  # three pictures at a time, and one
    wide = (rows.float() - 255 * torch.tensor(MEAN).view(3, 1, 1)) / (255 * torch.tensor(STD).view(3, 1, 1))
    assert torch.allclose(Normalize(MEAN, STD)(rows), wide, atol=1e-5)


def test_memory_is_used_again_only_when_nobody_holds_it() -> None:
    """A backward pass reads the pixels of its own batch, also after another batch was normalised."""
    module, weight = Normalize(MEAN, STD), torch.ones(3, 1, 1, requires_grad=True)
    one, other = (torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8) for _ in range(2))
    expected = module(one).clone().sum((0, 2, 3))
    kept = (module(one) * weight).sum()  # holds its pixels for the gradient of the weight
    module(other)
    kept.backward()
    assert weight.grad is not None
    assert torch.allclose(weight.grad.flatten(), expected, atol=1e-5)
    pixels = module(one)
    where = pixels.data_ptr()
    assert module(other).data_ptr() != where
    del pixels
    assert where in {found.data_ptr() for found in [module(other), module(other)]}


def test_it_is_exact_for_one_picture_one_pixel_and_none() -> None:
    for shape in [(1, 3, 4, 4), (0, 3, 4, 4), (2, 3, 1, 1)]:
        rows = torch.randint(0, 256, shape, dtype=torch.uint8)
        wide = (rows.float() - 255 * torch.tensor(MEAN).view(3, 1, 1)) / (255 * torch.tensor(STD).view(3, 1, 1))
        assert torch.allclose(Normalize(MEAN, STD)(rows), wide, atol=1e-5)


def test_other_channels_and_shapes_are_refused() -> None:
    for shape in [(1, 1, 12, 10), (6, 6, 4, 4), (3, 4, 4)]:
        with pytest.raises(MmclError, match="mean of 3 channels"):
            Normalize.forward.__wrapped__(Normalize(MEAN, STD), torch.zeros(shape, dtype=torch.uint8))  # type: ignore[attr-defined]
