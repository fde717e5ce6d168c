"""Masks that the host need not look at: the vectors of those that transformers makes itself."""

from functools import partial
from typing import Any

import pytest
import torch
import transformers as tf
from torch.utils._python_dispatch import TorchDispatchMode

from mmcl.towers.text_masks import CAUSAL, DECODERS, ENCODERS, before, mask_for, nothing, plain, tokens
from mmcl.towers.transformers_text import TOWERS_OF_TEXT
from tests.towers.test_transformers_text import CASES, loaded, rows
from tests.towers.tiny_texts import TEXTS

SIZES: dict[str, Any] = {
    "vocab_size": 30, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "max_position_embeddings": 40, "num_key_value_heads": 1, "head_dim": 16, "embedding_size": 32, "pad_token_id": 1,
}  # fmt: skip
OTHERS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 40, "vocab_size": 30},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "vocab_size": 30},
    **{
        kind: {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2} for kind in ("t5", "mt5", "umt5")
    },
}
LENGTH = 12


class Waits(TorchDispatchMode):
    """Counts what the host waits for."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += any(name in str(func) for name in ("_local_scalar_dense", "nonzero", "masked_select"))
        return func(*args, **(kwargs or {}))


def model(kind: str, **more: Any) -> Any:
    config = tf.CONFIG_MAPPING[kind](**{"bos_token_id": 0, "eos_token_id": 2, **OTHERS.get(kind, SIZES), **more})
    config.use_cache, config.vocab_size = False, 30
    build: Any = tf.MODEL_FOR_TEXT_ENCODING_MAPPING if config.is_encoder_decoder else tf.MODEL_MAPPING
    cls = getattr(tf, TOWERS_OF_TEXT[kind][0]) if kind in TOWERS_OF_TEXT else build[type(config)]
    attention = {"attn_implementation": more["attn_implementation"]} if "attn_implementation" in more else {}
    torch.manual_seed(0)
    return cls._from_config(config, **attention).eval()


def there() -> torch.Tensor:
    return torch.arange(LENGTH) < torch.tensor([3, LENGTH, 7])[:, None]


def hidden(text: Any, mask: Any) -> tuple[torch.Tensor, int]:
    """States of tokens, and how often the host waited."""
    ids = torch.randint(2, 30, (3, LENGTH), generator=torch.Generator().manual_seed(0)).masked_fill(~there(), 1)
    with torch.no_grad(), Waits() as waits:
        made = text(input_ids=ids, attention_mask=mask(there())).last_hidden_state
    return made[there()], waits.count


@pytest.mark.parametrize("kind", [*CAUSAL, *DECODERS, *ENCODERS])
def test_states_are_those_of_transformers_own_mask(kind: str) -> None:
    text = model(kind)
    mask = mask_for(text, LENGTH, whole=False)
    seen = mask.args[0] if isinstance(mask, partial) else mask  # of CLAP and MPNet, which add masks to scores
    assert seen is (nothing if kind in CAUSAL else before if kind in DECODERS else tokens)
    made, waits = hidden(text, mask)
    expected, waits_there = hidden(text, plain)
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5)
    assert waits == 0
    assert waits_there > 0  # otherwise transformers has mended it, and this file can go


@pytest.mark.parametrize("kind", CASES)
def test_no_step_of_a_tower_waits(made: dict[str, str], kind: str) -> None:
    backbone = loaded(made, kind, 20 if CASES[kind] == "own" else None).train()
    given = rows(backbone, *TEXTS)
    with Waits() as waits:
        backbone(given).square().sum().backward()
    assert waits.count == 0


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("mistral", {"sliding_window": LENGTH - 1}),
        ("qwen2", {"is_causal": False}),
        ("bert", {"is_decoder": True}),
        ("deberta-v2", {}),
    ],
)
def test_other_models_get_the_mask_that_all_take(kind: str, more: dict[str, Any]) -> None:
    assert mask_for(model(kind, **more), LENGTH, whole=False) is plain


@pytest.mark.parametrize("kind", ["bert", "t5", "gpt2"])
def test_attention_that_adds_masks_to_scores(kind: str) -> None:
    text = model(kind, attn_implementation="eager")
    made, waits = hidden(text, mask_for(text, LENGTH, whole=False))
    torch.testing.assert_close(made, hidden(model(kind), plain)[0], rtol=1e-5, atol=1e-5)
    assert waits == 0


def test_a_window_as_long_as_the_rows_is_none() -> None:
    assert mask_for(model("mistral", sliding_window=LENGTH), LENGTH, whole=False) is before
