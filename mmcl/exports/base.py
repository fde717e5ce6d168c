"""What a format is given, and what it gives back."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmcl import checkpoints
from mmcl.errors import MmclError
from mmcl.losses import Objective
from mmcl.losses.term import Term
from mmcl.model import Encoder, MultiTower
from mmcl.recipe import Recipe
from mmcl.runs import Run, load
from mmcl.towers import POLICIES, Tower, TowerSpec, merged_state
from mmcl.towers.weights import WeightsSpec, export_kind

CLIP_SCALE = math.log(1 / 0.07)
"""Logarithm of CLIP's logit scale before training, where an objective has no temperature to hand on."""


class LogitScale(NamedTuple):
    """What cosines are multiplied by, and what is added, to make logits of them."""

    log_scale: float
    bias: float | None
    note: str

    def without_bias(self, model: str) -> list[str]:
        """What to say where a class of models has no bias."""
        if self.bias is None:
            return []
        return [
            f"The bias of the sigmoid's logits, {self.bias:.4f}, is not in this export: {model} has none. It moves all "
            "logits alike, so no ranking depends on it."
        ]


class Source:
    """A run to be exported: its recipe, and the model that `mmcl.load` makes of it.

    Args:
        path: the run folder, or one of its checkpoints.

    Raises:
        MmclError: this is no run, or it is an export of one.
    """

    def __init__(self, path: str | Path) -> None:
        kind = export_kind(Path(path))
        if kind is not None:
            raise MmclError(f"{path} is an export itself, as {kind}; export the run that it was made of.")
        self.run = Run(checkpoints.place(Path(path))[0])
        self._path = Path(path)
        self.recipe: Recipe = self.run.recipe()
        self.encoder: Encoder = load(path, "cpu")
        self._states: dict[str, dict[str, Tensor]] = {}

    @property
    def modalities(self) -> tuple[str, ...]:
        """Of the model."""
        return self.encoder.modalities

    def tower(self, modality: str) -> Tower:
        """Tower of a modality, in evaluation mode."""
        return self.encoder.model.tower(modality)

    def state(self, modality: str) -> dict[str, Tensor]:
        """Weights of a tower, without its policy's own (LoRA), under its own names: ``backbone.…``, ``head.…``."""
        if modality not in self._states:
            state = merged_state(self.tower(modality))
            self._states[modality] = {name: tensor.detach() for name, tensor in state.items()}
        return self._states[modality]

    def one_of_each(self, *kinds: str) -> list[str]:
        """The modality of each kind of input, where there is exactly one.

        Raises:
            MmclError: there is none, or there are several.
        """
        found = {kind: [m for m in self.modalities if self.encoder.takes(m) == kind] for kind in kinds}
        for kind, those in found.items():
            if len(those) != 1:
                raise MmclError(f"the format holds one {kind} tower; the run has {', '.join(those) or 'none'}.")
        return [those[0] for those in found.values()]

    @cached_property
    def checkpoint(self) -> checkpoints.Checkpoint:
        """The one that the model came from."""
        checkpoint = checkpoints.chosen(self._path)
        assert checkpoint is not None
        return checkpoint

    @cached_property
    def objective(self) -> Objective:
        """The objective as the newest whole checkpoint has it."""
        with torch.random.fork_rng():
            made = Objective(self.recipe.objective, self.recipe.dim)
        own = {k: t for k, t in self.checkpoint.tensors("weights").items() if k.startswith("objective.")}
        made.load_state_dict({k.removeprefix("objective."): t for k, t in own.items()})
        return made

    @cached_property
    def logit_scale(self) -> LogitScale:
        """Of the one term that has a temperature and compares by cosines; otherwise CLIP's at the start."""
        terms = [
            term
            for _, term in self.objective
            if isinstance(term, Term) and term.temperature is not None and term.spec.score.name == "cosine"
        ]
        if len(terms) != 1:
            why = "no term" if not terms else f"{len(terms)} terms"
            note = f"CLIP's before training, since the objective has {why} with a temperature over cosines"
            return LogitScale(CLIP_SCALE, None, note)
        temperature, bias = terms[0].temperature, terms[0].contrast.logit_bias()
        assert temperature is not None
        scale = temperature.log_scale.item()
        return LogitScale(
            scale, None if bias is None else bias.item(), "one over the objective's temperature, without a limit"
        )


@dataclass(frozen=True)
class Written:
    """What a format has put into its folder."""

    modalities: Sequence[str]
    """Whose towers it holds."""
    notes: Sequence[str] = field(default=())
    """What the card should say of this export: what was left out, what differs."""
    padding: bool | str = True
    """What its texts are padded to, where transformers' tokenizer is asked."""
    needs_mmcl: bool = False
    """Whether sentence-transformers opens it by a module of mmcl's."""


class Format(NamedTuple):
    """A format: what it is for, and its two functions."""

    about: str
    """A line for a person who chooses."""
    write: Callable[[Source, Path], Written]
    """Puts files into an empty folder; refuses (MmclError) what the format cannot express."""
    opened: Callable[[Path, dict[str, Any]], Encoder]
    """An encoder of such a folder and its manifest, on the CPU."""
    towers: str = ""
    """Which towers it holds, where it may hold what another format refuses."""


def plain(recipe: Recipe, modality: str) -> Tower:
    """A tower of a recipe without its policy (LoRA), with random weights, in evaluation mode."""
    part = recipe.towers[modality].model_copy(update={"policy": POLICIES.check("trained")})
    with torch.random.fork_rng():
        return part.build(dim=recipe.dim, modality=modality, load=False).eval()


def built(folder: Path, modalities: Sequence[str], states: dict[str, dict[str, Tensor]]) -> Encoder:
    """Towers of an export's recipe, with weights under the towers' own names and without their policies.

    Raises:
        MmclError: weights and towers do not match.
    """
    recipe = Run(folder).recipe()
    towers = {m: plain(recipe, m) for m in modalities}
    for m, tower in towers.items():
        try:
            tower.load_state_dict(states[m])
        except RuntimeError as error:
            raise MmclError(f"{folder}: the weights of {m} are not those of its recipe: {error}") from None
    return Encoder(MultiTower(towers, recipe.dim).eval(), torch.device("cpu"))


def begun(folder: Path, parts: Mapping[str, TowerSpec], dim: int) -> Encoder:
    """Towers with the weights that a library's folder holds, and its projections for heads.

    Args:
        folder: of the library's model.
        parts: what the towers are; their heads and policies are left out.
        dim: of the shared space.
    """
    weights, policy = WeightsSpec.model_validate({"from": str(folder)}), POLICIES.check("trained")
    towers = {}
    with torch.random.fork_rng():
        for m, part in parts.items():
            plain = part.model_copy(update={"head": None, "policy": policy, "weights": weights})
            towers[m] = plain.build(dim=dim, modality=m)
    return Encoder(MultiTower(towers, dim).eval(), torch.device("cpu"))
