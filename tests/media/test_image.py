"""Pictures: the pixels of Pillow and of open_clip, whatever the file."""

import io
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from mmcl.errors import BadSampleError, MmclError
from mmcl.media import Box, ImageTransform, Picture
from mmcl.media.image import MAX_PIXELS, rgb


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Like a photograph: amplitudes fall with the frequency, colours go together."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    spectrum = (
        np.exp(2j * np.pi * rng.random((4, *frequency.shape))) / np.maximum(frequency, 1 / max(height, width)) ** 1.2
    )
    layers = np.fft.irfft2(spectrum, s=(height, width))
    pixels = layers[0][..., None] + 0.3 * layers[1:].transpose(1, 2, 0)
    return np.clip((pixels - pixels.mean()) / pixels.std() * 45 + 120, 0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray | Image.Image, kind: str, **more: object) -> bytes:
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(out := io.BytesIO(), kind, **more)
    return out.getvalue()


def row(transform: ImageTransform, picture: Picture, seed: int = 0) -> torch.Tensor:
    (out,) = transform.empty(1)
    transform(picture, partial(draw, seed), out)
    return out


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_whole_pictures_are_those_of_pillow(kind: str, mode: str) -> None:
    data = encoded(Image.fromarray(photo(61, 83)).convert(mode), kind)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.abs(Picture(data).array().astype(int) - expected).mean() < 0.01
    assert (Picture(data).height, Picture(data).width) == (61, 83)


@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "JPEG"), ("P", "PNG"), ("1", "PNG"), ("LA", "PNG")])
def test_other_colour_spaces(mode: str, kind: str) -> None:
    data = encoded(Image.fromarray(photo(40, 30)).convert("L").convert(mode), kind)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.abs(Picture(data).array().astype(int) - expected).max() <= 1


