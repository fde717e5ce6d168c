"""The number that scores are divided by."""

import math
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from mmcl.errors import MmclError
from mmcl.registry import Spec

Positive = Annotated[float, Field(gt=0)]


class TemperatureSpec(Spec):
    """A temperature as a recipe says it: a number is fixed, a mapping may learn it."""

    init: Positive = 0.07
    """Value at the start."""
    learn: bool = True
    """Whether it is trained with the towers."""
    min: Positive = 0.01
    """Smallest value that it may reach; CLIP's limit of 100 on the logit scale is 0.01 here."""

    @model_validator(mode="after")
    def _limits(self) -> "TemperatureSpec":
        if self.init < self.min:
            raise MmclError(f"init {self.init} lies below min {self.min}; lower `min` or raise `init`.")
        return self


def temperature_said(value: Any, usual: TemperatureSpec) -> Any:
    """What a recipe says of a temperature, completed: a number is fixed, and a mapping changes what is usual."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"init": value, "learn": False, "min": value}
    if isinstance(value, dict):
        return {**usual.model_dump(), **value}
    if not isinstance(value, TemperatureSpec | None):
        raise MmclError("say a number, which is fixed, or a mapping such as {init: 0.07, learn: true, min: 0.01}.")
    return usual if value is None else value


class Temperature(nn.Module):
    r"""Scores over the temperature: :math:`z = s \cdot e^{\theta}`, :math:`\theta = \log(1/\tau)`, as CLIP learns it.

    A learned temperature is held at or above ``min`` after each step of the optimizer (`after_step_`), and in forward
    it is used as it is, so its gradient never vanishes at the limit.
    """

    def __init__(self, spec: TemperatureSpec) -> None:
        super().__init__()
        self.largest_log_scale = math.log(1 / spec.min)
        log_scale = torch.tensor(math.log(1 / spec.init))
        if spec.learn:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale, persistent=False)

    @property
    def scale(self) -> Float[Tensor, ""]:
        """One over the temperature, with gradient where it is learned."""
        return self.log_scale.exp()

    @torch.no_grad()
    def after_step_(self, taken: Bool[Tensor, ""] | None = None) -> None:
        """Hold the temperature at or above its limit."""
        if self.log_scale.requires_grad:
            self.log_scale.clamp_(max=self.largest_log_scale)

    @property
    def value(self) -> Float[Tensor, ""]:
        """The temperature now, detached."""
        return (-self.log_scale.detach()).exp()
