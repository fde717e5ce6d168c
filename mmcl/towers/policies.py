"""Policies: which of a backbone's weights learn, how fast, and from when on. A head always learns."""

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar

from pydantic import Field, PlainValidator, SerializeAsAny
from torch import nn

from mmcl.errors import MmclError
from mmcl.registry import Part, Registry
from mmcl.towers.depth import depths

Step = Annotated[int, Field(ge=0)]
Factor = Annotated[float, Field(gt=0)]


class Policy(ABC):
    """What becomes of a backbone's weights in training."""

    keeps: ClassVar[bool] = False
    """Whether the weights stay what they begin with, so that random ones would be no choice but a mistake."""
    never: ClassVar[bool] = False
    """Whether no weight of the backbone ever learns."""

    @abstractmethod
    def prepare_(self, backbone: nn.Module) -> None:
        """Make the backbone ready, once its weights are in place and before anything wraps it."""

    @abstractmethod
    def learns(self, step: int) -> bool:
        """Whether the backbone learns at a step; otherwise it is in evaluation mode and keeps no activations."""

    def factors(self, backbone: nn.Module) -> dict[str, float]:
        """Parameter -> factor of the learning rate; 1 for those that are not named."""
        return {}


POLICIES: Registry[Policy] = Registry("policy")
PolicyPart = Annotated[SerializeAsAny[Part], PlainValidator(POLICIES.check)]


@POLICIES.register("trained")
class Trained(Policy):
    """All weights learn, or those of the last layers.

    Use when: there is data enough; with ``from_step``, when the head should settle first; with ``lr``, ``layer_decay``
        or ``last_layers``, when the weights come from elsewhere and should not be lost.

    Args:
        from_step: before this step of the optimizer the backbone stands still, as a frozen one does.
        lr: factor of the learning rate; heads keep 1.
        layer_decay: further factor for each block that lies before the last part: the deepest parameters learn at the
            full rate, those n steps before at ``layer_decay ** n``. Depths are those of `mmcl.towers.depth`.
        last_layers: only so many of the last blocks learn, and what comes after the blocks (0: that alone). What
            stands still is in evaluation mode. open_clip's ``--lock-image-unlocked-groups`` is one more.

    Reference:
        Clark et al., "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators", ICLR 2020,
        appendix B (layer-wise learning-rate decay). https://arxiv.org/abs/2003.10555
    """

    def __init__(
        self,
        from_step: Step = 0,
        lr: Factor = 1.0,
        layer_decay: Annotated[float, Field(gt=0, lt=1)] | None = None,
        last_layers: Annotated[int, Field(ge=0)] | None = None,
    ) -> None:
        self.from_step, self.lr, self.layer_decay, self.last_layers = from_step, lr, layer_decay, last_layers

    def prepare_(self, backbone: nn.Module) -> None:
        """No gradients of the first layers."""
        if self.from_step or self.lr != 1 or self.layer_decay is not None or self.last_layers is not None:
            refuse_without_weights(backbone, "trained")
        if self.last_layers is None:
            return
        found = depths(backbone)
        if self.last_layers > found.blocks:
            raise MmclError(f"policy: last_layers is {self.last_layers}, and the backbone has {found.blocks} blocks.")
        for name, parameter in backbone.named_parameters():
            if found.of[name] <= found.last_block - self.last_layers:
                parameter.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in backbone.parameters()):
            raise MmclError("policy: last_layers: 0 leaves nothing, since nothing comes after the blocks; take frozen.")

    def learns(self, step: int) -> bool:
        """From a step on."""
        return step >= self.from_step

    def factors(self, backbone: nn.Module) -> dict[str, float]:
        """By depth."""
        if self.layer_decay is None:
            return {name: self.lr for name, _ in backbone.named_parameters()}
        found = depths(backbone)
        return {name: self.lr * self.layer_decay ** (found.last - depth) for name, depth in found.of.items()}


@POLICIES.register("frozen")
class Frozen(Policy):
    """No weight learns: the backbone is in evaluation mode, without dropout, and keeps no activations.

    Use when: its space is good already, and another tower shall learn to read it (LiT).

    Reference:
        Zhai et al., "LiT: Zero-Shot Transfer with Locked-image text Tuning", CVPR 2022, section 3.
        https://arxiv.org/abs/2111.07991
    """

    never = keeps = True

    def prepare_(self, backbone: nn.Module) -> None:
        """No gradients."""
        refuse_without_weights(backbone, "frozen")
        backbone.requires_grad_(False)

    def learns(self, step: int) -> bool:
        """Never."""
        return False


def refuse_without_weights(backbone: nn.Module, policy: str) -> None:
    """Refuse a policy that would do nothing.

    Raises:
        MmclError: the backbone has no weights.
    """
    if next(backbone.parameters(), None) is None:
        raise MmclError(f"policy: {policy} has no effect on a {type(backbone).__name__}, which has no weights.")
