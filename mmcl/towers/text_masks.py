"""What text models of transformers attend to, said so that the device need not wait.

Given a mask of (batch, tokens), transformers asks whether it is all true, for which the host waits in every step. A
mask of (batch, 1, queries, keys) it takes as it is.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel, masking_utils

Mask = Callable[[Bool[Tensor, "batch tokens"]], Tensor | None]

CAUSAL = ("clip_text_model", "metaclip_2_text_model")  # which see to that themselves where there is no mask
DECODERS = ("gpt2", "gpt_neox", "gemma", "llama", "mistral", "phi3", "qwen2", "qwen3")
ENCODERS = (
    "albert", "bert", "camembert", "clap_text_model", "distilbert", "electra", "ernie", "mpnet", "mt5", "nomic_bert",
    "roberta", "t5", "umt5", "xlm-roberta", "xlm-roberta-xl",
)  # fmt: skip


def mask_for(text: PreTrainedModel, length: int, *, whole: bool) -> Mask:
    """What makes a model's mask of where rows hold tokens; padding stands after a text.

    What follows a token cannot be seen from it in a causal model, so that padding needs no mask there. Models that are
    in no list above, that attend in a window shorter than the rows, or by kernels that make masks of their own, get the
    mask of (batch, tokens), and the host waits once a step.

    Args:
        text: the model.
        length: of the longest row.
        whole: rows have no padding, or the model sees it.
    """
    config = text.config
    kind, causal = config.model_type, getattr(config, "is_causal", True)
    if whole or (kind in CAUSAL and causal):
        return nothing
    attention = config._attn_implementation
    if attention not in ("sdpa", "eager") or not hasattr(masking_utils, "create_bidirectional_mask"):  # before 5
        return plain
    window = getattr(config, "sliding_window", None) or length
    if kind in DECODERS and window >= length and causal:
        seen = before
    elif kind in ENCODERS and not getattr(config, "is_decoder", False):
        seen = tokens
    else:
        return plain
    return seen if attention == "sdpa" else partial(added, seen)


def nothing(there: Bool[Tensor, "batch tokens"]) -> None:
    """No mask."""


def before(there: Bool[Tensor, "batch tokens"]) -> Bool[Tensor, "batch 1 tokens tokens"]:
    """A token sees itself and those before it."""
    places = torch.arange(there.shape[1], device=there.device)
    return (places <= places[:, None]).expand(there.shape[0], 1, -1, -1)


def tokens(there: Bool[Tensor, "batch tokens"]) -> Bool[Tensor, "batch 1 tokens tokens"]:
    """A token sees all tokens."""
    return there[:, None, None].expand(-1, 1, there.shape[1], -1)


def added(seen: Mask, there: Bool[Tensor, "batch tokens"]) -> Float[Tensor, "batch 1 tokens tokens"]:
    """As what is added to the scores."""
    mask = seen(there)
    assert mask is not None
    return torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, torch.finfo(torch.float32).min)


def plain(there: Bool[Tensor, "batch tokens"]) -> Tensor:
    """Where tokens are."""
    return there.long()