def test_transparent_parts_become_white_and_sixteen_bits_eight() -> None:
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:4] = (10, 20, 30, 255)
    pixels = Picture(encoded(clear, "PNG")).array()
    assert (pixels[:4] == (10, 20, 30)).all()
    assert (pixels[4:] == 255).all()
    wide = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    assert np.abs(Picture(encoded(wide, "PNG")).array()[..., 0].astype(int) - wide // 257).max() <= 1


@pytest.mark.parametrize("size", [(90, 121), (121, 90), (64, 64), (300, 40)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_evaluation_gives_the_pixels_of_open_clip(size: tuple[int, int], kind: str) -> None:
    from open_clip.transform import image_transform

    data = encoded(photo(*size), kind)
    theirs = image_transform(32, is_train=False, mean=(0, 0, 0), std=(1, 1, 1))(Image.open(io.BytesIO(data))) * 255
    difference = (row(ImageTransform(32), Picture(data)).float() - theirs).abs()
    assert difference.mean() < 0.3
    assert difference.max() <= 2


@pytest.mark.parametrize(("side", "scale"), [(500, 1), (590, 2), (1170, 4), (2320, 8)])
def test_training_crops_are_those_of_pillow_also_where_decoding_is_scaled(side: int, scale: int) -> None:
    """The mean difference to Pillow's decoding, cutting and resizing of the same box is at most 2 of 255."""
    data = encoded(photo(side, side + 37, side), "JPEG", quality=90)
    whole = Image.open(io.BytesIO(data))
    for seed in range(4):
        picture = Picture(data)
        rng = draw(seed)
        box = Box(*(int(x) for x in rng.integers(0, side // 20, 2)), int(side * 0.95), int(side * 0.93))
        box = picture.aligned(box, 224, 224)
        (out,) = torch.empty(1, 224, 224, 3, dtype=torch.uint8)
        picture.resized(box, out, exact=False)
        expected = TF.resized_crop(whole, *box, [224, 224], InterpolationMode.BICUBIC)
        assert np.abs(out.numpy().astype(int) - np.asarray(expected)).mean() <= (0.5 if scale == 1 else 2.0)
        assert picture._scale(box, 224, 224) == scale
        picture.resized(box, out, exact=True)
        assert np.abs(out.numpy().astype(int) - np.asarray(expected)).mean() <= 0.1


def test_aligned_boxes_stay_inside_and_near() -> None:
    rng = np.random.default_rng(0)
    data = encoded(photo(613, 507), "JPEG")
    for _ in range(300):
        h, w = int(rng.integers(1, 614)), int(rng.integers(1, 508))
        box = Box(int(rng.integers(0, 614 - h)), int(rng.integers(0, 508 - w)), h, w)
        moved = Picture(data).aligned(box, 60, 60)
        scale = Picture(data)._scale(box, 60, 60)
        assert moved.top >= 0 <= moved.left
        assert moved.top + moved.height <= 613
        assert moved.left + moved.width <= 507
        assert max(abs(a - b) for a, b in zip(box, moved, strict=True)) <= 2 * scale


def test_training_crops_draw_from_what_they_are_given() -> None:
    transform = ImageTransform(32, crop=(0.3, 0.6))
    picture = Picture.of(photo(60, 44))
    again = [row(transform, picture, seed) for seed in (1, 1, 2)]
    assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], again[2])


def test_crops_cover_the_areas_and_ratios_that_torchvision_draws() -> None:
    from torchvision.transforms import RandomResizedCrop

    from mmcl.media.transforms import draw_box

    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    blank = torch.empty(3, 200, 300)
    ours = np.array([draw_box(200, 300, (0.2, 1.0), rng) for _ in range(2000)])
    theirs = np.array([RandomResizedCrop.get_params(blank, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(2000)])
    for quantile in (0.1, 0.5, 0.9):
        for column in range(4):
            assert abs(np.quantile(ours[:, column], quantile) - np.quantile(theirs[:, column], quantile)) < 12


def test_shifts_keep_whole_pixels_and_fill_with_the_edge() -> None:
    transform = ImageTransform(32, crop=(1.0, 1.0), shift=0.1)
    pixels = np.full((32, 32, 3), 255, np.uint8)
    pixels[12:20, 12:20] = 7
    places = set()
    for seed in range(20):
        moved = row(transform, Picture.of(pixels), seed)
        assert (moved == 7).sum() == 3 * 64
        assert set(moved.unique().tolist()) == {7, 255}
        places.add(tuple((moved[0] == 7).nonzero()[0].tolist()))
    assert len(places) > 5


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (2, 9000)])
def test_lines_do_not_become_huge(shape: tuple[int, int]) -> None:
    data = encoded(np.full((*shape, 3), 9, np.uint8), "PNG")
    assert (row(ImageTransform(224), Picture(data)) == 9).all()
    assert (row(ImageTransform(224, crop=(0.5, 1.0)), Picture(data)) == 9).all()


def huge(width: int, height: int) -> bytes:
    """A PNG that says it is large and holds nothing."""
    import struct
    import zlib

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty image"),
        (b"hello", "image cannot be decoded"),
        (huge(20_000, 20_000), f"image of more than {MAX_PIXELS:,} pixels"),
        (huge(2**31 - 1, 2**31 - 1), f"image of more than {MAX_PIXELS:,} pixels"),
        (huge(100, 100), "image cannot be decoded"),
        (encoded(photo(80, 80), "JPEG")[:900], "image cannot be decoded"),
        (encoded(photo(80, 80), "PNG")[:900], "image cannot be decoded"),
        (encoded(photo(80, 80), "WEBP")[:500], "image cannot be decoded"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_cannot_be_used_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(BadSampleError, match=reason.replace("(", r"\(")):
        row(ImageTransform(32), Picture(data))


def test_a_name_does_not_decide_what_a_picture_is() -> None:
    from mmcl.data.source import Choice

    value = Choice("jpg", None).decode(encoded(photo(20, 20), "WEBP"))
    assert isinstance(value, Picture)
    assert value.array().shape == (20, 20, 3)


def test_pixels_of_32_bits_are_refused_and_those_of_16_are_not() -> None:
    grey = np.full((9, 9), 0.5, np.float32)
    for pixels in (grey, (grey * 200).astype(np.int32)):
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "TIFF")
        with pytest.raises(BadSampleError, match="32 bits a channel"):
            Picture(data.getvalue()).array()
    wide = Picture(b"P5 2 2 65535\n" + np.full(4, 32_768, ">u2").tobytes())
    assert wide.array().tolist() == [[[127] * 3] * 2] * 2


@pytest.mark.parametrize("wrong", [{"size": 0}, {"crop": (2, 3)}, {"crop": (0.5, 0.2)}, {"shift": -1.0}])
def test_what_no_picture_can_have_is_told(wrong: dict[str, object]) -> None:
    with pytest.raises(MmclError, match="ImageTransform: size must be"):
        ImageTransform(**{"size": 8, **wrong})  # type: ignore[arg-type]


def test_numbers_of_32_bits_that_hold_8_are_told() -> None:
    grey = Image.fromarray(np.full((4, 4), 200, np.uint8)).convert("I")
    with pytest.raises(BadSampleError, match="mode I, of numbers below 256"):
        rgb(grey)
