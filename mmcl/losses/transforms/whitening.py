"""Shuffled group whitening: coordinates of one group at a time are decorrelated over the batch."""

import math
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmcl.errors import MmclError
from mmcl.losses.precision import full_precision
from mmcl.losses.scores.unit import floored_sqrt, wide
from mmcl.losses.transforms.base import TRANSFORMS, EmbeddingTransform, Seen, with_vectors
from mmcl.losses.views import Modalities
from mmcl.types import Embeddings

LEAST = 1e-6  # variance that counts as none, where the mean square of a coordinate is one
KNOWN = 1e-6  # share of its trace to which fp32 knows a covariance
NOISE = 1e-10  # the same for one row's squared distance from the mean: what fp32 makes of rows that are equal


@TRANSFORMS.register("whitening")
class Whitening(EmbeddingTransform):
    r"""Whiten groups of coordinates over the batch, each modality by itself and after a shuffle of its coordinates.

    .. math:: z_g = (x_g - \mu_g)\,
              \bigl(\Sigma_g + (\epsilon\,\tfrac{\mathrm{tr}\,\Sigma_g}{k} + \delta)\,I\bigr)^{-1/2}

    for every group g of k coordinates, with the mean and the covariance over all rows of all processes that have the
    modality; then coordinates go back to their places. Every copy draws another shuffle for each modality, and the
    term is averaged over the copies. Gradients flow through the statistics.

    The symmetric root (ZCA) leaves coordinates as near to themselves as can be, so copies and modalities stay
    comparable; Cholesky whitening would turn them. It comes from Newton-Schulz iterations, as many as the shrinkage
    makes necessary: products alone, whose gradient does not care about equal eigenvalues (those of eigenvectors blow
    up there), and no eigen-decomposition, for which the host would have to wait.

    Use when: embeddings lie in a narrow cone or use few dimensions, and negatives alone do not spread them.
    Cost: the term once a copy, and O(rows x dim x k) a copy and modality, on every process.
    Range: that of the term.
    Differs from the paper: there, differently whitened copies of two views of a sentence are compared, and
        InfoNCE(z1, z2) + InfoNCE(z1, z3) is summed; here the modalities are the views, and copies are averaged, so that
        the weight means the same for any number of them. Statistics are those of the global batch, and shrunk:
        :math:`\delta` is a millionth of the mean square of the coordinates. A modality with no more rows than a group
        has coordinates has no such statistics: its rows do not count in this batch.
    Related: `covariance` asks for the same in the loss.

    Args:
        groups: into how many groups the coordinates are split; a group should be at most half as wide as the batch has
            rows. The paper takes 128 groups of 6.
        copies: how many shuffles are drawn a step. Groups of one coordinate, and one group of all, know only one.
        shrinkage: what is added to the covariance, as a share of its mean variance; a millionth of the trace at least.
        modalities: which are whitened; all where nothing is said.

    Reference:
        Zhuo et al., "WhitenedCSE: Whitening-based Contrastive Learning of Sentence Embeddings", ACL 2023
        (https://arxiv.org/abs/2305.17746); iterations: Higham, "Functions of Matrices", SIAM 2008, chapter 6.

    Example:
        >>> x = torch.tensor([[2.0, 2.0], [1.0, 0.0], [-1.0, 0.0], [-2.0, -2.0]])
        >>> (_, made), *_ = Whitening(groups=1)(Embeddings.single({"text": x}))
        >>> made.all["text"].T.cov(correction=0).round(decimals=1).abs()
        tensor([[1., 0.],
                [0., 1.]])
    """

    def __init__(
        self,
        groups: Annotated[int, Field(ge=1)],
        copies: Annotated[int, Field(ge=1)] = 2,
        shrinkage: Annotated[float, Field(ge=1e-6, le=1)] = 1e-3,
        modalities: Modalities | None = None,
    ) -> None:
        super().__init__()
        self.groups, self.copies, self.shrinkage, self.modalities = groups, copies, shrinkage, modalities

    @classmethod
    def check(cls, said: Any, seen: Seen) -> Seen:
        """Refuse widths that cannot be split."""
        for width in seen.widths:
            if width % said.groups:
                raise MmclError(f"transform: whitening: {said.groups} groups do not divide {width} coordinates.")
        return super().check(said, seen)

    def forward(self, embeddings: Embeddings) -> list[tuple[float, Embeddings]]:
        """One record a copy."""
        width = embeddings.dim
        with full_precision(embeddings.ids.device, exact=True):
            return [(1 / self.copies, self._copy(embeddings, number, width)) for number in range(self.copies)]

    def _copy(self, e: Embeddings, number: int, width: int) -> Embeddings:
        vectors, present = dict(e.all), dict(e.present)
        for m in self.modalities or list(e.all):
            order = torch.randperm(width, generator=self.generator(e, m, number)).to(e.ids.device, non_blocking=True)
            vectors[m] = self._whitened(e.all[m], e.present[m], order)
            present[m] = e.present[m] & (e.present[m].sum() > width // self.groups)
        return with_vectors(e, vectors, present=present)

    def _whitened(
        self, x: Float[Tensor, "all_batch dim"], there: Bool[Tensor, " all_batch"], order: Int[Tensor, " dim"]
    ) -> Float[Tensor, "all_batch dim"]:
        """Rows with whitened groups; absent rows are zero."""
        (rows, width), k = x.shape, x.shape[1] // self.groups
        here, count = there[:, None], there.sum().clamp(min=1)
        x = torch.where(here, wide(x), 0.0)
        size = floored_sqrt(x.square().sum() / (count * width), 1e-24)
        x = torch.where(here, x - x.sum(0) / count, 0.0) / size
        x = torch.where(x.square().sum(1, keepdim=True) > NOISE * width, x, 0.0)
        groups = x[:, order].view(rows, self.groups, k).transpose(0, 1)
        covariance = groups.mT @ groups / count
        mean = covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        share = max(self.shrinkage, KNOWN * k)
        covariance = covariance + (share * mean + LEAST) * torch.eye(k, dtype=x.dtype, device=x.device)
        steps = math.ceil(math.log(2 * k / share) / math.log(2.25)) + 6
        whitened = groups @ _InverseRoot.apply(covariance, steps)  # type: ignore[operator]
        return whitened.transpose(0, 1).reshape(rows, width)[:, order.argsort()]


class _InverseRoot(torch.autograd.Function):
    """Inverse square roots of positive matrices; iterates again in backward, where it keeps full precision too."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, steps: int) -> Tensor:
        ctx.save_for_backward(a)
        ctx.steps = steps
        return _inverse_root(a, steps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (a,) = ctx.saved_tensors
        with full_precision(g.device, exact=True), torch.enable_grad():
            leaf = a.detach().requires_grad_()
            return torch.autograd.grad(_inverse_root(leaf, ctx.steps), leaf, g)[0], None


def _inverse_root(a: Float[Tensor, "groups k k"], steps: int) -> Float[Tensor, "groups k k"]:
    """Newton-Schulz: y goes to the root and z to its inverse; eigenvalues l of their product go to l (3 - l)^2 / 4."""
    one = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    largest = a.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]  # the trace is no less than it
    y, z = a / largest, one
    for _ in range(steps):
        t = 1.5 * one - 0.5 * (z @ y)
        y, z = y @ t, t @ z
    return z * largest.rsqrt()
