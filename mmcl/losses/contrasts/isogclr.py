"""The global contrastive loss with a temperature for each sample (iSogCLR)."""

from typing import Annotated, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.losses.base import CONTRASTS, Side
from mmcl.losses.contrasts.sogclr import Sogclr
from mmcl.losses.memory import keyed
from mmcl.losses.statistics import SoftmaxMean, Statistic
from mmcl.losses.temperature import Positive, TemperatureSpec

LIMIT = 5.0  # of a temperature's gradient, as in the authors' code


@CONTRASTS.register("isogclr")
class Isogclr(Sogclr):
    r"""`sogclr`, in which every sample learns a temperature: low for what is rare, high for what has many neighbours.

    .. math:: \ell_i = \tau_i\,(\log(\varepsilon + u_i) + \rho), \quad
              G_i = \log(\varepsilon + u_i) + \rho
                    - \frac{1}{n_i} \sum_{j \ne p} \frac{e^{h_{ij}/\tau_i}}{\varepsilon + u_i} \frac{h_{ij}}{\tau_i},
              \quad h_{ij} = s_{ij} - s_{ip}

    .. math:: m_i \leftarrow (1-\beta)\,m_i + \beta\,\mathrm{clip}(G_i, \pm 5), \quad
              \tau_i \leftarrow \mathrm{clip}(\tau_i - \eta\,m_i, \tau_{\min}, \tau_{\max})

    with :math:`u_i` as in `sogclr`. Temperatures are no parameters: each moves by this rule after the optimizer's step,
    and rows and columns have their own.

    Use when: data are unbalanced, and samples come again (each visit moves a temperature by 5e-5 at most).
    Cost: about twice the time of `sogclr`: one statistic more, and logits of their own for rows and for columns; 20
        bytes a place.
    Range: about [-2, 2.5] for cosines.
    Differs from the paper: what `sogclr` says. Epsilon is added where the authors' code takes a maximum.
    Related: `sogclr` with one temperature, fixed or learned.

    Args:
        gamma: weight of the batch in the average, at the end.
        gamma_steps: over so many optimizer steps gamma falls from 1 (FastCLIP v2); 0 for iSogCLR.
        rho: cost of a temperature; more makes them lower.
        tau: every temperature at the start.
        tau_min: the lowest one.
        tau_max: the highest one.
        eta: step of the temperatures.
        beta: weight of the new gradient in its average.
        eps: added to u.
        slots: as in `sogclr`.

    Reference:
        Qiu et al., "Not All Semantics are Created Equal: Contrastive Self-supervised Learning with Automatic
        Temperature Individualization", ICML 2023 (https://arxiv.org/abs/2305.11965); rule, limits and defaults as in
        its code for two modalities, https://github.com/zhqiu/contrastive-learning-iSogCLR.

    Example:
        >>> one = torch.ones(1, dtype=torch.long)
        >>> found = {"others": torch.zeros(1), "mean": torch.zeros(1)}
        >>> made = Isogclr(rho=8.0, tau=0.05, eta=0.001)
        >>> loss = made(Side(torch.ones(1), found, one, ids=one, counted=one > 0, name="text>image"))
        >>> made.after_step_()
        >>> round(1 / made.factors(one, "text>image").item(), 4)  # 0.05 - 0.001 * clip(8) / 2
        0.0475
    """

    tempered: ClassVar[bool] = False
    single: ClassVar[bool] = True
    temperature: ClassVar[TemperatureSpec | None] = None
    columns: ClassVar[int] = 3
    """Log u, the temperature, and the average of its gradient."""

    def __init__(  # noqa: PLR0913 - they are the keys of a recipe
        self,
        gamma: Annotated[float, Field(gt=0, le=1)] = 0.8,
        gamma_steps: Annotated[int, Field(ge=0)] = 0,
        rho: Annotated[float, Field(ge=0)] = 8.0,
        tau: Positive = 0.01,
        tau_min: Positive = 0.005,
        tau_max: Positive = 0.05,
        eta: Annotated[float, Field(ge=0)] = 1e-5,
        beta: Annotated[float, Field(gt=0, le=1)] = 0.5,
        eps: Annotated[float, Field(ge=0, lt=1)] = 1e-14,
        slots: Annotated[int, Field(ge=1)] = 2**20,
    ) -> None:
        super().__init__(gamma, gamma_steps, rho, eps, slots)
        if not tau_min <= tau <= tau_max:
            raise MmclError(f"isogclr: tau {tau} does not lie between tau_min {tau_min} and tau_max {tau_max}.")
        self.tau, self.tau_min, self.tau_max, self.eta, self.beta = tau, tau_min, tau_max, eta, beta

    def statistics(self, shared: bool) -> dict[str, Statistic]:
        """Log-sum-exp of the others, and their mean under their softmax."""
        return {**super().statistics(shared), "mean": SoftmaxMean()}

    def factors(self, ids: Int[Tensor, " rows"], name: str) -> Float[Tensor, " rows"]:
        """One over each row's temperature."""
        known, seen = self.memory.read(keyed(ids, name))
        return 1 / self._taus(known, seen)

    def temperatures(
        self, side: Side, known: Float[Tensor, "rows columns"], seen: Bool[Tensor, " rows"]
    ) -> Float[Tensor, " rows"]:
        """Temperature of each row."""
        return self._taus(known, seen)

    def _taus(self, known: Float[Tensor, "rows columns"], seen: Bool[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        return torch.where(seen, known[:, 1], self.tau)

    def moved(
        self,
        side: Side,
        known: Float[Tensor, "rows columns"],
        seen: Bool[Tensor, " rows"],
        log_all: Float[Tensor, " rows"],
        weight: Float[Tensor, " rows"],
    ) -> list[Float[Tensor, " rows"]]:
        """The temperatures, and the averages of their gradients."""
        tau = self._taus(known, seen)
        gradient = log_all + self.rho - weight * (side["mean"] - side.own / tau).detach()
        average = (1 - self.beta) * known[:, 2] + self.beta * gradient.clamp(-LIMIT, LIMIT)
        return [(tau - self.eta * average).clamp(self.tau_min, self.tau_max), average]
