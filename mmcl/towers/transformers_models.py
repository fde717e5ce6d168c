"""What families of transformers share: how its configurations and weights are read, and blocks computed again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import nn

from mmcl.errors import MmclError
from mmcl.towers.folders import LOCAL


def configuration(model: str, part: Literal["vision", "text", "audio"] | None = None) -> Any:
    """The configuration of a model, or of a part of it where it has several.

    In fp32, whatever the model was saved in: classes of transformers build parts in the type that theirs names, and
    weights that learn are fp32.

    Args:
        model: a folder, or a name on the hub.
        part: which.

    Raises:
        MmclError: there is none, or it cannot be fetched.
    """
    with fetching("the configuration", model):
        whole = transformers.AutoConfig.from_pretrained(model)
    _in_fp32(whole)
    config = (getattr(whole, f"{part}_config", None) or whole) if part else whole
    if hasattr(config, "projection_dim") and hasattr(whole, "projection_dim"):
        config.projection_dim = whole.projection_dim  # that of the whole model counts
    return config


def _in_fp32(config: transformers.PreTrainedConfig) -> None:
    config.dtype = torch.float32
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if isinstance(part, transformers.PreTrainedConfig):
            _in_fp32(part)


def read(kind: Any, model: str, **options: Any) -> tuple[nn.Module, dict[str, Any]]:
    """A model with its weights, in fp32, and transformers' report of what it found.

    Args:
        kind: its class in transformers.
        model: a folder, or a name on the hub.
        options: further arguments of ``from_pretrained``.

    Raises:
        MmclError: it cannot be read or fetched.
    """
    with fetching("weights", model), quietly():
        return kind.from_pretrained(model, output_loading_info=True, **{**options, "dtype": torch.float32})


def recompute_(model: transformers.PreTrainedModel, name: str) -> None:
    """Keep no activations within blocks.

    Raises:
        MmclError: transformers cannot compute this model's again.
    """
    if not model.supports_gradient_checkpointing:
        raise MmclError(f"gradient_checkpointing: transformers cannot compute the activations of {name} again.")
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable  # in 4
    enable({"use_reentrant": False})


@contextmanager
def fetching(what: str, model: str) -> Iterator[None]:
    """Errors of libraries, where something of a model is read, in words that say what to do."""
    try:
        yield
    except MmclError:
        raise
    except (OSError, ValueError, ImportError, TypeError, KeyError, RuntimeError) as error:
        here = Path(model.removeprefix(LOCAL)).is_dir()
        place = "the folder" if here else "no folder of that name is here, and the hub did not give it:"
        raise MmclError(f"{model}: {what} cannot be read: {place} {str(error).strip() or repr(error)}") from None


@contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' own report of what it loaded: ours is made of what it returns."""
    said = transformers.logging
    level, bars = said.get_verbosity(), said.is_progress_bar_enabled()
    said.set_verbosity_error()
    said.disable_progress_bar()
    try:
        yield
    finally:
        said.set_verbosity(level)
        if bars:
            said.enable_progress_bar()
