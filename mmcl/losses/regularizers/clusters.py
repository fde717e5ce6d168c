"""Multimodal clustering: every modality of a sample near the centroid of its joint feature (MCN)."""

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from mmcl.errors import MmclError
from mmcl.losses.draws import shuffled
from mmcl.losses.regularizers.base import REGULARIZERS, Regularizer
from mmcl.losses.scores.unit import unit
from mmcl.losses.temperature import Positive
from mmcl.losses.views import Modalities
from mmcl.types import Embeddings

DEAD = 0.1  # of an even share of the rows, below which a centroid begins anew


@REGULARIZERS.register("clusters")
class Clusters(Regularizer, nn.Module):
    r"""Pull all modalities of a sample to one centroid, that of the cluster in which their mean lies.

    .. math:: -\frac1M\sum_m \frac{1}{n_m}\sum_i \log \operatorname{softmax}_k(x_i^{m\top}\mu_k/\tau)_{c(i)}, \quad
              c(i) = \arg\max_k \bar x_i^\top\mu_k

    with the mean :math:`\bar x_i` of the unit vectors of the modalities that sample i has, and unit centroids
    :math:`\mu_k` without gradient. The centroids are an online spherical k-means: after each step the sums and the
    numbers of their rows move on by 1 - momentum, over the batch of all processes. The first are rows of the first
    batch; one whose number falls below a tenth of an even share begins anew at a row of the batch.

    Use when: samples of one kind should lie together, beside a contrast that only tells samples apart.
    Cost: two products (rows, dim) x (dim, clusters) a modality; each process its own rows, and a sum over processes of
        the centroids' size.
    Range: [0, inf); log(clusters) at chance.
    Differs from the paper: moving averages take the place of a queue in which k-means runs anew; a temperature, where
        its code has none and a margin of 0.001; the mean is over the modalities that are there. Its reconstruction
        loss is left out.
    Related: `swapped` balances the batch without centroids.

    Args:
        clusters: how many.
        temperature: of the softmax.
        momentum: what stays of the sums in each step.
        modalities: which; all where nothing is said.
        dim: width of the embeddings.

    Reference:
        Chen et al., "Multimodal Clustering Networks for Self-supervised Learning from Unlabeled Videos", ICCV 2021, the
        clustering loss (https://arxiv.org/abs/2104.12671).

    Example:
        >>> clusters = Clusters(clusters=2, temperature=0.1, dim=2)
        >>> value = clusters(Embeddings.single({"a": torch.eye(2), "b": torch.eye(2)}))
        >>> clusters.after_step_()  # the two rows of the first batch are the centroids now
        >>> value.round(decimals=6), clusters.centroids.sum()
        (tensor(4.5000e-05), tensor(2.))
    """

    sums: Float[Tensor, "clusters dim"]
    numbers: Float[Tensor, " clusters"]

    def __init__(
        self,
        clusters: Annotated[int, Field(ge=2)] = 256,
        temperature: Positive = 0.1,
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99,
        modalities: Modalities | None = None,
        *,
        dim: int,
    ) -> None:
        super().__init__()
        self.temperature, self.momentum, self.modalities = temperature, momentum, modalities
        self.register_buffer("sums", torch.zeros(clusters, dim))
        self.register_buffer("numbers", torch.zeros(clusters))  # of rows in each; zero until the first batch
        self.next: tuple[Tensor, Tensor] | None = None

    @property
    def centroids(self) -> Float[Tensor, "clusters dim"]:
        """Unit vectors; zero before the first step."""
        return unit(self.sums)

    def __call__(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """This process's part. What the centroids will be is kept until `after_step_`."""
        e = embeddings
        names = self.modalities or e.modalities
        x = {m: unit(e.all[m]) for m in names}
        if e.dim != self.sums.shape[1]:
            raise MmclError(f"objective: clusters of {self.sums.shape[1]} coordinates; embeddings have {e.dim}.")
        if e.ids.shape[0] == 0:
            return torch.stack([v.sum() for v in x.values()]).sum()
        there = torch.stack([e.present[m] for m in names]).any(0)
        with torch.no_grad():
            joint = unit(torch.stack([torch.where(e.present[m][:, None], v, 0.0) for m, v in x.items()]).sum(0))
            some = self._rows(e, joint, there)
            begun, even = self.numbers.sum() > 0, there.sum().to(joint) / self.numbers.shape[0]
            sums = torch.where(begun, self.sums, some * even).to(joint.dtype)
            numbers = torch.where(begun, self.numbers, even).to(joint.dtype)
            centroids, own = unit(sums), joint[e.own]
            cluster = (own @ centroids.T).argmax(1)
            self.next = self._moved(e, own, cluster, there, (sums, numbers, some))
        values = []
        for m, v in x.items():
            counted = e.present[m][e.own] & (there.sum() >= 2)
            loss = F.cross_entropy(v[e.own] @ centroids.T / self.temperature, cluster, reduction="none")
            values.append(torch.where(counted, loss, 0.0).sum() / e.present[m].sum().clamp(min=1))
        return torch.stack(values).mean()

    def _rows(self, e: Embeddings, joint: Tensor, there: Tensor) -> Float[Tensor, "clusters dim"]:
        """As many rows of the batch as there are clusters, drawn anew each step; some twice where there are fewer."""
        order = shuffled(there, e.generator(*b"clusters"))
        place = torch.arange(self.numbers.shape[0], device=there.device) % there.sum().clamp(min=1)
        return joint[order[place]]

    def _moved(
        self, e: Embeddings, own: Tensor, cluster: Tensor, there: Tensor, now: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Sums and numbers after the step, the same on every process; as they were where fewer than two rows count."""
        sums, numbers, some = now
        its = (cluster[:, None] == torch.arange(numbers.shape[0], device=own.device)) & there[e.own, None]
        batch = e.total(its.to(own.dtype).T @ F.pad(own, (0, 1), value=1.0))
        sums, numbers = (
            torch.lerp(new, old, self.momentum) for new, old in ((batch[:, :-1], sums), (batch[:, -1], numbers))
        )
        even = numbers.mean()
        dead, enough = numbers < DEAD * even, there.sum() >= 2
        sums, numbers = torch.where(dead[:, None], some * even, sums), torch.where(dead, even, numbers)
        return torch.where(enough, sums, self.sums), torch.where(enough, numbers, self.numbers)

    @torch.no_grad()
    def after_step_(self, taken: Bool[Tensor, ""] | None = None) -> None:
        """Let the centroids move on."""
        if self.next is not None:
            for old, new in zip((self.sums, self.numbers), self.next, strict=True):
                old.copy_(new if taken is None else torch.where(taken, new, old))
            self.next = None
