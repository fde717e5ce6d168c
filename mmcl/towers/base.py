"""What a tower is: a backbone, which a family of encoders brings, and a head to the shared space."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import PlainValidator, SerializeAsAny, model_validator
from torch import Tensor, nn

from mmcl.errors import MmclError
from mmcl.registry import Part, Registry
from mmcl.towers.heads import HeadPart, Linear
from mmcl.towers.policies import POLICIES, Policy, PolicyPart, Trained
from mmcl.towers.weights import Loaded, Weights, load_, look
from mmcl.types import Transform


class Asset:
    """Marks an argument that names a file a run cannot do without; the run keeps a copy of it."""


asset = Annotated[Path, Asset()]
"""Type of such an argument."""


class Backbone(nn.Module, ABC):
    """An encoder of one family: from a batch of one modality to one vector a row. A family a file.

    A backbone with a projection of its own takes ``dim`` after ``*``: the width that it is asked for, or None for its
    vectors without that projection, because a head follows. Where its model turns out to have none, `projects` says
    so, and a head follows as well.
    """

    takes: ClassVar[str]
    """Kind of input: ``image`` (pictures), ``audio`` (sounds), ``text`` (strings) or ``vector`` (numbers). A modality
    may have any name."""

    patchy: bool = False
    """Whether it has vectors of parts of its input (`patches`)."""

    named: ClassVar[bool] = False
    """Whether it is a model that a library knows by name, so that its weights are a choice: a recipe says which, or
    asks for random ones."""

    entire: ClassVar[bool] = False
    """Whether the head is inside, so that there are no vectors before it."""

    width: int
    """Of the vectors that come out."""

    projects: bool = True
    """Whether the width that it was asked for comes of a projection of its own; one matrix follows where its model has
    none."""

    def pretrained(self, tag: str | None) -> Mapping[str, Tensor]:
        """Weights that the library has for this model, from its own place or hub; of backbones that are `named`.

        Args:
            tag: which, where the library has several.

        Raises:
            MmclError: there are none, or they cannot be fetched.
        """
        raise MmclError(f"{type(self).__name__} is no model that has weights of its own; name a file.")

    def translated(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights under this module's own names, from those of any format that its family knows.

        What is not for it (the other towers of a checkpoint) is left out or keeps its name; positional embeddings are
        resized to its grid or length.
        """
        return dict(state)

    @property
    def varies(self) -> bool:
        """Whether two passes of one value may differ in training: by what the transform draws, or by dropout."""
        return True

    @property
    def draws(self) -> bool:
        """Whether the transform draws anything in training, also for a frozen backbone; as `varies` unless told."""
        return self.varies

    @abstractmethod
    def transform(self, train: bool) -> Transform:
        """What makes a row of one decoded value: augmented in training, the same every time otherwise."""

    def recompute_(self) -> None:
        """Keep no activations within blocks for the backward pass, which computes them again."""
        raise MmclError(f"gradient_checkpointing: {type(self).__name__} has no blocks to compute again.")

    def patches(self, rows: Any) -> Float[Tensor, "batch height width features"]:
        """Vectors of the parts of each input, as wide as those of the whole; of backbones that are `patchy`."""
        raise NotImplementedError

    @abstractmethod
    def forward(self, rows: Any) -> Float[Tensor, "batch features"]:
        """Vectors, not normalised, of collated rows on this module's device."""


