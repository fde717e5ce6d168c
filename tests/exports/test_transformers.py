"""transformers opens what was exported for it, and finds the same vectors, tokens and classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoProcessor, AutoTokenizer, CLIPModel

import mmcl
from mmcl.exports import open_export
from mmcl.model import Encoder
from mmcl.recipe import Recipe
from mmcl.towers.clip_names import packed, split
from tests.exports.conftest import TEXTS, Seen, accuracy, begun, compare, foreign


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("transformers") / "out"
    mmcl.export(run, "transformers", out)
    return out


@pytest.fixture(scope="module")
def opened(folder: Path) -> tuple[Any, Any]:
    model = CLIPModel.from_pretrained(folder)
    return model.eval(), AutoProcessor.from_pretrained(folder)


def texts(model: Any, processor: Any, values: list[str]) -> torch.Tensor:
    tokens = processor(text=values, return_tensors="pt", padding=True, truncation=True)
    return F.normalize(model.get_text_features(**tokens).pooler_output, dim=-1)


@torch.no_grad()
def test_vectors_and_tokens_are_equal(opened: tuple[Any, Any], encoder: Encoder, seen: Seen, folder: Path) -> None:
    model, processor = opened
    pixels = encoder.model.tower("image").backbone.normalize(seen.rows[:32])
    theirs = F.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
    torch.testing.assert_close(theirs, encoder.embed_rows("image", seen.rows[:32]), atol=1e-5, rtol=0)
    torch.testing.assert_close(texts(model, processor, TEXTS), encoder.embed("text", TEXTS), atol=1e-5, rtol=0)
    assert AutoTokenizer.from_pretrained(folder)("cat").input_ids == processor.tokenizer("cat").input_ids


@torch.no_grad()
def test_zero_shot_accuracy_is_equal(opened: tuple[Any, Any], encoder: Encoder, seen: Seen) -> None:
    model, processor = opened
    pixels = processor(images=seen.pictures, return_tensors="pt")["pixel_values"]
    images = F.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
    theirs = accuracy(images, texts(model, processor, seen.prompts), seen.labels)
    assert theirs == accuracy(encoder.embed("image", seen.pictures), encoder.embed("text", seen.prompts), seen.labels)


def test_it_comes_back(folder: Path, encoder: Encoder, seen: Seen) -> None:
    compare(open_export(folder, "cpu"), encoder, seen, exactly=True)


def test_it_is_a_folder_of_transformers(folder: Path, encoder: Encoder, seen: Seen, tmp_path: Path) -> None:
    compare(mmcl.load(foreign(folder, tmp_path), "cpu"), encoder, seen)


def test_a_run_begins_with_a_clip_of_transformers(
    folder: Path, encoder: Encoder, clip_recipe: Callable[..., Recipe], seen: Seen, tmp_path: Path
) -> None:
    compare(begun(folder, clip_recipe, tmp_path), encoder, seen, exactly=True)


def test_names_go_there_and_back(encoder: Encoder) -> None:
    for modality, before in (("image", "visual."), ("text", "")):
        state = encoder.model.tower(modality).backbone.transformer.state_dict()
        state = {f"{before}{name}": tensor for name, tensor in state.items()}
        again = packed(split(state))
        assert again.keys() == state.keys()
        assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
