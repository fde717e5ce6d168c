"""The functions of the public surface; `mmcl` offers them under its own name."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from pydantic import ValidationError
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.exports import export
from mmcl.losses import SCORES, Objective, Score, check_objective
from mmcl.model import Encoder
from mmcl.opening import load
from mmcl.registry import explain
from mmcl.tasks import Result, VectorStore, load_task
from mmcl.workflow import train

__all__ = ["evaluate", "export", "load", "objective", "score", "train"]


def objective(terms: Any, dim: int | None = None) -> Objective:
    """An objective: a preset's name, one term, or a list of terms as in a recipe.

    Call it with one (batch, dim) tensor a modality; ``total`` of what it returns carries the gradient, ``parts`` are
    the terms' values.

    Args:
        terms: what `objective:` of a recipe says.
        dim: width of the embeddings, for parts that have weights of that width.

    Example:
        >>> import torch
        >>> out = objective("clip")({"image": torch.eye(4), "text": torch.eye(4)})
        >>> bool(out.total < 1e-4)
        True

    Raises:
        MmclError: something in the terms is wrong; all errors at once, each with its path.
    """
    try:
        return Objective(check_objective(terms), dim)
    except ValidationError as error:
        raise explain(error, "objective") from None


def score(
    name: str | dict[str, Any], embeddings: Mapping[str, Float[Tensor, "batch dim"]], anchor: str
) -> Float[Tensor, "rows columns"]:
    """Scores of every row of the anchor with every candidate, in the score's own sign.

    Volumes, areas and distances are smaller for what is closer.

    Args:
        name: of the score, as in a recipe, or a mapping with its arguments.
        embeddings: (batch, dim) tensors, normalised inside; the anchor and the modalities of its candidates.
        anchor: the modality of the rows.

    Raises:
        MmclError: there is no such score or anchor, or the score takes another number of modalities.
    """
    try:
        made = SCORES.check(name).build()
    except ValidationError as error:
        raise explain(error, f"score {name!r}") from None
    assert isinstance(made, Score)
    others = [m for m in embeddings if m != anchor]
    if anchor not in embeddings:
        raise MmclError(f"score {name!r}: the anchor {anchor!r} is not among {list(embeddings)}.")
    if not made.least <= len(others) <= (made.most or len(others)):
        number = f"{made.least}" + ("" if made.least == made.most else " or more")
        raise MmclError(f"score {name!r} compares an anchor with {number} other modalities; got {list(embeddings)}.")
    shapes = {m: tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for m, x in embeddings.items()}
    candidates = {shapes[m] for m in others}
    if len(candidates) > 1 or any(len(s) != 2 or s[1] != shapes[anchor][1] for s in shapes.values()):
        raise MmclError(
            f"score {name!r}: embeddings are (rows, dim) tensors of one width, candidates all of the same rows; got "
            f"{shapes}."
        )
    scores = made(embeddings[anchor], *(embeddings[m] for m in others))
    return -scores if made.smaller_is_closer else scores


def evaluate(
    encoder: Encoder, task: str, *, data: str | None = None, cache: bool = True, intervals: bool = True
) -> Result:
    """Measure a task: metric -> number, the same as ``mmcl eval --json``.

    Args:
        encoder: what `load` returns.
        task: a name as `mmcl tasks` lists it, or a path to a task's file.
        data: the folder that the shards of tasks lie in; ``data`` unless told.
        cache: whether vectors are kept in the user's cache, and taken from it.
        intervals: whether 95 % bootstrap intervals are wanted.

    Returns:
        A dict of numbers; its ``about`` says what a reader must know of them: the task's version, the score, the
        precision, what each number is a mean of, and the intervals.
    """
    return load_task(task, data).measure(encoder, VectorStore() if cache else None, intervals).result
