"""Text to token numbers."""

import io
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, Protocol, runtime_checkable

import sentencepiece
from pydantic import PlainValidator, SerializeAsAny

from mmcl.errors import MmclError
from mmcl.registry import Part, Registry
from mmcl.towers.base import asset

PAD, UNKNOWN, BEGIN, END = (
    0,
    1,
    2,
    3,
)  # of our sentencepiece models; END is not 2, where some poolings fall back to argmax


@runtime_checkable
class Tokenizer(Protocol):
    """What a text tower needs of a tokenizer."""

    vocab_size: int
    pad_id: int | None
    """Of a token that no text holds; None where there is none."""
    eos_id: int
    """Of the token that ends every row."""

    def rows(self, length: int) -> Callable[[str], Sequence[int]]:
        """What makes token numbers of a text, the end last, and at most so many; called from many threads."""
        ...


TOKENIZERS: Registry[Tokenizer] = Registry("tokenizer")
TokenizerPart = Annotated[SerializeAsAny[Part], PlainValidator(TOKENIZERS.check)]


@TOKENIZERS.register("sentencepiece")
class SentencePiece:
    """A sentencepiece model, as `train_sentencepiece` or `mmcl data train-tokenizer` makes it.

    Args:
        model: the ``.model`` file; a run keeps a copy of it.
    """

    def __init__(self, model: asset) -> None:
        if not model.is_file():
            raise MmclError(
                f"tokenizer: there is no file {str(model)!r}. Build the data set that brings it, or train one on your "
                f"own captions: mmcl data train-tokenizer SHARDS --out {model}"
            )
        try:
            self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
        except RuntimeError:
            raise MmclError(f"tokenizer: {model} is no sentencepiece model.") from None
        self.vocab_size = self.pieces.get_piece_size()
        self.pad_id = self.pieces.pad_id() if self.pieces.pad_id() >= 0 else None
        self.eos_id = self.pieces.eos_id()
        if self.eos_id < 0:
            raise MmclError(f"tokenizer: {model} has no end-of-sentence piece, which the text tower pools at.")

    def encode(self, text: str) -> list[int]:
        """Token numbers of a text, without padding and without an end."""
        return self.pieces.encode(text)

    def rows(self, length: int) -> Callable[[str], Sequence[int]]:
        """Pieces, and the end."""
        return partial(self._row, length)

    def _row(self, length: int, text: str) -> list[int]:
        return [*self.encode(text)[: length - 1], self.eos_id]


def train_sentencepiece(
    captions: Iterable[str], out: Path, vocab_size: int = 8000, kind: Literal["unigram", "bpe"] = "unigram"
) -> Path:
    """Train a sentencepiece model, with byte fallback: no text is unknown.

    Args:
        captions: texts; equal ones count once.
        out: the ``.model`` file to write.
        vocab_size: pieces, the 256 bytes and 4 special ones included.
        kind: how pieces are chosen.

    Raises:
        MmclError: sentencepiece refuses, for instance because the captions hold fewer pieces.
    """
    distinct = sorted(set(captions))
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(distinct),
            model_writer=model,
            vocab_size=vocab_size,
            model_type=kind,
            byte_fallback=True,
            character_coverage=0.9999,
            pad_id=PAD,
            unk_id=UNKNOWN,
            bos_id=BEGIN,
            eos_id=END,
            num_threads=1,  # sums in another order would give another model
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1] if str(error) else "no reason given"
        raise MmclError(
            f"tokenizer: sentencepiece could not train {vocab_size} pieces on {len(distinct)} different captions: "
            f"{reason}"
        ) from None
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(model.getvalue())
    return out