class Tower(nn.Module):
    """One encoder: from a batch of one modality to one vector of the shared width per row.

    Args:
        backbone: what sees the input.
        head: what brings its vectors to the shared width; nothing unless told.
        policy: which of the backbone's weights learn; all unless told.
    """

    loaded: Loaded | None = None
    """Which weights it began with; None where these are random, or a checkpoint brings all of them."""

    def __init__(self, backbone: Backbone, head: nn.Module | None = None, policy: Policy | None = None) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head or nn.Identity()
        self.policy = policy or Trained()
        self.policy.prepare_(backbone)
        self.learning = self.policy.learns(0)
        self._still = [part for part in backbone.modules() if _stands_still(part)]
        self.train()  # but not what stands still, from the first step on

    @property
    def takes(self) -> str:
        """Kind of input."""
        return self.backbone.takes

    @property
    def patchy(self) -> bool:
        """Whether it has vectors of parts of its input (`patches`)."""
        return self.backbone.patchy

    @property
    def varies(self) -> bool:
        """Whether two passes of one value may differ in training."""
        backbone = self.backbone.draws if self.policy.never else self.backbone.varies
        return backbone or any(isinstance(m, nn.Dropout) and m.p for m in self.head.modules())

    def at_step(self, step: int) -> None:
        """Learn, or stand still, as the policy has it at a step of the optimizer."""
        learning = self.policy.learns(step)
        if learning != self.learning:
            self.learning = learning
            self.train(self.training)

    def train(self, mode: bool = True) -> "Tower":
        """Training mode, but not of a backbone that stands still, nor of parts of which no weight learns."""
        super().train(mode)
        self.backbone.train(mode and self.learning)
        for part in self._still:
            part.eval()
        return self

    def lr_factors(self) -> dict[str, float]:
        """Parameter -> factor of the learning rate, of those that do not learn at 1."""
        factors = self.policy.factors(self.backbone)
        return {f"backbone.{name}": factor for name, factor in factors.items() if factor != 1}

    def learning_parameters(self) -> Iterator[nn.Parameter]:
        """Those that learn at the step that is made."""
        parts = [self.head, self.backbone] if self.learning else [self.head]
        return (p for part in parts for p in part.parameters() if p.requires_grad)

    def transform(self, train: bool) -> Transform:
        """What makes a row of one decoded value."""
        return self.backbone.transform(train)

    def patches(self, rows: Any) -> Float[Tensor, "batch height width dim"]:
        """Vectors of the parts of each input, in the shared space."""
        return self.head(self.backbone.patches(rows))

    def forward(self, rows: Any) -> Float[Tensor, "batch dim"]:
        """Vectors, not normalised, of collated rows on this tower's device."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.learning):
            vectors = self.backbone(rows)
        return self.head(vectors)


class TowerSpec(Part):
    """What a recipe may say of any tower, beside the arguments of its backbone."""

    head: HeadPart | None = None
    """What brings the backbone's vectors to the shared width; unless told, the backbone's own projection where it has
    one, and one matrix where it has none."""
    policy: PolicyPart = POLICIES.check("trained")
    """Which of the backbone's weights learn, and from when on."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a third more time."""

    weights: Weights = None
    """What the backbone begins with: `random`, `pretrained` (the library's own), a tag of the library, a file, a folder
    of one model, `hf-hub:` and a name, a run (its tower of this modality, head included), or a mapping
    {from: any of these, partial: load what fits, prefix: of the names that count}. Unless told, `pretrained` for models
    that a library knows by name, and `random` for those that are sized here."""

    @model_validator(mode="after")
    def _keeps_some(self) -> "TowerSpec":
        if self.gradient_checkpointing and self.policy.build().never:
            raise MmclError(
                f"gradient_checkpointing: a backbone that is {self.policy.name} keeps no activations anyway."
            )
        return self

    @property
    def own_projection(self) -> bool:
        """Whether the backbone's own projection is to make the width of the shared space, in place of a head.

        Whether its model has one is known once it is built (`Backbone.projects`).
        """
        return self.head is None and "dim" in self.wants

    def build(self, *, dim: int, modality: str = "", load: bool = True, **context: Any) -> Tower:
        """The tower, with the weights that the recipe says.

        Args:
            dim: width of the shared space.
            modality: the tower's.
            load: bring the weights; otherwise they are random, because a checkpoint brings others.
            context: what else only the running program knows.
        """
        own = self.own_projection
        backbone = self.made(**({"dim": dim if own else None} if "dim" in self.wants else {}), **context)
        assert isinstance(backbone, Backbone)
        own = own and backbone.projects
        head = None if own else (self.head.build() if self.head else Linear()).between(backbone.width, dim)
        policy = self.policy.build()
        if load:
            self._refuse_to_keep_random(backbone, modality)
        loaded = load_(backbone, head or nn.Identity(), self.weights, self._called, modality) if load else None
        if self.gradient_checkpointing:
            backbone.recompute_()
        tower = Tower(backbone, head, policy)
        tower.loaded = loaded
        return tower

    def look(self, tower: Tower, modality: str) -> str | None:
        """See that the weights are there which a tower that was built without them is to begin with.

        Returns:
            What of them can be known only when they are read.

        Raises:
            MmclError: they are missing, or nothing is said of those of a backbone that never learns.
        """
        self._refuse_to_keep_random(tower.backbone, modality)
        return look(tower.backbone, self.weights, self._called, modality)

    def _refuse_to_keep_random(self, backbone: Backbone, modality: str) -> None:
        if self.policy.build().keeps and self.weights is None and not backbone.named:
            raise MmclError(
                f"towers.{modality}.weights: a backbone that is {self.policy.name} stays as it begins, and nothing is "
                "said of its weights; name a file, a run or a tag, or say `random` if you mean it."
            )

    @property
    def _called(self) -> str:
        """The family and its model, for messages."""
        which = getattr(self, "model", None)
        return self.name if which is None else f"{self.name}:{which}"


def _stands_still(part: nn.Module) -> bool:
    """Whether a part has weights, and none of them learns."""
    weights = list(part.parameters())
    return bool(weights) and not any(weight.requires_grad for weight in weights)


TOWERS: Registry[Backbone] = Registry("tower", TowerSpec)
TowerPart = Annotated[SerializeAsAny[TowerSpec], PlainValidator(TOWERS.check)]
