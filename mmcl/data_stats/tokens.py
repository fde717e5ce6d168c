"""How many tokens a caption has, for a text tower that takes so many."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mmcl.errors import MmclError

if TYPE_CHECKING:
    from mmcl.towers.tokenizers import Tokenizer

CONTEXT = 77  # tokens, where nobody says how many: those of CLIP
COUNTED = 10_000  # tokens up to which they are counted


class Tokens(NamedTuple):
    """A tokenizer, and how many tokens a tower takes."""

    of: Callable[[str], int]
    """How many a text has."""
    context_length: int


@cache
def tokens(said: str, context_length: int | None) -> Tokens:
    """What counts tokens, special ones included.

    Args:
        said: a run folder (its text tower's tokenizer and context length), a sentencepiece ``.model``, or the name of a
            tokenizer, behind a colon its model: ``open_clip_bpe``, ``transformers:FOLDER``.
        context_length: tokens that a tower takes; as the run says, or 77, unless told.

    Raises:
        MmclError: there is no such tokenizer.
    """
    from mmcl.towers.tokenizers import TOKENIZERS  # seconds, which only those who ask for tokens need

    if (Path(said) / "recipe.yaml").is_file():
        tokenizer, own = _of_run(said)
    else:
        name, _, model = (said if not said.endswith(".model") else f"sentencepiece:{said}").partition(":")
        tokenizer, own = TOKENIZERS.check({"name": name, **({"model": model} if model else {})}).build(), CONTEXT
    rows = tokenizer.rows(COUNTED)
    return Tokens(lambda text: len(rows(text)), context_length or own)


def _of_run(said: str) -> "tuple[Tokenizer, int]":
    from mmcl.runs import Run

    for tower in Run(Path(said)).recipe().towers.values():
        part, length = getattr(tower, "tokenizer", None), getattr(tower, "context_length", None)
        if part is not None and length is not None:
            return part.build(), int(length)
    raise MmclError(
        f"--tokenizer {said}: no tower of this run names a tokenizer. Say it: open_clip_bpe, transformers:FOLDER or a "
        ".model file, and --context-length."
    )
