"""Text models of transformers: text towers of CLIP, SigLIP and CLAP, encoders, decoders."""

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import transformers
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING, PreTrainedConfig, PreTrainedModel

from mmcl.errors import MmclError
from mmcl.towers import pooling
from mmcl.towers.base import TOWERS, Backbone
from mmcl.towers.dropout import dropout_in
from mmcl.towers.folders import model_folder
from mmcl.towers.library_tokenizers import end_of, largest, rows_of, tokenizer_of
from mmcl.towers.text_masks import mask_for
from mmcl.towers.tokens import TextTransform
from mmcl.towers.transformers_models import configuration, read, recompute_

Count = Annotated[int, Field(ge=1)]
LONGEST = 512  # tokens, unless a recipe asks for more

# Text towers of models of several modalities: without and with their projection, and what its width is called.
TOWERS_OF_TEXT = {
    "clip_text_model": ("CLIPTextModel", "CLIPTextModelWithProjection", "projection_dim"),
    "metaclip_2_text_model": ("MetaClip2TextModel", "MetaClip2TextModelWithProjection", "projection_dim"),
    "clap_text_model": ("ClapTextModel", "ClapTextModelWithProjection", "projection_dim"),
    "siglip_text_model": ("SiglipTextModel", "SiglipTextModel", "projection_size"),
    "siglip2_text_model": ("Siglip2TextModel", "Siglip2TextModel", "projection_size"),
}
SEES_PADDING = ("siglip_text_model", "siglip2_text_model")  # pooled at the last place of a row of a fixed length

POOLED_AT_END = ("clip_text_model",)  # of the configuration's number


