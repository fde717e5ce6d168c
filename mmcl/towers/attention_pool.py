"""Pooling of tokens by attention."""

from jaxtyping import Bool, Float
from timm.layers.attention_pool import AttentionPoolLatent
from torch import Tensor, nn


class AttentionPool(nn.Module):
    """One learned query that looks at all tokens, and a perceptron: SigLIP's head, by timm's class.

    Args:
        width: of the tokens, and of what comes out.
        heads: of attention; divide the width.

    Reference:
        Zhai et al., "Scaling Vision Transformers", CVPR 2022, section 3.2 (MAP head). https://arxiv.org/abs/2106.04560
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.pool = AttentionPoolLatent(width, num_heads=heads, norm_layer=nn.LayerNorm)

    def forward(
        self, tokens: Float[Tensor, "batch tokens width"], mask: Bool[Tensor, "batch tokens"] | None = None
    ) -> Float[Tensor, "batch width"]:
        """One vector a row.

        Args:
            tokens: what the model made of each part.
            mask: which of them are there, at least one a row; all unless told.
        """
        return self.pool(tokens, attn_mask=None if mask is None else mask[:, None, None, :])
