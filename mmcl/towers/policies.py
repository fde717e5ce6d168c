"""Policies: which of a backbone's weights learn, and from when on. A head always learns."""

from abc import ABC, abstractmethod
from typing import Annotated

from pydantic import Field, PlainValidator, SerializeAsAny
from torch import nn

from mmcl.registry import Part, Registry


class Policy(ABC):
    """What becomes of a backbone's weights in training."""

    @abstractmethod
    def prepare_(self, backbone: nn.Module) -> None:
        """Make the backbone ready, once its weights are in place and before anything wraps it."""

    @abstractmethod
    def learns(self, step: int) -> bool:
        """Whether the backbone learns at a step; otherwise it is in evaluation mode and keeps no activations."""


POLICIES: Registry[Policy] = Registry("policy")
PolicyPart = Annotated[SerializeAsAny[Part], PlainValidator(POLICIES.check)]


@POLICIES.register("trained")
class Trained(Policy):
    """All weights learn.

    Use when: there is data enough; with ``from_step``, when the head should settle first.

    Args:
        from_step: before this step of the optimizer the backbone stands still, as a frozen one does.
    """

    def __init__(self, from_step: Annotated[int, Field(ge=0)] = 0) -> None:
        self.from_step = from_step

    def prepare_(self, backbone: nn.Module) -> None:
        """Nothing to do."""

    def learns(self, step: int) -> bool:
        """From a step on."""
        return step >= self.from_step


@POLICIES.register("frozen")
class Frozen(Policy):
    """No weight learns: the backbone is in evaluation mode, without dropout, and keeps no activations.

    Use when: its space is good already, and another tower shall learn to read it (LiT).

    Reference:
        Zhai et al., "LiT: Zero-Shot Transfer with Locked-image text Tuning", CVPR 2022, section 3.
        https://arxiv.org/abs/2111.07991
    """

    def prepare_(self, backbone: nn.Module) -> None:
        """No gradients."""
        backbone.requires_grad_(False)

    def learns(self, step: int) -> bool:
        """Never."""
        return False
