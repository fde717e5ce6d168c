"""open_clip opens what was exported for it, and finds the same vectors, tokens and classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

import mmcl
from mmcl.exports import open_export
from mmcl.model import Encoder
from mmcl.recipe import Recipe
from tests.exports.conftest import TEXTS, Seen, accuracy, begun, compare, foreign


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("open_clip") / "out"
    mmcl.export(run, "open_clip", out)
    return out


@pytest.fixture(scope="module")
def opened(folder: Path) -> tuple[Any, Any, Any]:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return model.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{folder}")


@torch.no_grad()
def test_vectors_and_tokens_are_equal(opened: tuple[Any, Any, Any], encoder: Encoder, seen: Seen) -> None:
    model, preprocess, tokenizer = opened
    pixels = encoder.model.tower("image").backbone.normalize(seen.rows[:32])
    theirs = model.encode_image(pixels, normalize=True)
    torch.testing.assert_close(theirs, encoder.embed_rows("image", seen.rows[:32]), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.stack([preprocess(p) for p in seen.pictures[:32]]), pixels, atol=1e-5, rtol=0)
    words = model.encode_text(tokenizer(TEXTS), normalize=True)
    torch.testing.assert_close(words, encoder.embed("text", TEXTS), atol=1e-5, rtol=0)


@torch.no_grad()
def test_zero_shot_accuracy_is_equal(opened: tuple[Any, Any, Any], encoder: Encoder, seen: Seen) -> None:
    model, preprocess, tokenizer = opened
    images = model.encode_image(torch.stack([preprocess(p) for p in seen.pictures]), normalize=True)
    theirs = accuracy(images, model.encode_text(tokenizer(seen.prompts), normalize=True), seen.labels)
    ours = accuracy(encoder.embed("image", seen.pictures), encoder.embed("text", seen.prompts), seen.labels)
    assert theirs == ours
    assert ours > 0


def test_it_comes_back(folder: Path, encoder: Encoder, seen: Seen) -> None:
    compare(open_export(folder, "cpu"), encoder, seen, exactly=True)


def test_it_is_a_folder_of_open_clip(folder: Path, encoder: Encoder, seen: Seen, tmp_path: Path) -> None:
    compare(mmcl.load(foreign(folder, tmp_path), "cpu"), encoder, seen)


def test_a_run_begins_with_it(
    folder: Path, encoder: Encoder, clip_recipe: Callable[..., Recipe], seen: Seen, tmp_path: Path
) -> None:
    compare(begun(folder, clip_recipe, tmp_path), encoder, seen, exactly=True)
