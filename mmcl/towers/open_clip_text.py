"""Text towers of open_clip's models, by name."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

from jaxtyping import Float, Int
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIPTextCfg, convert_to_custom_text_state_dict, resize_text_pos_embed
from open_clip.tokenizer import HFTokenizer
from open_clip.transformer import LayerNorm, QuickGELU, TextTransformer
from pydantic import Field
from torch import Tensor, nn

from mmcl.errors import MmclError
from mmcl.towers.base import TOWERS, Backbone
from mmcl.towers.dropout import dropout_in
from mmcl.towers.library_tokenizers import bpe
from mmcl.towers.open_clip_models import configuration, folder_of, open_clip_model, with_weights
from mmcl.towers.tokenizers import Tokenizer, TokenizerPart
from mmcl.towers.tokens import TextTransform
from mmcl.towers.transformers_models import fetching, recompute_
from mmcl.towers.transformers_text import places

Count = Annotated[int, Field(ge=1)]
TOKENIZER = ("tokenizer_config.json", "tokenizer.json")  # by which a folder is seen to have one


@TOWERS.register("open_clip_text")
class OpenClipText(Backbone):
    """The text tower of a model of open_clip, with the tokenizer and the pooling that it was trained with.

    Use when: a CLIP, SigLIP, MobileCLIP or CoCa text tower of open_clip is to be trained on, kept frozen, or trained
        from random weights.
    Expects: strings; those of more tokens than the context length are cut.
    Returns: (batch, features) vectors, not normalised.

    Args:
        model: name in open_clip (``ViT-B-32``), a folder, the JSON file of a configuration, or ``hf-hub:`` and a name
            on the hub. A folder's tokenizer is taken where it has one, else the one that its configuration names.
        tokenizer: another one than the model's own; the vocabulary is then as large as its own, and texts are pooled at
            its end token, so that the model's weights do not fit.
        context_length: tokens; the model's own unless told. Weights of another length are resized.
        dim: width that the model's own projection makes; None leaves the projection out.

    Reference:
        Cherti et al., "Reproducible scaling laws for contrastive language-image learning", CVPR 2023.
        https://arxiv.org/abs/2212.07143
    """

    takes = "text"
    named = True

    def __init__(
        self,
        model: open_clip_model,
        tokenizer: TokenizerPart | None = None,
        context_length: Count | None = None,
        *,
        dim: int | None,
    ) -> None:
        super().__init__()
        self.model, config = model, configuration(model).model
        said: dict[str, Any] = dict(config["text_cfg"]) | ({"context_length": context_length} if context_length else {})
        own: Tokenizer | None = tokenizer.build() if tokenizer is not None else None
        if own is not None:
            said |= {"vocab_size": own.vocab_size, "pool_type": "eos", "eos_id": own.eos_id, "pad_id": own.pad_id or 0}
        cfg = CLIPTextCfg(**said)
        self.context_length = cfg.context_length
        self.quick_gelu = None if cfg.hf_model_name else bool(config.get("quick_gelu"))
        if cfg.hf_model_name:
            if own is not None:
                raise MmclError(f"tokenizer: {model} reads the tokens of {cfg.hf_model_name}, and no others.")
            self.text: Any = _of_transformers(cfg, dim)
            self.width = dim or self.text.transformer.config.hidden_size
            most = places(self.text.transformer)
            if most is not None and most < self.context_length:
                raise MmclError(f"context_length: {model} takes {most} tokens at most; got {self.context_length}.")
        else:
            masked = own is not None and cfg.no_causal_mask
            if own is not None and masked and own.pad_id is None:
                raise MmclError(
                    f"tokenizer: {model} attends to all tokens, so that its tokenizer needs a padding token."
                )
            self.text = _of_open_clip(cfg, dim, bool(self.quick_gelu), masked)
            self.projects = self.text.text_projection is not None or dim in (None, cfg.width)
            self.width = dim if dim and self.projects else cfg.width
        self.tokenizer, self.rows = (
            (own, own.rows(self.context_length)) if own is not None else tokenizer_of(cfg, model)
        )
        self.padding = said["pad_id"] if own is not None else 0

    @property
    def varies(self) -> bool:
        """Whether there is dropout."""
        return dropout_in(self.text)

    def transform(self, train: bool) -> TextTransform:
        """Tokens; the same in training and after."""
        return TextTransform(self.rows, self.context_length, padding=self.padding, whole=True)

    def recompute_(self) -> None:
        """Keep no activations within blocks."""
        if isinstance(self.text, HFTextEncoder):
            recompute_(self.text.transformer, self.model)
        else:
            self.text.set_grad_checkpointing(True)

    def pretrained(self, tag: str | None) -> Mapping[str, Tensor]:
        """Weights of open_clip for this model.

        Args:
            tag: one of ``open_clip.list_pretrained_tags_by_model``; none where the model is a folder or of the hub.
        """
        return with_weights(self.model, tag, self.quick_gelu).state_dict()

    def translated(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Names of a CLIP of open_clip or OpenAI; those of a CustomTextCLIP are these already."""
        named = (
            dict(state) if any(k.startswith("text.") for k in state) else convert_to_custom_text_state_dict(dict(state))
        )
        named.pop("text.transformer.embeddings.position_ids", None)  # a buffer of transformers before 4.31
        if hasattr(self.text, "positional_embedding"):
            resize_text_pos_embed(named, self)
        return named

    def forward(self, rows: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch features"]:
        """Vectors of token rows."""
        return self.text(rows)


def tokenizer_of(cfg: CLIPTextCfg, model: str) -> tuple[Any, Callable[[str], Sequence[int]]]:
    """The model's own tokenizer, and what makes rows with it."""
    more = dict(cfg.tokenizer_kwargs or {})
    if not cfg.hf_tokenizer_name:
        usual = bpe(cfg.context_length, **more)
        return usual, usual.row
    folder = folder_of(model)
    beside = folder is not None and any((folder / name).is_file() for name in TOKENIZER)
    place = str(folder) if beside else cfg.hf_tokenizer_name
    with fetching("the tokenizer", place):
        own = HFTokenizer(place, context_length=cfg.context_length, tokenizer_mode=cfg.tokenizer_mode, **more)
    rows = partial(_padded, own)
    rows("a")  # a tokenizer must not be set while another thread uses it
    return own.tokenizer, rows


def _padded(tokenizer: Callable[[list[str]], Tensor], text: str) -> list[int]:
    return tokenizer([text])[0].tolist()


def _of_open_clip(cfg: CLIPTextCfg, dim: int | None, quick_gelu: bool, masked: bool) -> TextTransformer:
    """As `open_clip` builds it of a configuration, whose keys are the arguments."""
    known = inspect.signature(TextTransformer).parameters
    act: Any = QuickGELU if quick_gelu else nn.GELU
    build: Any = TextTransformer  # its annotations know no partial
    return build(
        **{key: value for key, value in asdict(cfg).items() if key in known and key != "output_tokens"},
        output_dim=dim,
        use_pad_mask=masked,
        act_layer=partial(act, **cfg.act_kwargs) if cfg.act_kwargs is not None else act,
        norm_layer=partial(LayerNorm, **cfg.norm_kwargs) if cfg.norm_kwargs else LayerNorm,
    )


def _of_transformers(cfg: CLIPTextCfg, dim: int | None) -> Any:
    with fetching("the configuration of its text model", str(cfg.hf_model_name)):
        text = HFTextEncoder(
            str(cfg.hf_model_name),
            output_dim=dim or 1,
            proj_type=cfg.hf_proj_type if dim else "linear",
            pooler_type=cfg.hf_pooler_type,
            pretrained=False,
        )
    if dim is None:
        text.proj = nn.Identity()
    return text.float()  # also where the configuration names another type
