"""Shards of pictures with captions, labels and vectors, and a small model of random weights."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmcl.data import write_shards
from mmcl.model import Encoder
from tests.small_model import WORDS, encoder

COUNT = 30
LABELS = ("greek", "latin", "arrow")
Write = Callable[..., Path]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """The model: towers picture, caption and voice."""
    return encoder(tmp_path_factory.mktemp("small"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of one test is found by another."""
    monkeypatch.setenv("MMCL_CACHE", str(tmp_path / "cache"))


def sample(number: int, captions: int = 1) -> dict[str, Any]:
    """One sample: png, txt (a caption a line), cls, json and npy."""
    rng = np.random.default_rng(number)
    png = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(png, "PNG")
    flags = io.BytesIO()
    np.save(flags, (rng.random(3) < 0.5).astype(np.uint8))
    lines = [" ".join(rng.permutation(WORDS)[:4]) + f" {number}" for _ in range(captions)]
    return {
        "__key__": f"{number:04d}",
        "png": png.getvalue(),
        "txt": "\n".join(lines),
        "cls": LABELS[number % 3],
        "json": json.dumps({"kind": f"kind {number % 2}", "thing": number // 2}),
        "npy": flags.getvalue(),
    }


@pytest.fixture
def samples() -> list[dict[str, Any]]:
    """All of them, to be changed."""
    return [sample(number) for number in range(COUNT)]


@pytest.fixture
def task(tmp_path: Path) -> Write:
    """Writes samples and a task's file over them; its path."""

    def write(samples: list[dict[str, Any]], evaluator: str, data: str, more: str = "", name: str = "task") -> Path:
        folder = tmp_path / "shards" / name
        write_shards(samples, folder, 12)
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"title: a task\nevaluator: {evaluator}\ndata: {{shards: '{folder}', {data}}}\n{more}\n")
        return path

    return write


RETRIEVAL = "{name: retrieval, modalities: [caption, picture]}"
PAIRS = "modalities: {picture: png, caption: txt}"
CLASSES = "{greek: greek, latin: latin, arrow: arrow}"
ZEROSHOT = (
    f"{{name: zeroshot, modality: picture, prompts: caption, classes: {CLASSES}, templates: ['{{c}}', 'a {{c}}']}}"
)
LABELLED = "modalities: {picture: png, label: cls}"
