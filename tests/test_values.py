"""Values that somebody hands to an encoder: each form gives the same vectors, and what cannot be used is told."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmcl.errors import MmclError
from mmcl.model import Encoder, MultiTower
from mmcl.towers import TOWERS

IMAGE = {"name": "vit", "image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "heads": 2}
AUDIO = {"name": "spectrogram_vit", "width": 32, "layers": 1, "heads": 2, "seconds": 0.5}
RATE = 16_000


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    towers = {"image": IMAGE, "audio": AUDIO}
    return Encoder(MultiTower({m: TOWERS.check(part).build(dim=8) for m, part in towers.items()}, 8).eval())


@pytest.fixture(scope="module")
def wave() -> np.ndarray:
    draw = np.random.default_rng(0)
    return (draw.uniform(-1, 1, 6000) * np.sin(np.arange(6000) / 20)).astype(np.float32)


def test_samples_of_every_kind_are_one_sound(encoder: Encoder, wave: np.ndarray) -> None:
    (expected,) = encoder.embed("audio", [(wave, RATE)])
    forms: dict[str, Any] = {
        "int16": (wave * 32767).astype(np.int16),
        "int32": (wave.astype(np.float64) * 2147483647).astype(np.int32),
        "float64": wave.astype(np.float64),
        "tensor": torch.tensor(wave, requires_grad=True),
        "tensor of int16": torch.tensor((wave * 32767).astype(np.int16)),
        "stereo": np.stack([wave, wave], axis=1),
        "list": wave.tolist(),
    }
    for name, samples in forms.items():
        (found,) = encoder.embed("audio", [(samples, RATE)])
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0, msg=name)
    (coarse,) = encoder.embed("audio", [((wave * 127 + 128).astype(np.uint8), float(RATE))])
    torch.testing.assert_close(coarse, expected, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ((torch.zeros(1, 8000), RATE), r"value 1: audio of 8,000 channels and 1 frames; \(frames, channels\) is expec"),
        ((np.zeros((2, 3, 4)), RATE), r"value 1: audio of shape \(2, 3, 4\)"),
        ((np.float32(3), RATE), r"value 1: audio of shape \(\)"),
        ((np.zeros(0), RATE), "value 1: audio without samples"),
        (([[0.0], [0.0, 1.0]], RATE), r"value 1: a sound is \(samples, rate\), .*got \(list, 16000\)"),
        ((np.zeros(8), 16_000.5), r"value 1: a sound is \(samples, rate\), .*got \(ndarray, 16000.5\)"),
        ((np.zeros(8), "16k"), r"value 1: a sound is \(samples, rate\), .*got \(ndarray, '16k'\)"),
        ((np.zeros(8), float("nan")), "value 1: a sound is"),
        ((np.zeros(8), 0), "value 1: audio of 0 Hz"),
    ],
)
def test_sounds_that_cannot_be_used(encoder: Encoder, wave: np.ndarray, value: Any, told: str) -> None:
    with pytest.raises(MmclError, match=told):
        encoder.embed("audio", [(wave, RATE), value])


def truncated() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    return Image.open(io.BytesIO(file.getvalue()[:5000]))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (Image.new("RGB", (0, 5)), "image without pixels"),
        (Image.new("RGBA", (5, 0)), "image without pixels"),
        (np.zeros((0, 5, 3), np.uint8), "image without pixels"),
        (torch.zeros(3, 5, 0, dtype=torch.uint8), "image without pixels"),
        (truncated(), r"image cannot be decoded \(image file is truncated\)"),
        (Image.new("F", (5, 5)), "image of 32 bits a channel"),
    ],
)
def test_pictures_that_cannot_be_used(encoder: Encoder, value: Any, told: str) -> None:
    with pytest.raises(MmclError, match=f"value 1: {told}"):
        encoder.embed("image", [Image.new("RGB", (9, 9)), value])
