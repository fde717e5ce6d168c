"""The objectives in float64, one pair and one row at a time, written from the papers' equations."""

import math
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

RIDGE = 1e-6  # part of mmcl's definition of a volume


def unit(x: Tensor) -> Tensor:
    return x.double() / x.double().norm()


def cosine(t: Tensor, *others: Tensor) -> float:
    return float(sum(unit(t) @ unit(x) for x in others)) / len(others)


def centroid(t: Tensor, *others: Tensor) -> float:
    return float(unit(t) @ unit(torch.stack([unit(x) for x in others]).mean(0)))


def gram_matrix(*vectors: Tensor) -> Tensor:
    x = torch.stack([unit(v) for v in vectors])
    return x @ x.T + RIDGE * torch.eye(len(vectors), dtype=x.dtype)


def gram(t: Tensor, *others: Tensor) -> float:
    return -math.sqrt(float(torch.linalg.det(gram_matrix(t, *others))))


def span(t: Tensor, *others: Tensor) -> float:
    return -math.sqrt(float(torch.linalg.det(gram_matrix(t, *others)) / torch.linalg.det(gram_matrix(*others))))


def triangle(t: Tensor, x: Tensor, y: Tensor) -> float:
    u, w = unit(t) - unit(x), unit(t) - unit(y)
    return -0.5 * math.sqrt(float((u @ u) * (w @ w) - (u @ w) ** 2))


def symile(t: Tensor, *others: Tensor) -> float:
    return float(torch.stack([unit(v) for v in (t, *others)]).prod(0).sum())


def kernel(t: Tensor, x: Tensor) -> float:
    return -float((unit(t) - unit(x)).norm())


def lorentz(t: Tensor, x: Tensor) -> float:
    """Curvature 1, scales 1/sqrt(dim)."""

    def lift(v: Tensor) -> Tensor:
        v = v.double() / math.sqrt(v.shape[0])
        return torch.sinh(v.norm()) * v / v.norm()

    a, b = lift(t), lift(x)
    inner = a @ b - torch.sqrt(1 + a @ a) * torch.sqrt(1 + b @ b)
    return -float(torch.acosh(-inner))


SCORES: dict[str, Callable[..., float]] = {
    "cosine": cosine,
    "gram": gram,
    "span": span,
    "triangle": triangle,
    "symile": symile,
    "kernel": kernel,
    "lorentz": lorentz,
}


# contrasts: the row's positives (own first), its negatives, the temperature; raw scores


def softmax(own: list[float], rest: list[float], tau: float) -> float:
    everyone = sum(math.exp(s / tau) for s in [*own, *rest])
    return -sum(math.log(math.exp(p / tau) / everyone) for p in own) / len(own)


def softmax_in(own: list[float], rest: list[float], tau: float) -> float:
    everyone = sum(math.exp(s / tau) for s in [*own, *rest])
    return -math.log(sum(math.exp(p / tau) / everyone for p in own) / len(own))


def smoothed(own: list[float], rest: list[float], tau: float, epsilon: float = 0.1) -> float:
    everyone = [s / tau for s in [*own, *rest]]
    log = math.log(sum(math.exp(z) for z in everyone))
    target = (1 - epsilon) * own[0] / tau + epsilon * sum(everyone) / len(everyone)
    return log - target


def sigmoid(own: list[float], rest: list[float], tau: float, bias: float = -10.0) -> float:
    def log_sigmoid(z: float) -> float:
        return -math.log1p(math.exp(-z)) if z > -30 else z

    positives = -sum(log_sigmoid(s / tau + bias) for s in own)
    return positives - sum(log_sigmoid(-(s / tau + bias)) for s in rest)


def decoupled(own: list[float], rest: list[float], tau: float) -> float:
    return -own[0] / tau + math.log(sum(math.exp(s / tau) for s in rest))


def hard_negative(own: list[float], rest: list[float], tau: float, alpha: float = 1.0, beta: float = 0.25) -> float:
    total = sum(math.exp(beta * s / tau) for s in rest)
    weights = [len(rest) * math.exp(beta * s / tau) / total for s in rest]
    negatives = sum(w * math.exp(s / tau) for w, s in zip(weights, rest, strict=True))
    return -math.log(math.exp(own[0] / tau) / (alpha * math.exp(own[0] / tau) + negatives))


