"""A small model with random weights over pictures, texts and sounds, for tests of what is made of models."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mmcl.media import AudioTransform
from mmcl.model import Encoder, MultiTower
from mmcl.towers import TOWERS, Backbone, Tower, train_sentencepiece

WORDS = ["greek", "latin", "small", "capital", "letter", "alpha", "beta", "with", "tonos", "arrow"]
DIM, RATE = 16, 8000


class Loudness(Backbone):
    """Sounds of half a second, by how their spectrum differs from a flat one."""

    takes = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.width = DIM
        self.layer = nn.Linear(65, DIM)

    def transform(self, train: bool) -> AudioTransform:
        return AudioTransform(RATE, 0.5, crop="random" if train else "start")

    def forward(self, rows: Tensor) -> Tensor:
        window = torch.hann_window(128, device=rows.device)
        sizes = torch.stft(rows, 128, window=window, return_complex=True).abs()
        levels = sizes.mean(-1)
        return self.layer((levels - levels.mean(1, keepdim=True)) / levels.std(1, keepdim=True))


def towers(folder: Path, causal: bool = True) -> dict[str, Tower]:
    """One of each kind of input."""
    rng = np.random.default_rng(0)
    captions = [" ".join(rng.permutation(WORDS)[:4]) for _ in range(500)]
    model = train_sentencepiece(captions, folder / "t.model", vocab_size=285)
    small = {"width": 32, "layers": 2, "heads": 2}
    tokenizer = {"name": "sentencepiece", "model": str(model)}
    text = {"name": "text_transformer", "tokenizer": tokenizer, "context_length": 12, "causal": causal, **small}
    image = {"name": "vit", "image_size": 32, "patch_size": 8, **small}
    return {
        "picture": TOWERS.check(image).build(dim=DIM),
        "caption": TOWERS.check(text).build(dim=DIM),
        "voice": Tower(Loudness()),
    }


def encoder(folder: Path, **more: Any) -> Encoder:
    """The model."""
    torch.manual_seed(0)
    model = MultiTower(towers(folder, **more), DIM).eval()
    for weight in model.parameters():
        if weight.ndim > 1:  # large enough that the vectors of different inputs lie far apart
            nn.init.normal_(weight, std=0.3)
    return Encoder(model, torch.device("cpu"), batch_size=5)


def pictures(count: int) -> list[Image.Image]:
    """Noise of several sizes and colours."""
    rng = np.random.default_rng(1)
    noise = [rng.random((40 + i, 30 + 2 * i, 3)) * rng.random(3) for i in range(count)]
    return [Image.fromarray((255 * pixels).astype(np.uint8)) for pixels in noise]


def texts(count: int) -> list[str]:
    """Captions of several lengths, no two alike."""
    rng = np.random.default_rng(2)
    return [f"{' '.join(rng.permutation(WORDS)[: 1 + i % 5])} {i}" for i in range(count)]


def sounds(count: int) -> list[dict[str, Any]]:
    """Noise of several lengths and rates, as datasets and mteb say it."""
    rng = np.random.default_rng(3)
    lengths = [(2000 + 997 * i, (8000, 16000, 11025)[i % 3]) for i in range(count)]
    return [
        {"array": rng.uniform(-1, 1, frames).astype(np.float32) * rng.random(), "sampling_rate": rate}
        for frames, rate in lengths
    ]
