"""Optimizers and learning-rate schedules that a recipe may name."""

import math
from collections.abc import Iterable
from typing import Annotated, Protocol, runtime_checkable

import torch
from pydantic import Field, PlainValidator, SerializeAsAny
from torch import Tensor, nn

from mmcl.registry import Part, Registry

Share = Annotated[float, Field(ge=0, lt=1)]


@runtime_checkable
class OptimizerFactory(Protocol):
    """Makes an optimizer for modules."""

    lr: float

    def over(self, modules: Iterable[nn.Module]) -> torch.optim.Optimizer:
        """The optimizer of all parameters that are trained."""
        ...


@runtime_checkable
class Schedule(Protocol):
    """The learning rate's factor over a run."""

    def factor(self, step: int, steps: int) -> float:
        """Factor at a step, of ``steps`` in all."""
        ...


OPTIMIZERS: Registry[OptimizerFactory] = Registry("optimizer")
SCHEDULES: Registry[Schedule] = Registry("schedule")
OptimizerPart = Annotated[SerializeAsAny[Part], PlainValidator(OPTIMIZERS.check)]
SchedulePart = Annotated[SerializeAsAny[Part], PlainValidator(SCHEDULES.check)]


@OPTIMIZERS.register("adamw")
class AdamW:
    """Adam with decoupled weight decay.

    Gains, biases, positions, token embeddings and temperatures are not decayed.

    Args:
        lr: largest learning rate.
        weight_decay: of the matrices.
        betas: of the two averages.
        eps: added to the root of the second.

    Reference:
        Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, Algorithm 2.
        https://arxiv.org/abs/1711.05101
    """

    def __init__(
        self,
        lr: Annotated[float, Field(gt=0)] = 5e-4,
        weight_decay: Annotated[float, Field(ge=0)] = 0.2,
        betas: tuple[Share, Share] = (0.9, 0.98),
        eps: Annotated[float, Field(gt=0)] = 1e-6,
    ) -> None:
        self.lr, self.weight_decay, self.betas, self.eps = lr, weight_decay, betas, eps

    def over(self, modules: Iterable[nn.Module]) -> torch.optim.Optimizer:
        """The optimizer of all parameters that are trained."""
        named = [(name, p) for module in modules for name, p in module.named_parameters() if p.requires_grad]
        groups = [
            {"params": [p for name, p in named if decayed(name, p)], "weight_decay": self.weight_decay},
            {"params": [p for name, p in named if not decayed(name, p)], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)


def decayed(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: to matrices that multiply, not to gains, biases and embeddings."""
    return parameter.ndim >= 2 and "embedding" not in name


@SCHEDULES.register("cosine")
class Cosine:
    r"""Linear warm-up, then half a cosine.

    .. math:: f(s) = \frac{s+1}{w} \;(s < w), \qquad
              f(s) = f_e + \tfrac{1-f_e}{2}\left(1 + \cos\frac{\pi (s-w)}{S-w}\right)

    Args:
        warmup: share of the steps over which the rate rises.
        end: factor at the end.
    """

    def __init__(self, warmup: Share = 0.1, end: Annotated[float, Field(ge=0, le=1)] = 0.0) -> None:
        self.warmup, self.end = warmup, end

    def factor(self, step: int, steps: int) -> float:
        """Factor at a step, of ``steps`` in all."""
        warmup = round(self.warmup * steps)
        if step < warmup:
            return (step + 1) / warmup
        return self.end + (1 - self.end) / 2 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))