def debiased(own: list[float], rest: list[float], tau: float, tau_plus: float = 0.1, lowest: float = -1.0) -> float:
    mean = sum(math.exp(s / tau) for s in rest) / len(rest)
    g = max((mean - tau_plus * math.exp(own[0] / tau)) / (1 - tau_plus), math.exp(lowest / tau))
    return -math.log(math.exp(own[0] / tau) / (math.exp(own[0] / tau) + len(rest) * g))


def margin(own: list[float], rest: list[float], tau: float, m: float = 0.1) -> float:
    return softmax([own[0] - m], rest, tau)


def angular(own: list[float], rest: list[float], tau: float, m: float = 0.1) -> float:
    return softmax([math.cos(math.acos(own[0]) + m)], rest, tau)


def focal(own: list[float], rest: list[float], tau: float, gamma: float = 2.0) -> float:
    p = math.exp(-softmax(own, rest, tau))
    return -((1 - p) ** gamma) * math.log(p)


def hinge(own: list[float], rest: list[float], tau: float, m: float = 0.2) -> float:
    return max(0.0, m + max(rest) - own[0])


def spectral(own: list[float], rest: list[float], tau: float) -> float:
    return -2 * own[0] + sum(s * s for s in rest) / len(rest)


def cacr(own: list[float], rest: list[float], tau: float, ratio: float = 0.5) -> float:
    minus = 1 / (2 * tau)
    plus = ratio * minus

    def weighted(scores: list[float], t: float) -> float:
        distances = [2 - 2 * s for s in scores]
        weights = [math.exp(t * d) for d in distances]
        return sum(w * d for w, d in zip(weights, distances, strict=True)) / sum(weights)

    return weighted(own, plus) - weighted(rest, -minus)


def swap(a: float, b: float, steepness: float) -> float:
    """Share of b in the smaller of two neighbours."""
    return 0.5 - math.atan(steepness * (b - a)) / math.pi


def groco(own: list[float], rest: list[float], tau: float, top_k: int = 10, steepness: float = 1.0) -> float:
    """The whole permutation matrix, and both cross-entropies of the paper."""
    x = [*sorted(rest)[-top_k:], own[0]] if rest else [own[0]]
    n = len(x)
    share = torch.eye(n, dtype=torch.float64)  # of input j in output r
    for layer in range(n):
        for a in range(layer % 2, n - 1, 2):
            v = swap(x[a], x[a + 1], steepness)
            x[a], x[a + 1] = (1 - v) * x[a] + v * x[a + 1], v * x[a] + (1 - v) * x[a + 1]
            low, high = (1 - v) * share[a] + v * share[a + 1], v * share[a] + (1 - v) * share[a + 1]
            share[a], share[a + 1] = low, high
    positive, negative = share[n - 1], share[: n - 1].sum(0)
    of_positive = [positive[j] if j == n - 1 else 1 - positive[j] for j in range(n)]
    of_negative = [1 - negative[j] if j == n - 1 else negative[j] for j in range(n)]
    return -sum(math.log(a) + math.log(b) for a, b in zip(of_positive, of_negative, strict=True)) / (2 * n)


def sogclr(own: list[float], rest: list[float], tau: float, rho: float = 0.0, eps: float = 1e-14) -> float:
    """The first visit, when the average is what the batch says."""
    g = sum(math.exp((s - own[0]) / tau) for s in rest) / len(rest)
    return tau * (math.log(eps + g) + rho)


def loss(
    score: Callable[..., float],
    contrast: Callable[..., float],
    anchors: Tensor,
    others: list[Tensor],
    tau: float,
    directions: str = "both",
    ids: list[int] | None = None,
    shared: bool = False,
    distinct: bool = False,
) -> float:
    """Mean over rows (and columns) of a contrast over the whole matrix."""
    n = anchors.shape[0]
    s = torch.zeros(n, n, dtype=torch.float64)
    for i, j in product(range(n), repeat=2):
        s[i, j] = score(anchors[i], *(x[j] for x in others))
    values = []
    for matrix in (s, s.T) if directions == "both" else (s,):
        for i in range(n):
            same = [j for j in range(n) if j != i and ids is not None and ids[i] == ids[j]]
            positives = [i, *(same if shared else [])]
            rest = [j for j in range(n) if j not in positives and not (distinct and j in same)]
            values.append(contrast([float(matrix[i, j]) for j in positives], [float(matrix[i, j]) for j in rest], tau))
    return sum(values) / len(values)
