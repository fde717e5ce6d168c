"""Rows of tokens that tokenizers of transformers make."""

import json
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import transformers as tf

from mmcl.towers import TOWERS
from mmcl.towers.library_tokenizers import TransformersTokenizer, rows_of, tokenizer_of
from tests.towers.test_transformers_text import loaded, rows
from tests.towers.tiny_texts import TEXTS

Made = dict[str, str]
LONG = "a photo of two red boats on the sea a cat dog on the sea"


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switching")
def test_threads_make_rows_while_transforms_are_made(made: Made) -> None:
    tokenizer = {"name": "transformers", "model": made["gpt2"]}
    spec = {"name": "text_transformer", "tokenizer": tokenizer, "context_length": 8, "width": 16, "layers": 1}
    backbone = TOWERS.check({**spec, "heads": 2}).made(dim=8)
    tokens = backbone.transform(train=True).tokens
    expected = tokens(LONG)
    assert len(expected) == 8
    assert expected[-1] == 1
    with ThreadPoolExecutor(4) as pool:
        made_rows = pool.map(lambda _: tokens(LONG), range(2000))
        for _ in range(500):
            backbone.transform(train=False)
        assert all(row == expected for row in made_rows)


@pytest.mark.usefixtures("switching")
def test_rows_of_several_lengths_share_a_tokenizer(made: Made) -> None:
    words = TransformersTokenizer(made["gpt2"])
    makes = [words.rows(length) for length in (4, 6, 9)]
    with ThreadPoolExecutor(4) as pool:
        lengths = pool.map(lambda n: len(makes[n % 3](LONG)), range(3000))
        assert list(lengths) == [4, 6, 9] * 1000
    assert words.rows(6) is makes[1]
    assert words.tokenizer(LONG)["input_ids"] == tokenizer_of(made["gpt2"])(LONG)["input_ids"]


@pytest.mark.parametrize(("kind", "ended"), [("gpt2", False), ("gpt2", True), ("bert", False), ("bert", True)])
def test_a_suffix_cuts_only_texts_that_do_not_fit(made: Made, kind: str, ended: bool) -> None:
    words = tf.AutoTokenizer.from_pretrained(made[kind])
    end = [1] if ended and kind == "gpt2" else []
    for text in ("a photo of", "a photo of cat"):
        fitting = words(f"a {text} !")["input_ids"] + end
        for length in (len(fitting), len(fitting) + 1):
            assert rows_of(words, length, ended=ended, prefix="a ", suffix=" !")(text) == fitting
        shorter = words(f"a {text[: text.rindex(' ')]} !")["input_ids"] + end
        assert rows_of(words, len(fitting) - 1, ended=ended, prefix="a ", suffix=" !")(text) == shorter


@torch.no_grad()
def test_siglip_sees_its_padding_whatever_its_tokenizer_says_of_it(made: Made, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made["siglip"], tmp_path / "m"))
    said = json.loads((folder / "tokenizer_config.json").read_text())
    said["model_input_names"] = ["input_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    backbone = loaded({"siglip": str(folder)}, "siglip", 20)
    given = rows(backbone, *TEXTS)
    words = tf.AutoTokenizer.from_pretrained(folder)(TEXTS, padding="max_length", max_length=24, return_tensors="pt")
    assert not words["attention_mask"].all()
    assert given.equal(words["input_ids"])
    model = tf.SiglipModel.from_pretrained(folder).eval()
    expected = model.get_text_features(input_ids=words["input_ids"]).pooler_output
    torch.testing.assert_close(backbone(given), expected, rtol=1e-5, atol=1e-5)
