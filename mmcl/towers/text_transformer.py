"""open_clip's text transformer."""

from collections.abc import Mapping
from typing import Annotated

from jaxtyping import Float, Int
from open_clip import transformer
from open_clip.model import resize_text_pos_embed
from pydantic import Field
from torch import Tensor, nn

from mmcl.errors import MmclError
from mmcl.towers.activations import ACTIVATIONS, Activation
from mmcl.towers.base import TOWERS, Backbone
from mmcl.towers.clip_names import of_transformers, packed
from mmcl.towers.tokenizers import Tokenizer, TokenizerPart
from mmcl.towers.tokens import TextTransform

Count = Annotated[int, Field(ge=1)]
OWN = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection", "cls_emb")
"""What names of the text side begin with in a CLIP that does not keep it under one name."""


@TOWERS.register("text_transformer")
class TextTransformer(Backbone):
    """A text transformer of open_clip's own class, pooled at the end token.

    Use when: text; width 512, 12 layers, 8 heads, 77 tokens, causal is CLIP's.
    Expects: strings; those of more than ``context_length`` - 1 tokens are cut.
    Returns: (batch, features) vectors, not normalised.

    Args:
        tokenizer: text to token numbers.
        context_length: tokens, the end included.
        width: of the residual stream.
        layers: number of blocks.
        heads: of attention; divide the width.
        mlp_ratio: hidden width of a block's MLP, over the width.
        activation: of the MLPs.
        causal: a token sees only those before it, as in CLIP; otherwise all of them, and rows are padded to the longest
            of the batch instead of the context length.
        embedding_std: of the random token embeddings; that of the positions is half of it, as in CLIP.
        dim: width that the transformer's own projection makes; None leaves the projection out.

    Reference:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, section 2.4.
        https://arxiv.org/abs/2103.00020
    """

    takes = "text"

    def __init__(
        self,
        tokenizer: TokenizerPart,
        context_length: Count = 77,
        width: Count = 512,
        layers: Count = 12,
        heads: Count = 8,
        mlp_ratio: Annotated[float, Field(gt=0)] = 4.0,
        activation: Activation = "gelu",
        causal: bool = True,
        embedding_std: Annotated[float, Field(gt=0)] = 0.02,
        *,
        dim: int | None,
    ) -> None:
        super().__init__()
        self.tokenizer: Tokenizer = tokenizer.build()
        if not causal and self.tokenizer.pad_id is None:
            raise MmclError(f"causal: false needs a padding token, and {tokenizer.name} has none that no text holds.")
        self.context_length, self.causal = context_length, causal
        self.transformer = transformer.TextTransformer(
            context_length=context_length,
            vocab_size=self.tokenizer.vocab_size,
            width=width,
            layers=layers,
            heads=heads,
            mlp_ratio=mlp_ratio,
            no_causal_mask=not causal,
            use_pad_mask=not causal,  # what follows the end cannot be seen from it where attention is causal
            act_layer=ACTIVATIONS[activation],
            pad_id=self.tokenizer.pad_id or 0,
            eos_id=self.tokenizer.eos_id,
            pool_type="eos",  # the default pools at the largest number, the end in CLIP's vocabulary only
            output_dim=dim,
        )
        self.width = dim or width
        nn.init.normal_(self.transformer.token_embedding.weight, std=embedding_std)
        nn.init.normal_(self.transformer.positional_embedding, std=embedding_std / 2)

    @property
    def varies(self) -> bool:
        """Nothing is drawn in training."""
        return False

    def transform(self, train: bool) -> TextTransform:
        """Tokens; the same in training and after."""
        rows = self.tokenizer.rows(self.context_length)
        return TextTransform(rows, self.context_length, padding=self.transformer.pad_id, whole=self.causal)

    def translated(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of an open_clip CLIP (``text.``, or nothing in older ones), its text side, or a CLIP of transformers."""
        state = packed(state) if of_transformers(state) else state
        if any(name.startswith("text.") for name in state):
            state = {f"transformer.{k[5:]}" if k.startswith("text.") else k: t for k, t in state.items()}
        elif "token_embedding.weight" in state:
            state = {f"transformer.{k}" if k.startswith(OWN) else k: t for k, t in state.items()}
        return _at_length(dict(state), self.transformer)

    def recompute_(self) -> None:
        """Keep no activations within blocks."""
        self.transformer.set_grad_checkpointing(True)

    def forward(self, rows: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch features"]:
        """Vectors of token rows."""
        return self.transformer(rows)


def _at_length(state: dict[str, Tensor], text: transformer.TextTransformer) -> dict[str, Tensor]:
    """Positions interpolated to the context length, as open_clip does it."""
    name, theirs = "transformer.positional_embedding", "positional_embedding"
    if name in state and state[name].shape[-1] == text.positional_embedding.shape[-1]:
        moved = {theirs: state[name]}
        resize_text_pos_embed(moved, text)
        state[name] = moved[theirs]
    return state
