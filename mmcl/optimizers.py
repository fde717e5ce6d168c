"""Optimizers and learning-rate schedules that a recipe may name."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Protocol, runtime_checkable

import torch
from pydantic import Field, PlainValidator, SerializeAsAny
from torch import Tensor, nn

from mmcl.registry import Part, Registry

VECTORS = re.compile(r"embed|token|position|probe|latent")
Share = Annotated[float, Field(ge=0, lt=1)]


@runtime_checkable
class OptimizerFactory(Protocol):
    """Makes an optimizer for modules."""

    lr: float

    def over(self, modules: Iterable[nn.Module], factors: Mapping[str, float]) -> torch.optim.Optimizer:
        """The optimizer of all parameters that are trained.

        Args:
            modules: that have them.
            factors: parameter -> factor of its learning rate, where it is not 1. A group says its own under
                ``lr_factor``.
        """
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

    def over(self, modules: Iterable[nn.Module], factors: Mapping[str, float]) -> torch.optim.Optimizer:
        """The optimizer of all parameters that are trained: groups by factor and decay, factors of 1 first."""
        groups: dict[tuple[float, bool], list[Tensor]] = {(1.0, True): [], (1.0, False): []}
        for module in modules:
            whole = undecayed(module)
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    groups.setdefault((factors.get(name, 1.0), name not in whole), []).append(parameter)
        said = [
            {
                "params": parameters,
                "lr": self.lr * factor,
                "lr_factor": factor,
                "weight_decay": self.weight_decay if decays else 0.0,
            }
            for (factor, decays), parameters in groups.items()
        ]
        return torch.optim.AdamW(said, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)


def undecayed(module: nn.Module) -> set[str]:
    """Parameters that weight decay leaves alone: gains, biases, embeddings, tokens and positions.

    Those are what has fewer than two axes, what an `nn.Embedding` holds, what a module of timm or open_clip lists
    itself (``no_weight_decay``), and what is a parameter by itself under such a name: ``cls_token`` of (1, 1, width).
    """
    found = {name for name, p in module.named_parameters() if p.ndim < 2 or VECTORS.search(name.rpartition(".")[2])}
    for place, part in module.named_modules():
        before = f"{place}." if place else ""
        if isinstance(part, nn.Embedding):
            found.add(f"{before}weight")
        listed: Callable[[], Iterable[str]] = getattr(part, "no_weight_decay", tuple)
        found |= {before + name for name in listed()}
    return found


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
