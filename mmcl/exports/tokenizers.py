"""Tokenizers of text towers as Hugging Face has them."""

import re
from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mmcl.errors import MmclError
from mmcl.towers import OpenClipBpe, SentencePiece, TransformersTokenizer
from mmcl.towers.library_tokenizers import bpe, rows_of, tokenizer_of

SPACE = "▁"
HARD = (
    "",
    " ",
    "  two  spaces \t and\nlines ",
    "Ünïcödé ﬁ ① ½ ﷺ",
    "e\u0301 \u3000 \u00a0 \u200b \ufeff",
    "日本語 한국어 हिन्दी العربية",
    "</s> <pad> <unk> <s> <0x41>",
    f"a{SPACE}b",
    "🎉👩‍👩‍👧",
    "x" * 300,
)


def save_tokenizer(tokenizer: object, folder: Path, context_length: int) -> None:
    """Write a text tower's tokenizer so that ``AutoTokenizer.from_pretrained`` opens it: the end follows each text.

    open_clip's BPE becomes a ``CLIPTokenizer`` with the names that open_clip has for begin and end.

    Args:
        tokenizer: of the tower.
        folder: where its files go.
        context_length: tokens, the end included.

    Raises:
        MmclError: it is of no kind that Hugging Face has, or one whose tokens Hugging Face's differ from.
    """
    from transformers import AutoTokenizer, CLIPTokenizer, PreTrainedTokenizerFast

    if isinstance(tokenizer, OpenClipBpe):
        own = bpe(context_length)
        begin, end = (next(k for k, n in own.encoder.items() if n == i) for i in (own.sot_token_id, own.eot_token_id))
        names = {"bos_token": begin, "eos_token": end, "pad_token": end, "unk_token": end}
        merges: Any = [*own.bpe_ranks]
        CLIPTokenizer(own.encoder, merges, model_max_length=context_length, **names).save_pretrained(folder)
        return
    if isinstance(tokenizer, TransformersTokenizer):
        again = tokenizer_of(tokenizer.model)
        if rows_of(again, context_length)("a")[-1] != tokenizer.eos_id:
            raise MmclError(f"the tokenizer of {tokenizer.model} sets no end by itself, which texts are pooled at.")
        again.model_max_length = context_length
        if again.pad_token_id is None:
            again.pad_token = again.convert_ids_to_tokens(tokenizer.eos_id)
        again.save_pretrained(folder)
        return
    if not isinstance(tokenizer, SentencePiece):
        raise MmclError(f"a {type(tokenizer).__name__} tokenizer has no form that the format knows.")
    pieces = tokenizer.pieces
    named = {"pad_token": pieces.pad_id(), "unk_token": pieces.unk_id(), "bos_token": pieces.bos_id()}
    special = {name: pieces.id_to_piece(number) for name, number in named.items() if number >= 0}
    end = pieces.id_to_piece(tokenizer.eos_id)
    saved = PreTrainedTokenizerFast(
        tokenizer_object=_same(pieces),
        eos_token=end,
        **{"pad_token": end, **special},  # texts are pooled at the first end
        model_max_length=context_length,
        split_special_tokens=True,  # a text that spells a special token means its letters
        padding_side="right",
    )
    saved.save_pretrained(folder)
    _compare(AutoTokenizer.from_pretrained(folder), tokenizer)


def _same(pieces: Any) -> Tokenizer:
    """A tokenizer of the tokenizers library that does what a sentencepiece model does, and adds the end."""
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(pieces.serialized_model_proto())
    fallback, unknown = proto.trainer_spec.byte_fallback, pieces.unk_id()
    if proto.trainer_spec.model_type == proto.trainer_spec.UNIGRAM:
        model: Any = models.Unigram([(p.piece, p.score) for p in proto.pieces], unknown, fallback)
    elif proto.trainer_spec.model_type == proto.trainer_spec.BPE:
        vocabulary = {p.piece: number for number, p in enumerate(proto.pieces)}
        merges = [
            (p.piece[:cut], p.piece[cut:])
            for p in sorted((p for p in proto.pieces if p.type == p.NORMAL), key=lambda p: -p.score)
            for cut in range(1, len(p.piece))
            if p.piece[:cut] in vocabulary and p.piece[cut:] in vocabulary
        ]
        model = models.BPE(
            vocabulary, merges, unk_token=pieces.id_to_piece(unknown), fuse_unk=True, byte_fallback=fallback
        )
    else:
        raise MmclError("the tokenizer's sentencepiece model is neither unigram nor bpe.")
    made = Tokenizer(model)
    made.normalizer = _normalizer(proto.normalizer_spec)  # type: ignore[assignment]
    unspelt = [
        re.escape(p.piece) for p in proto.pieces if p.type in (p.CONTROL, p.UNKNOWN, p.BYTE) and len(p.piece) > 1
    ]
    inside = "|".join(rf"(?<={piece[:1]})(?={piece[1:]})" for piece in unspelt)
    made.pre_tokenizer = pre_tokenizers.Split(Regex(inside), "isolated")  # type: ignore[assignment]
    end = pieces.id_to_piece(pieces.eos_id())
    made.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, pieces.eos_id())]
    )
    made.decoder = decoders.Sequence(  # type: ignore[assignment]
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


def _normalizer(spec: Any) -> normalizers.Normalizer:
    steps: list[Any] = [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(" "))
    if spec.escape_whitespaces:
        steps.append(normalizers.Replace(" ", SPACE))
    return normalizers.Sequence(steps)


def _compare(saved: Any, tokenizer: SentencePiece) -> None:
    """Hold the tokens of hard texts, and of all pieces, to sentencepiece's.

    Raises:
        MmclError: they differ.
    """
    pieces = tokenizer.pieces
    every = [pieces.id_to_piece(number).replace(SPACE, " ") for number in range(tokenizer.vocab_size)]
    for text in (*HARD, *every, *("".join(every[start : start + 5]) for start in range(0, len(every), 5))):
        ours = [*tokenizer.encode(text), tokenizer.eos_id]
        theirs = saved(text, truncation=False, verbose=False)["input_ids"]
        if ours != theirs:
            raise MmclError(
                f"the tokenizer cannot be written for Hugging Face: of {text!r} it would make {theirs[:20]}, and "
                f"sentencepiece makes {ours[:20]}."
            )
