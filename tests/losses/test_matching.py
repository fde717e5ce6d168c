"""The matching head: what is drawn, what it costs, what never is drawn."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mmcl
from mmcl.errors import MmclError
from mmcl.losses import Matching, Objective
from mmcl.types import Embeddings
from tests.losses import references

N, D, TAU = 9, 4, 0.3
NAMES = ("image", "audio")


def vectors(rows: int = N) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(rows, D, generator=generator, dtype=torch.float64)
    return {
        m: (base + torch.randn(rows, D, generator=generator, dtype=torch.float64)).requires_grad_()
        for m in ("text", *NAMES)
    }


def objective(score: str = "gram", **said: Any) -> Objective:
    torch.manual_seed(0)
    said = {"score": score, "temperature": TAU, "hidden": 8, **said}
    return mmcl.objective({"regularize": {"name": "matching", **said}}, dim=D).double()


def regularizer(of: Objective) -> Matching:
    made = of.terms[0].regularizer
    assert isinstance(made, Matching)
    return made


def record(x: dict[str, Tensor], step: int = 0, **more: Any) -> Embeddings:
    return replace(Embeddings.single(x, **more), step=step)


def draws(of: Objective, e: Embeddings) -> tuple[list[int], list[int]]:
    valid = torch.stack([e.present[m] for m in ("text", *NAMES)]).all(0)
    j, k = regularizer(of)._drawn(e, list(NAMES), valid)
    return j.tolist(), k.tolist()


def reference_draws(score: str, e: Embeddings) -> tuple[list[int], list[int]]:
    """The inverse of the cumulative softmax over what a row may draw, one row at a time."""
    uniform = 1 - torch.rand(N, 2, generator=e.generator(*b"matching"))
    valid = [all(bool(e.present[m][i]) for m in ("text", *NAMES)) for i in range(N)]
    found: tuple[list[int], list[int]] = ([], [])
    for which in (0, 1):
        for i in range(N):
            pairs = {j: (i, j) if which == 0 else (j, i) for j in range(N) if valid[j] and e.ids[i] != e.ids[j]}
            scores = {
                j: references.SCORES[score](e.all["text"][a].detach(), *(e.all[m][b].detach() for m in NAMES))
                for j, (a, b) in pairs.items()
            }
            weights = {j: float(torch.tensor(s, dtype=torch.float64).div(TAU).exp()) for j, s in scores.items()}
            rest = float(uniform[i, which]) * sum(weights.values())
            last = -1
            for j, w in weights.items():
                last = j
                rest -= w
                if rest <= 0:
                    break
            found[which].append(last)
    return found


@pytest.mark.parametrize("score", ["gram", "cosine", "triangle"])
@pytest.mark.parametrize("keys", [None, list("aabcdefdg")])
def test_draws_invert_the_cumulative_softmax(score: str, keys: list[str] | None) -> None:
    there = {"audio": torch.arange(N) != 5}
    for step in range(3):
        e = record(vectors(), step, keys=keys, present=there)
        for mine, other in zip(draws(objective(score), e), reference_draws(score, e), strict=True):
            assert [j for i, j in enumerate(mine) if i != 5] == [j for i, j in enumerate(other) if i != 5]


def test_draws_have_the_frequencies_of_the_softmax() -> None:
    x, steps = {m: t.detach() for m, t in vectors().items()}, 300
    made, counts = objective("cosine"), torch.zeros(2, N, N)
    for step in range(steps):
        for which, found in enumerate(draws(made, record(x, step))):
            counts[which, range(N), found] += 1
    u = {m: F.normalize(t, dim=1) for m, t in x.items()}
    z = u["text"] @ (u["image"] + u["audio"]).T / 2 / TAU
    z.fill_diagonal_(-float("inf"))
    for which, p in enumerate((z.softmax(1), z.T.softmax(1))):
        error = (counts[which] / steps - p).abs() / (p * (1 - p) / steps).sqrt().clamp(min=1e-3)
        assert error.max() < 5
        assert counts[which].diagonal().sum() == 0


@pytest.mark.parametrize("temperature", [1e-4, 100.0])
def test_neither_the_own_nor_what_shows_the_same_is_drawn(temperature: float) -> None:
    keys, there = list("aabcdefdg"), {"text": torch.arange(N) != 2}
    made = objective(temperature=temperature).float()
    for step in range(50):
        x = {m: t.detach().bfloat16() for m, t in vectors().items()}
        for found in draws(made, record(x, step, keys=keys, present=there)):
            assert all(keys[i] != keys[j] and j != 2 for i, j in enumerate(found))


@pytest.mark.parametrize("missing", [False, True])
def test_the_loss_is_a_balanced_cross_entropy(missing: bool) -> None:
    x, made = vectors(), objective()
    there = {"image": torch.arange(N) != 4} if missing else None
    j, k = reference_draws("gram", record(x, 7, present=there))
    u = {m: F.normalize(t, dim=1) for m, t in x.items()}

    def logit(t: int, i: int) -> Tensor:
        mean = (u["image"][i] + u["audio"][i]) / 2
        return regularizer(made).head(torch.cat([2 * u["text"][t], 2 * mean, 4 * u["text"][t] * mean])).squeeze()

    rows = [i for i in range(N) if not missing or i != 4]
    expected = torch.zeros((), dtype=torch.float64)
    for i in rows:
        expected = expected - logit(i, i).sigmoid().log() / 2
        expected = expected - (1 - logit(i, j[i]).sigmoid()).log() / 4 - (1 - logit(k[i], i).sigmoid()).log() / 4
    expected = expected / len(rows)
    leaves = [*x.values(), *made.parameters()]
    wanted = torch.autograd.grad(expected, leaves)
    total = made(x, step=7, present=there).total
    torch.testing.assert_close(total, expected)
    for mine, other in zip(torch.autograd.grad(total, leaves), wanted, strict=True):
        torch.testing.assert_close(mine, other)


def test_a_tuple_may_leave_modalities_out() -> None:
    x = vectors()
    pair = {m: x[m] for m in ("text", "image")}
    found = objective("cosine", others=["image"])(x, present={"audio": torch.zeros(N, dtype=torch.bool)}).total
    torch.testing.assert_close(found, objective("cosine")(pair).total)


def test_draws_change_with_the_step() -> None:
    x, made = vectors(64), objective("cosine")
    assert draws(made, record(x, 0)) == draws(made, record(x, 0))
    assert draws(made, record(x, 0)) != draws(made, record(x, 1))
    assert draws(made, record(x, 0))[0] != draws(made, record(x, 0))[1]


def test_nothing_to_draw_from_is_zero() -> None:
    x = vectors()
    total = objective()(x, keys=["a"] * N).total
    total.backward()
    assert total == 0
    assert all(t.grad is not None and t.grad.abs().max() == 0 for t in x.values())


def test_a_head_that_knows_nothing_is_at_chance_and_one_that_is_taught_is_not() -> None:
    made = objective("cosine", hidden=32).float()
    silent = objective("cosine").float()
    torch.nn.init.zeros_(regularizer(silent).head[-1].weight)
    torch.nn.init.zeros_(regularizer(silent).head[-1].bias)

    def batch(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        base = torch.randn(64, D, generator=generator)
        return {m: base + 0.2 * torch.randn(64, D, generator=generator) for m in ("text", *NAMES)}

    assert silent(batch(0)).total.item() == pytest.approx(0.6931, abs=1e-4)
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-2)
    for step in range(100):
        optimizer.zero_grad()
        made(batch(step), step=step).total.backward()
        optimizer.step()
    assert made(batch(1000), step=1000).total < 0.5


def test_mistakes_are_told() -> None:
    with pytest.raises(MmclError, match="lorentz has weights"):
        objective("lorentz")
    with pytest.raises(MmclError, match="does not take 2 modalities"):
        objective("kernel")(vectors())
    with pytest.raises(MmclError, match="a head for 5 coordinates; embeddings have 4"):
        mmcl.objective({"regularize": "matching"}, dim=5)(vectors())
    with pytest.raises(MmclError, match="no score is called 'gran'; did you mean 'gram'"):
        objective("gran")
    for said in ({"anchor": "caption"}, {"others": ["caption"]}):
        with pytest.raises(MmclError, match="'caption' is not among"):
            objective(**said)(vectors())
    with pytest.raises(MmclError, match="'text' is the anchor"):
        objective(others=["text", "image"])


def test_the_spec_is_written_back_as_it_was_read() -> None:
    spec = objective().terms[0].spec
    assert type(spec).model_validate(spec.model_dump(mode="json")) == spec
