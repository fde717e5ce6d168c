"""The functions of the public surface; `mmcl` offers them under its own name."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from pydantic import ValidationError
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.losses import SCORES, Objective, check_objective
from mmcl.model import Encoder
from mmcl.registry import explain
from mmcl.runs import load
from mmcl.tasks import load_task
from mmcl.workflow import Measurement, train

__all__ = ["evaluate", "load", "objective", "score", "train"]


def objective(terms: Any) -> Objective:
    """An objective: a preset's name, one term, or a list of terms as in a recipe.

    Call it with one (batch, dim) tensor a modality; ``total`` of what it returns carries the gradient, ``parts`` are
    the terms' values.

    Example:
        >>> import torch
        >>> out = objective("clip")({"image": torch.eye(4), "text": torch.eye(4)})
        >>> bool(out.total < 1e-4)
        True

    Raises:
        MmclError: something in the terms is wrong; all errors at once, each with its path.
    """
    try:
        return Objective(check_objective(terms))
    except ValidationError as error:
        raise explain(error, "objective") from None


def score(
    name: str, embeddings: Mapping[str, Float[Tensor, "batch dim"]], anchor: str
) -> Float[Tensor, "rows columns"]:
    """Scores of every row of the anchor with every candidate, in the score's own sign.

    Args:
        name: of the score, as in a recipe.
        embeddings: (batch, dim) tensors, normalised inside; the anchor and one other modality.
        anchor: the modality of the rows.

    Raises:
        MmclError: there is no such score or anchor, or the score takes another number of modalities.
    """
    part = SCORES.check(name)
    others = [m for m in embeddings if m != anchor]
    if anchor not in embeddings or len(others) != 1:
        raise MmclError(
            f"score {name!r} compares an anchor with one other modality; got {list(embeddings)} and {anchor!r}."
        )
    return part.build()(embeddings[anchor], embeddings[others[0]])


def evaluate(encoder: Encoder, task: str) -> dict[str, float]:
    """Measure a task: metric -> number, the same as ``mmcl eval --json``.

    Args:
        encoder: what `load` returns.
        task: a name as `mmcl tasks` lists it, or a path to a task's file.
    """
    loaded = load_task(task)
    prefix = f"{loaded.name}/"
    return {name.removeprefix(prefix): value for name, value in Measurement([loaded])(encoder).items()}
