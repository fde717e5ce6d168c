"""The global contrastive loss: every sample remembers what its negatives amounted to (SogCLR, FastCLIP)."""

import math
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from mmcl.errors import MmclError
from mmcl.losses.base import CONTRASTS, Contrast, Side
from mmcl.losses.memory import NOBODY, SampleMemory, keyed
from mmcl.losses.statistics import LogSumExp, Statistic
from mmcl.losses.temperature import TemperatureSpec


@CONTRASTS.register("sogclr")
class Sogclr(Contrast, nn.Module):
    r"""Tell the positive from the negatives of the whole data set, which small batches estimate one after the other.

    .. math:: \ell_i = \tau\,(\log(\varepsilon + u_i) + \rho), \quad
              u_i \leftarrow (1-\gamma)\,u_i + \gamma\,g_i, \quad
              g_i = \frac{1}{n_i} \sum_{j \ne p} e^{(s_{ij} - s_{ip})/\tau}

    The average :math:`u_i` of a sample goes on from one visit to the next; on the first it is :math:`g_i`. It has no
    gradient: the embeddings get that of :math:`\tau\,g_i/(\varepsilon + u_i)`, so the number that is logged is the
    estimate of the global loss, and its gradient the paper's estimate of that loss's gradient. Rows and columns have
    averages of their own. With :math:`\gamma = 1` nothing is remembered, and the gradient is :math:`\tau` times that of
    `decoupled`.

    A learned temperature needs :math:`\rho`, what a unit of it costs (FastCLIP v3, RGCL-g): its gradient is
    :math:`\log(\varepsilon+u_i) + \rho + \tau\,\partial_\tau g_i/(\varepsilon+u_i)`. Without, it would only grow.

    Use when: batches of some hundreds, several epochs, and data whose samples keep their names.
    Cost: that of `decoupled`; a table of 12 bytes a place, half a dozen numbers a row between processes.
    Range: about [-2, 2] for cosines with rho = 0: tau * log(eps) at least.
    Differs from the paper: averages are kept as logarithms, which no temperature drives out of range; a sample counts
        as new on its first visit, not during the first epoch; gamma falls by step, not by epoch; averages of rows of a
        batch with the same id are averaged (their logarithms are), each row using its own in its loss. The mean of both
        directions is half of the paper's sum.
    Related: `decoupled`, and `isogclr` with a temperature for each sample.

    Args:
        gamma: weight of the batch in the average, at the end. SogCLR and iSogCLR take 0.8; FastCLIP 0.2 (CC3M, CC12M)
            and 0.8 (LAION).
        gamma_steps: over so many optimizer steps gamma falls from 1 by half a cosine; FastCLIP takes half of training.
        rho: cost of a temperature; FastCLIP v3 takes 6.5 (CC3M), 8.5 (CC12M) and 16 (LAION).
        eps: added to u; FastCLIP takes 1e-14 and, on LAION, 1e-6.
        slots: places of the table. Every direction of every pair has its own, so two modalities want 2.5 times the
            number of samples: twice, and a quarter more, since a table that is nearly full loses some.

    Reference:
        Yuan et al., "Provable Stochastic Optimization for Global Contrastive Learning: Small Batch Does Not Harm
        Performance", ICML 2022, Algorithm 1 (https://arxiv.org/abs/2202.12387); between modalities, and with gamma and
        rho: Wei et al., "FastCLIP: A Suite of Optimization Techniques to Accelerate CLIP Training with Limited
        Resources", 2024, Algorithm 1 (https://arxiv.org/abs/2407.01445).

    Example:
        >>> one = torch.ones(1, dtype=torch.long)
        >>> side = Side(torch.ones(1), {"others": torch.zeros(1)}, one, ids=one, counted=one > 0)
        >>> Sogclr()(side)  # log of exp(0 - 1), one negative
        tensor([-1.])
    """

    temperature: ClassVar[TemperatureSpec | None] = TemperatureSpec(init=0.03, learn=False, min=0.01)
    columns: ClassVar[int] = 1
    """Numbers that are remembered of each sample: log u."""
    steps: Tensor

    def __init__(
        self,
        gamma: Annotated[float, Field(gt=0, le=1)] = 0.8,
        gamma_steps: Annotated[int, Field(ge=0)] = 0,
        rho: Annotated[float, Field(ge=0)] = 0.0,
        eps: Annotated[float, Field(ge=0, lt=1)] = 1e-14,
        slots: Annotated[int, Field(ge=1)] = 2**20,
    ) -> None:
        super().__init__()
        self.gamma, self.gamma_steps, self.rho, self.eps = gamma, gamma_steps, rho, eps
        self.memory = SampleMemory(slots, self.columns)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.proposed: dict[str, tuple[Tensor, Tensor]] = {}  # ids and values of all processes, until the step is made

    @classmethod
    def check(cls, said: Any, term: Any) -> None:
        """Refuse to learn a temperature that costs nothing."""
        if term.temperature is not None and term.temperature.learn and said.rho == 0:
            raise MmclError(
                "temperature: with sogclr a learned one only grows where it costs nothing; set `rho` (FastCLIP: 6.5 to "
                "16), or let the temperature be a number."
            )

    def statistics(self, shared: bool) -> dict[str, Statistic]:
        """Log-sum-exp of the others."""
        return {"others": LogSumExp()}

    def __call__(self, side: Side) -> Float[Tensor, " rows"]:
        """Loss of each row; zero for a row without others."""
        assert side.ids is not None
        assert side.counted is not None
        keys = keyed(side.ids, side.name)
        known, seen = self.memory.read(keys)
        tau = self.temperatures(side, known, seen)
        alone = side["others"] == float("-inf")
        log_g = side["others"].masked_fill(alone, 0.0) - side.own / tau - side.others.clamp(min=1).log()
        log_u = self.mixed(log_g.detach(), known[:, 0].to(log_g), seen)
        log_all = torch.logaddexp(log_u, torch.full_like(log_u, math.log(self.eps) if self.eps else -math.inf))
        weight = (log_g.detach() - log_all).exp()  # at most 1 / gamma
        if self.training:
            values = [log_u, *self.moved(side, known, seen, log_all, weight)]
            sound = side.counted & ~alone & log_u.isfinite()
            self._propose(side, torch.where(sound, keys, NOBODY), values)
        value = tau * (log_all + self.rho)
        surrogate = tau.detach() * weight * log_g + value
        return torch.where(alone, 0.0, surrogate + (value - surrogate).detach())

    def temperatures(
        self, side: Side, known: Float[Tensor, "rows columns"], seen: Bool[Tensor, " rows"]
    ) -> Float[Tensor, "..."]:
        """Temperature of all rows, or of each."""
        return 1 / side.scale

    def mixed(
        self, log_g: Float[Tensor, " rows"], log_u: Float[Tensor, " rows"], seen: Bool[Tensor, " rows"]
    ) -> Float[Tensor, " rows"]:
        """The averages with this batch."""
        gamma = torch.full_like(log_g, self.gamma)
        if self.gamma_steps:
            done = (self.steps.to(log_g) / self.gamma_steps).clamp(max=1)
            gamma = gamma + (1 - gamma) * (1 + (math.pi * done).cos()) / 2
        return torch.where(seen, torch.logaddexp(log_u + torch.log1p(-gamma), log_g + gamma.log()), log_g)

    def moved(
        self,
        side: Side,
        known: Float[Tensor, "rows columns"],
        seen: Bool[Tensor, " rows"],
        log_all: Float[Tensor, " rows"],
        weight: Float[Tensor, " rows"],
    ) -> list[Float[Tensor, " rows"]]:
        """What else is remembered of each row, after this step."""
        return []

    def _propose(self, side: Side, keys: Tensor, values: list[Tensor]) -> None:
        """What `after_step_` will write. A loss that is computed again in the same step proposes the same again."""
        with torch.no_grad():
            self.proposed[side.name] = (side.gather(keys), torch.stack([side.gather(v) for v in values], 1))

    @torch.no_grad()
    def after_step_(self, taken: Bool[Tensor, ""] | None = None) -> None:
        """Remember what this step found; every process writes the rows of all."""
        for keys, values in self.proposed.values():
            self.memory.write(keys if taken is None else torch.where(taken, keys, NOBODY), values)
        if self.proposed:
            self.steps += 1 if taken is None else taken
        self.proposed = {}