@TOWERS.register("transformers_text")
class TransformersText(Backbone):
    """A text model of transformers, with its tokenizer.

    Use when: the text tower of a CLIP, SigLIP or CLAP of transformers (``pool: own``), an encoder (BERT, RoBERTa,
        XLM-R, E5, BGE: ``mean`` or ``cls``, as it was trained), or a decoder (GPT-2, Llama, Qwen: ``last`` or ``eos``).
    Expects: strings; those of more tokens than the context length are cut.
    Returns: (batch, features) vectors, not normalised. The host waits for the device once a step where a model is in no
        list of `mmcl.towers.text_masks` (DeBERTa, ModernBERT).

    Args:
        model: a folder, or a name on the hub, with configuration and tokenizer.
        pool: which hidden states of the last layer make the vector: what the model itself calls a text's embedding
            (``own``: CLIP's end token, SigLIP's last place, CLAP's pooler, each with its projection), their ``mean``,
            the first (``cls``), the end token (``eos``; set where the tokenizer sets none) or the last (``last``).
        context_length: tokens; what model and tokenizer can take unless told, but 512 at most.
        prefix: what stands before every text, such as E5's ``"query: "``.
        suffix: what stands after every text; long texts are cut before it.
        dim: width that the model's own projection makes (``own``); None leaves the projection out.

    Reference:
        Reimers & Gurevych, "Sentence-BERT", EMNLP 2019, section 3 (mean and CLS pooling).
        https://arxiv.org/abs/1908.10084
    """

    takes = "text"
    named = True

    def __init__(
        self,
        model: model_folder,
        pool: Literal["own"] | pooling.Pool = "own",
        context_length: Count | None = None,
        prefix: str = "",
        suffix: str = "",
        *,
        dim: int | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.pool: Literal["own"] | pooling.Pool = pool
        config = configuration(model, "text")
        kind: str = config.model_type
        taken = getattr(MODEL_MAPPING.get(type(config), None), "main_input_name", "input_ids")
        if taken != "input_ids":
            raise MmclError(f"model: {model} is a {kind}, which does not take texts.")
        self.prefix, self.suffix = prefix, suffix
        self.tokenizer = tokenizer_of(model)
        self.eos_id = end_of(self.tokenizer)
        self._check_pool(config)
        self.projects = pool == "own" or dim is None
        self.options: dict[str, Any] = {}
        self.text = self._built(config, dim)
        self.width = dim if dim and self.projects else config.hidden_size
        if largest(self.tokenizer) >= config.vocab_size:
            raise MmclError(f"{model}: its tokenizer has more tokens than the model; they do not belong together.")
        self.context_length = self._length(context_length)
        self.whole = kind in SEES_PADDING
        self.mask = mask_for(self.text, self.context_length, whole=self.whole)
        if self.whole and suffix:
            raise MmclError(
                f"suffix: {kind} has its vector at the last place of a row, whatever the text; leave it out."
            )
        self.rows = rows_of(
            self.tokenizer, self.context_length, ended=pool == "eos", whole=self.whole, prefix=prefix, suffix=suffix
        )
        if pool == "cls" and self.rows("a")[0] != self.tokenizer.cls_token_id:
            raise MmclError(f"pool: {model}'s tokenizer sets no CLS token at the beginning; take mean, last or eos.")
        self.pad_id = max(config.pad_token_id or 0, 0)

    @property
    def varies(self) -> bool:
        """Whether there is any dropout."""
        return dropout_in(self.text)

    def transform(self, train: bool) -> TextTransform:
        """Tokens; the same in training and after."""
        return TextTransform(self.rows, self.context_length, whole=self.whole)

    def recompute_(self) -> None:
        """Keep no activations within blocks."""
        recompute_(self.text, self.model)

    def pretrained(self, tag: str | None) -> Mapping[str, Tensor]:
        """Weights of the folder, or of the hub.

        Args:
            tag: a revision on the hub.
        """
        if tag is not None and Path(self.model).is_dir():
            raise MmclError(f"{self.model} is a folder and has one set of weights, and no {tag!r}.")
        config = configuration(self.model, "text")
        names = TOWERS_OF_TEXT.get(config.model_type)
        # a projection brings the name under which transformers finds the text's part of a whole model
        kind: Any = getattr(transformers, names[1]) if names else type(self.text)
        options: dict[str, Any] = {"config": config, "revision": tag or "main"} | ({} if names else self.options)
        made, found = read(kind, self.model, **options)
        state = self.translated({k: t for k, t in made.state_dict().items() if k not in found["missing_keys"]})
        lacking = [name for name in self.state_dict() if name not in state]
        if lacking:
            raise MmclError(f"{self.model} has no weights for {', '.join(lacking)}.")
        return state

    def translated(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Names without what models of other tasks, or of several modalities, put before them."""
        own = self.text.state_dict().keys()
        before = _common_prefix(state, own)
        return {
            f"text.{n}" if (n := k.removeprefix(before)) in own and k.startswith(before) else k: t
            for k, t in state.items()
        }

    def forward(self, rows: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch features"]:
        """Vectors of token rows, whose padding is negative and stands after the text."""
        there = rows >= 0
        made = self.text(input_ids=rows.masked_fill(~there, self.pad_id), attention_mask=self.mask(there))
        if self.pool == "own":
            return made.text_embeds if "text_embeds" in made else made.pooler_output
        return pooling.pooled(made.last_hidden_state, rows, self.pool, -1 if self.eos_id is None else self.eos_id)

    def _built(self, config: PreTrainedConfig, dim: int | None) -> PreTrainedModel:
        """The model with random weights, and without layers that its vectors do not come from."""
        own, names = self.pool == "own", TOWERS_OF_TEXT.get(config.model_type)
        config.use_cache = False
        if names is None:
            mapping: Any = MODEL_FOR_TEXT_ENCODING_MAPPING if config.is_encoder_decoder else MODEL_MAPPING
            cls = mapping.get(type(config), None)
            if cls is None:
                raise MmclError(
                    f"{self.model}: transformers has no text encoder for models of type {config.model_type}."
                )
        else:
            cls = getattr(transformers, names[1] if own and dim else names[0])
            if own and dim:
                setattr(config, names[2], dim)
        if not own and "add_pooling_layer" in inspect.signature(cls.__init__).parameters:
            self.options = {"add_pooling_layer": False}
        text = cls._from_config(config, dtype=torch.float32, **self.options)
        if names is not None and names[0] == names[1] and not (own and dim):
            text.head = nn.Identity()  # SigLIP's projection
        return text

    def _check_pool(self, config: PreTrainedConfig) -> None:
        """See that what is asked for is there, before anything pools at the wrong token."""
        kind, end = config.model_type, self.tokenizer.eos_token_id
        if self.pool == "eos" and self.eos_id is None:
            raise MmclError(f"pool: {self.model}'s tokenizer has no end token; take mean, cls or last.")
        if self.pool != "own":
            return
        if kind not in TOWERS_OF_TEXT:
            raise MmclError(
                f"pool: models of type {kind} do not say what the embedding of a text is. Say mean (E5, GTE, MiniLM), "
                "cls (BGE), last or eos (decoders), as the model was trained."
            )
        if kind in POOLED_AT_END:
            told = config.eos_token_id
            if end != told and not (told == 2 and end == largest(self.tokenizer)):  # 2: the largest number counts
                raise MmclError(
                    f"{self.model}: the configuration's eos_token_id is {told} and the tokenizer's is {end}; texts "
                    "would be pooled at a wrong token."
                )
            if told == 2 and end == 2 and largest(self.tokenizer) != 2:
                raise MmclError(
                    f"{self.model}: with eos_token_id 2 transformers pools at the largest token number, which is "
                    f"{largest(self.tokenizer)}; give the end token another number."
                )

    def _length(self, asked: int | None) -> int:
        """Of the longest row."""
        most = places(self.text)
        if asked is not None and most is not None and asked > most:
            raise MmclError(f"context_length: {self.model} takes {most} tokens at most; got {asked}.")
        if asked is not None:
            return asked
        return (
            most
            if self.text.config.model_type in SEES_PADDING and most
            else min(LONGEST, self.tokenizer.model_max_length, most or LONGEST)
        )


def places(text: PreTrainedModel) -> int | None:
    """How many tokens a model has positions for; None where it does not say."""
    most: int | None = getattr(text.config, "max_position_embeddings", None)
    for name, module in text.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1  # RoBERTa's begin behind that of the padding
    return most if most and most > 0 else None


def _common_prefix(state: Iterable[str], own: Iterable[str]) -> str:
    """What stands before a module's own names in those of a checkpoint, wherever most of them are found."""
    there, own = set(state), set(own)
    before = {name[: -len(o)] for name in there for o in own if name.endswith(o)}
    whole = sorted((b for b in before if not b or b.endswith(".")), key=len)
    return max(whole, key=lambda b: sum(b + o in there for o in own), default="")
