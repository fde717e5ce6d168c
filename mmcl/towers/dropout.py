"""Whether a model leaves anything out in training."""

from torch import nn


def dropout_in(model: nn.Module) -> bool:
    """Whether anything is left out at random in training; libraries write that as modules and as numbers."""
    numbers = (v for m in model.modules() for k, v in vars(m).items() if "drop" in k and isinstance(v, float))
    return any(p > 0 for p in numbers) or any(isinstance(m, nn.Dropout) and m.p > 0 for m in model.modules())
