"""open_clip's transformers behind the seam: the same numbers, and inputs as they should be."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip import transformer
from open_clip.transformer import VisionTransformer

from mmcl.errors import MmclError
from mmcl.towers import TextTransformer, Vit, train_sentencepiece
from mmcl.towers.base import TOWERS
from mmcl.towers.tokenizers import END, PAD, TOKENIZERS
from mmcl.types import Transform

RNG = np.random.default_rng(0)


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def batch(transform: Transform, *values: object) -> torch.Tensor:
    rows = transform.empty(len(values))
    for value, row in zip(values, rows, strict=True):
        transform(value, draw, row)
    return transform.finish(rows, torch.ones(len(values), dtype=torch.bool))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ["greek", "latin", "small", "capital", "letter", "alpha", "beta", "with", "tonos", "arrow"]
    captions = [" ".join(RNG.permutation(words)[:4]) for _ in range(500)]
    return train_sentencepiece(captions, tmp_path_factory.mktemp("t") / "t.model", vocab_size=285)


def image_tower(**more: object) -> Vit:
    spec = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "heads": 2, **more}
    tower = TOWERS.check({"name": "vit", **spec}).made(dim=16)
    assert isinstance(tower, Vit)
    return tower.eval()


def text_tower(model: Path, **more: object) -> TextTransformer:
    tokenizer = {"name": "sentencepiece", "model": str(model)}
    spec = {"tokenizer": tokenizer, "context_length": 12, "width": 32, "layers": 2, "heads": 2, **more}
    tower = TOWERS.check({"name": "text_transformer", **spec}).made(dim=16)
    assert isinstance(tower, TextTransformer)
    return tower.eval()


def test_image_vectors_are_open_clips_own() -> None:
    tower = image_tower()
    other = VisionTransformer(32, 8, 32, 2, 2, 4.0, output_dim=16).eval()
    other.load_state_dict(tower.transformer.state_dict())
    pixels = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    mean, std = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])  # CLIP's
    normal = (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(tower(pixels), other(normal))


def test_text_vectors_are_open_clips_own_pooled_at_the_end(model: Path) -> None:
    tower = text_tower(model)
    other = transformer.TextTransformer(
        12, tower.tokenizer.vocab_size, 32, 2, 2, output_dim=16, pool_type="eos", eos_id=END
    ).eval()
    other.load_state_dict(tower.transformer.state_dict())
    transform = tower.transform(train=False)
    rows = batch(transform, "greek small letter alpha", "arrow")
    assert rows.shape == (2, 12)
    torch.testing.assert_close(tower(rows), other(rows))


@pytest.mark.parametrize("causal", [True, False])
def test_padding_and_company_do_not_change_a_text(model: Path, causal: bool) -> None:
    tower = text_tower(model, causal=causal)
    transform = tower.transform(train=False)
    texts = ["arrow", "greek small letter alpha with tonos", "latin"]
    together = tower(batch(transform, *texts))
    alone = torch.cat([tower(batch(transform, text)) for text in texts])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert batch(transform, "arrow").shape[1] == (12 if causal else batch(transform, "arrow").ne(PAD).sum())


def test_texts_differ_from_one_another(model: Path) -> None:
    """With open_clip's default pooling a token in the middle stands for the text; with padding first, nothing does."""
    tower = text_tower(model)
    transform = tower.transform(train=False)
    rows = batch(transform, "greek alpha", "greek beta", "latin alpha")
    similarity = F.normalize(tower(rows), dim=-1) @ F.normalize(tower(rows), dim=-1).T
    assert similarity[~torch.eye(3, dtype=torch.bool)].max() < 0.9999


def test_long_texts_are_cut_and_still_end(model: Path) -> None:
    transform = text_tower(model).transform(train=True)
    (row,) = batch(transform, "alpha " * 50)
    assert row.shape == (12,)
    assert row[-1] == END
    assert PAD not in row.tolist()


def test_no_text_is_unknown(model: Path) -> None:
    tokenizer = TOKENIZERS.check({"name": "sentencepiece", "model": str(model)}).build()
    assert 1 not in tokenizer.encode("日本語 ☃ qqq")


def test_a_tokenizer_that_is_not_there_says_what_to_do() -> None:
    with pytest.raises(MmclError, match="no file 'nowhere.model'.*train-tokenizer"):
        TOKENIZERS.check({"name": "sentencepiece", "model": "nowhere.model"}).build()


def test_too_many_pieces_for_too_few_captions_is_told(tmp_path: Path) -> None:
    with pytest.raises(MmclError, match="could not train 5000 pieces on 1 different captions"):
        train_sentencepiece(["a", "a"], tmp_path / "t.model", vocab_size=5000)


def test_tokenizers_are_repeatable(tmp_path: Path) -> None:
    captions = [f"{a} {b}" for a in ("greek", "latin", "arabic") for b in ("one", "two", "three", "four")] * 3
    first = train_sentencepiece(captions, tmp_path / "a.model", 279).read_bytes()
    assert train_sentencepiece(list(reversed(captions)), tmp_path / "b.model", 279).read_bytes() == first


def test_importing_the_command_line_does_not_import_torch() -> None:
    import subprocess

    code = "import sys, mmcl, mmcl.cli; assert 'torch' not in sys.modules and 'open_clip' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
