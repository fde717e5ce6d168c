"""Activations of transformers' MLPs."""

from functools import partial
from typing import Any, Literal

from open_clip.transformer import QuickGELU
from torch import nn

Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]
"""Exact, by tanh (cheaper on CPUs), or OpenAI's own approximation."""
ACTIVATIONS: dict[Activation, Any] = {
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "quick_gelu": QuickGELU,
}
