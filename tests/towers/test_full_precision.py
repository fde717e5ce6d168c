"""Models that were saved in half precision: weights that learn are fp32."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from mmcl.towers import TOWERS
from tests.towers.libraries import MODELS
from tests.towers.test_transformers_audio import MAKES
from tests.towers.test_transformers_text import CASES


def in_half(model: tf.PreTrainedModel, folder: Path) -> Path:
    model.to(torch.bfloat16).save_pretrained(folder)
    assert tf.AutoConfig.from_pretrained(folder).dtype == torch.bfloat16
    return folder


def check(family: str, folder: Path, **more: Any) -> None:
    for dim in (20, None):
        backbone = TOWERS.check({"name": family, "model": str(folder), **more}).made(dim=dim)
        assert {t.dtype for t in backbone.parameters()} == {torch.float32}
        assert {t.dtype for t in backbone.buffers() if t.is_floating_point()} <= {torch.float32}
    weights = backbone.pretrained(None)
    assert {t.dtype for t in weights.values() if t.is_floating_point()} == {torch.float32}
    learnt = {k: t for k, t in backbone.named_parameters() if k in weights}
    assert learnt
    assert all(weights[k].to(torch.bfloat16).float().equal(weights[k]) for k in learnt)  # the folder's, rounded there


@pytest.mark.parametrize("kind", CASES)
def test_texts(made: dict[str, str], tmp_path: Path, kind: str) -> None:
    folder = in_half(tf.AutoModel.from_pretrained(made[kind]), tmp_path / "m")
    tf.AutoTokenizer.from_pretrained(made[kind]).save_pretrained(folder)
    check("transformers_text", folder, pool=CASES[kind])


@pytest.mark.parametrize("kind", MODELS)
def test_pictures(tmp_path: Path, kind: str) -> None:
    check("transformers_image", in_half(MODELS[kind](), tmp_path / "m"))


@pytest.mark.parametrize("kind", MAKES)
def test_sounds(tmp_path: Path, kind: str) -> None:
    check("transformers_audio", in_half(MAKES[kind](tmp_path / "m"), tmp_path / "m"))
