"""Tokenizers of open_clip and of transformers."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import lru_cache, partial
from typing import Any

from open_clip.tokenizer import SimpleTokenizer
from tokenizers import models
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mmcl.errors import MmclError
from mmcl.towers.folders import model_folder
from mmcl.towers.tokenizers import TOKENIZERS
from mmcl.towers.transformers_models import fetching

LONG_WORD = 100  # open_clip's own loop over pairs takes minutes for one of 100,000 letters
WORDS = 200_000  # that open_clip remembers the tokens of; without a bound, all that it has ever seen


class Bpe(SimpleTokenizer):
    """open_clip's BPE tokenizer, in bounded time and memory: the same tokens, as far as a row of them goes.

    Args:
        context_length: of a row.
        kwargs: further arguments of open_clip's class (``clean``).
    """

    def __init__(self, context_length: int, **kwargs: Any) -> None:
        super().__init__(context_length=context_length, **kwargs)
        self._clean, self.clean_fn = self.clean_fn, self._beginning
        self._special = dict(self.cache)
        self._merging = models.BPE(
            vocab=self.encoder, merges=[(a, b) for a, b in self.bpe_ranks], end_of_word_suffix="</w>"
        )

    def _beginning(self, text: str) -> str:
        """As many words as a row could hold, cleaned; each is one token or more."""
        length = self.context_length or 0
        return " ".join(self._clean(text).split(" ", length)[:length])

    def bpe(self, token: str) -> str:
        """Tokens of a word, with spaces between them."""
        if len(self.cache) > WORDS:
            self.cache = dict(self._special)
        if len(token) < LONG_WORD:
            return super().bpe(token)
        return " ".join(piece.value for piece in self._merging.tokenize(token))

    def row(self, text: str) -> list[int]:
        """Token numbers of a text, with begin and end, without padding."""
        assert self.context_length
        begun = [self.sot_token_id, *self.encode(text)]
        return [*begun[: self.context_length - 1], self.eot_token_id]


@lru_cache(4)
def bpe(context_length: int, **kwargs: Any) -> Bpe:
    """The tokenizer for rows of a length; towers share it, and the words that it remembers."""
    return Bpe(context_length, **kwargs)


@TOKENIZERS.register("open_clip_bpe")
class OpenClipBpe:
    """open_clip's byte-pair encoding, which is that of OpenAI's CLIP: lower case, 49,408 tokens, no text is unknown.

    Use when: English, and vectors that should be comparable with CLIP's.
    """

    def __init__(self) -> None:
        usual = bpe(77)
        self.vocab_size, self.pad_id = usual.vocab_size, None
        self.bos_id, self.eos_id = usual.sot_token_id, usual.eot_token_id

    def rows(self, length: int) -> Callable[[str], Sequence[int]]:
        """Tokens between begin and end."""
        return bpe(length).row


@TOKENIZERS.register("transformers")
class TransformersTokenizer:
    """A tokenizer of transformers, with the special tokens that it sets itself, and an end.

    Use when: a text tower of open_clip's class is to read the tokens of a model on the hub.

    Args:
        model: a folder, or a name on the hub, with tokenizer.json or what a slow tokenizer is made of.
    """

    def __init__(self, model: model_folder) -> None:
        self.model, self.tokenizer = model, tokenizer_of(model)
        end, pad = end_of(self.tokenizer), self.tokenizer.pad_token_id
        if end is None:
            raise MmclError(f"tokenizer: {model} has no end token, which the text tower pools at.")
        self.eos_id: int = end
        self.pad_id = None if pad == end else pad
        self.vocab_size = largest(self.tokenizer) + 1
        self._rows: dict[int, Callable[[str], Sequence[int]]] = {}

    def rows(self, length: int) -> Callable[[str], Sequence[int]]:
        """Tokens as the tokenizer makes them, and the end where it sets none."""
        if length not in self._rows:
            self._rows[length] = rows_of(self.tokenizer, length, ended=True)
        return self._rows[length]


def tokenizer_of(model: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model of transformers.

    Args:
        model: a folder, or a name on the hub.

    Raises:
        MmclError: there is none, or it cannot be fetched.
    """
    with fetching("the tokenizer", model):
        return AutoTokenizer.from_pretrained(model)


def largest(tokenizer: PreTrainedTokenizerBase) -> int:
    """Its largest token number."""
    return max(tokenizer.get_vocab().values())


def end_of(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Its end token: of decoders that of a sequence, of BERT and its like the separator."""
    ends = (end for end in (tokenizer.eos_token_id, tokenizer.sep_token_id) if isinstance(end, int))
    return next(ends, None)


def rows_of(
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    *,
    ended: bool = False,
    whole: bool = False,
    prefix: str = "",
    suffix: str = "",
) -> Callable[[str], list[int]]:
    """What makes rows of token numbers of texts with a tokenizer of transformers; threads may share it.

    Args:
        tokenizer: the tokenizer; it is copied, since the length is a setting of the object that all its calls share.
        length: of the longest row; longer texts are cut.
        ended: set an end where the tokenizer sets none.
        whole: pad to the length with the tokenizer's own padding, which the model sees as it sees a text.
        prefix: what stands before every text.
        suffix: what stands after every text, and is not cut.
    """
    own = deepcopy(tokenizer)
    end = end_of(own)
    set_here = end if ended and end not in own("a", truncation=False, padding=False)["input_ids"] else None
    room = length if set_here is None else length - 1
    most = room + 1 if suffix else room  # one more shows that a text is too long
    options = {"truncation": True, "padding": "max_length" if whole else False, "max_length": most, "verbose": False}
    ids = partial(_ids, own, options)
    used = len(ids(prefix + suffix))  # and the tokenizer is set for good
    if (prefix or suffix) and not whole and used >= room:
        raise MmclError(f"prefix and suffix leave no room for a text in {length} tokens; raise context_length.")
    if prefix or suffix:
        ids = partial(_between, ids, room, prefix, suffix)
    return ids if set_here is None else partial(_ended, ids, set_here)


def _ids(tokenizer: PreTrainedTokenizerBase, options: dict[str, Any], text: str) -> list[int]:
    return tokenizer(text, **options)["input_ids"]


def _ended(ids: Callable[[str], list[int]], end: int, text: str) -> list[int]:
    return [*ids(text), end]


def _between(ids: Callable[[str], list[int]], room: int, prefix: str, suffix: str, text: str) -> list[int]:
    row = ids(prefix + text + suffix)
    if not suffix or len(row) <= room:
        return row
    fits, cut = 0, len(text)  # characters
    while fits < cut - 1:
        middle = (fits + cut) // 2
        if len(ids(prefix + text[:middle] + suffix)) <= room:
            fits = middle
        else:
            cut = middle
    return ids(prefix + text[:fits] + suffix)
