"""A moving average of the towers' weights (EMA): a teacher for the objective, or what is measured in the end."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mmcl.model import MultiTower, embedded_in_parts
from mmcl.specs import EmaSpec
from mmcl.training.sharding import load_, local


class Average:
    """The average, which begins with the weights of the first step; it is never trained, and in evaluation mode.

    Every process has the same one, or its part of it, since every process has the same weights.

    Args:
        model: the towers, on their device, before anything wraps them.
        spec: how fast it moves.
    """

    def __init__(self, model: MultiTower, spec: EmaSpec) -> None:
        self.spec = spec
        self.averaged = AveragedModel(model, multi_avg_fn=self._move)
        self.averaged.requires_grad_(False).eval()

    @property
    def model(self) -> MultiTower:
        """The towers of averaged weights."""
        assert isinstance(self.averaged.module, MultiTower)
        return self.averaged.module

    def update(self, model: MultiTower) -> None:
        """Take up the weights after a step of the optimizer."""
        self.averaged.update_parameters(model)

    def _move(self, averaged: Any, weights: Any, _: Any) -> None:
        # the count lies on the CPU, so nobody waits for a device
        own, new = [local(x) for x in averaged], [local(x) for x in weights]
        get_ema_multi_avg_fn(self.spec.decay_at(int(self.averaged.n_averaged)))(own, new, 0)

    @torch.no_grad()
    def embed(self, rows: Mapping[str, Tensor], chunk: int | None = None) -> dict[str, Tensor]:
        """Vectors of rows, by name, in fp32.

        Args:
            rows: of the names that have any.
            chunk: rows of a name that go through its tower at once; all of them unless told.
        """
        return embedded_in_parts(self.model, rows, chunk) if rows else {}

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return self.averaged.state_dict()

    def restore(self, state: Mapping[str, Tensor], model: MultiTower) -> bool:
        """Go on from a checkpoint; or, where it kept no average, begin with the weights: whether it did."""
        if state:
            load_(self.averaged, state)
        else:
            self.model.load_state_dict(model.state_dict())
        return bool(state)
