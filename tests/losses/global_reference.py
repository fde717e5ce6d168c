"""Global contrastive losses in float64, a sample at a time, with dictionaries for what is remembered."""

import math
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

import mmcl
from mmcl.losses import Objective, Temperature

Step = tuple[dict[str, Tensor], dict[str, Tensor], list[str]]  # vectors, presence, keys


def steps(count: int, rows: int, modalities: tuple[str, ...], seed: int = 0, samples: int = 15) -> list[Step]:
    """Batches of a small data set that drifts, in which some modalities are missing and some samples come twice."""
    generator = torch.Generator().manual_seed(seed)
    base = {m: torch.randn(samples, 6, generator=generator, dtype=torch.float64) for m in modalities}
    made = []
    for number in range(count):
        chosen = torch.randperm(samples, generator=generator)[:rows]
        if number % 2:
            chosen[-1] = chosen[0]
        there = {m: torch.rand(rows, generator=generator) < 0.85 for m in modalities}
        noise = {m: 0.3 * torch.randn(rows, 6, generator=generator, dtype=torch.float64) for m in modalities}
        vectors = {m: (base[m][chosen] + noise[m]).masked_fill(~there[m][:, None], 0.0) for m in modalities}
        made.append((vectors, there, [f"sample {i}" for i in chosen.tolist()]))
    return made


@dataclass
class Reference:
    """SogCLR, and with `individual` iSogCLR."""

    gamma: float = 0.8
    gamma_steps: int = 0
    rho: float = 0.0
    eps: float = 1e-14
    tau: float = 0.1
    individual: bool = False
    limits: tuple[float, float] = (0.005, 0.05)
    eta: float = 1e-5
    beta: float = 0.5
    done: int = 0
    u: dict[Any, float] = field(default_factory=dict)
    taus: dict[Any, float] = field(default_factory=dict)
    m: dict[Any, float] = field(default_factory=dict)

    def step(self, vectors: dict[str, Tensor], there: dict[str, Tensor], keys: list[str]) -> tuple[float, float]:
        """Value, whose gradient the vectors get by the paper's weights; the gradient of the one temperature."""
        gamma = self.gamma
        if self.done < self.gamma_steps:
            gamma += (1 - gamma) * (1 + math.cos(math.pi * self.done / self.gamma_steps)) / 2
        value = of_tau = 0.0
        surrogate = torch.zeros((), dtype=torch.float64)
        visits = defaultdict[Any, list[tuple[float, float, float]]](list)
        pairs = list(combinations(vectors, 2))
        for anchors, others in [*pairs, *((b, a) for a, b in pairs)]:
            both = [i for i in range(len(keys)) if there[anchors][i] and there[others][i]]
            for i in both if len(both) > 1 else []:
                who = (anchors, others, keys[i])
                tau = self.taus.get(who, self.tau)
                x = vectors[anchors][i] / vectors[anchors][i].norm()
                s = {j: x @ (vectors[others][j] / vectors[others][j].norm()) for j in both}
                h = {j: s[j] - s[i] for j in both if j != i}
                plain = {j: float(h[j].detach()) / tau for j in h}
                terms = {j: math.exp(plain[j]) for j in h}
                g = sum(terms.values()) / len(h)
                u = (1 - gamma) * self.u[who] + gamma * g if who in self.u else g
                p = {j: terms[j] / len(h) / (self.eps + u) for j in h}
                share = 1 / (2 * len(pairs) * len(both))
                surrogate = surrogate + share * sum(p[j] * h[j] for j in h)
                value += share * tau * (math.log(self.eps + u) + self.rho)
                slope = math.log(self.eps + u) + self.rho - sum(p[j] * plain[j] for j in h)
                of_tau += share * slope
                m = (1 - self.beta) * self.m.get(who, 0.0) + self.beta * min(5.0, max(-5.0, slope))
                low, high = self.limits
                visits[who].append((math.log(u), min(high, max(low, tau - self.eta * m)), m))
        surrogate.backward()
        for who, found in visits.items():
            log_u, tau, m = (sum(column) / len(found) for column in zip(*found, strict=True))
            self.u[who], self.m[who] = math.exp(log_u), m
            if self.individual:
                self.taus[who] = tau
        self.done += 1
        return value, of_tau


def built(case: str) -> Objective:
    """The objective of a case in float64, whose temperature is not rounded to fp32."""
    said, reference = CASES[case]
    objective = mmcl.objective(said).double()
    for module in objective.modules():
        if isinstance(module, Temperature):
            module.log_scale.data.fill_(-math.log(reference.tau))
    return objective


CASES: dict[str, tuple[dict[str, Any], Reference]] = {
    "sogclr": ({"contrast": {"name": "sogclr", "gamma": 0.6}, "temperature": 0.2}, Reference(gamma=0.6, tau=0.2)),
    "eps": (
        {"contrast": {"name": "sogclr", "gamma": 0.3, "eps": 0.05}, "temperature": 0.1},
        Reference(gamma=0.3, eps=0.05, tau=0.1),
    ),
    "fastclip": (
        {
            "contrast": {"name": "sogclr", "gamma": 0.2, "gamma_steps": 4, "rho": 6.5},
            "temperature": {"init": 0.07, "learn": True},
        },
        Reference(gamma=0.2, gamma_steps=4, rho=6.5, tau=0.07),
    ),
    "isogclr": (
        {
            "contrast": {
                "name": "isogclr",
                "tau": 0.1,
                "tau_min": 0.03,
                "tau_max": 0.12,
                "eta": 0.02,
                "rho": 1.5,
                "beta": 0.4,
            }
        },
        Reference(tau=0.1, limits=(0.03, 0.12), eta=0.02, rho=1.5, beta=0.4, individual=True),
    ),
}
