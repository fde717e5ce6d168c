"""All axes together: targets, negatives, directions, captions; tiles, broken rows, few rows, and every combination."""

import random
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import mmcl
from mmcl.errors import MmclError
from mmcl.losses import CONTRASTS, NEGATIVES, SCORES, TARGETS, VIEWS, Objective

MODALITIES = ("text", "image", "audio", "text.2", "text.3", "image.2", "image.wrong")
TEACHER = {"text": "teacher.text", "image": "teacher.image", "audio": "teacher.audio"}
PAIR = {"pairs": [["text", "image"]]}
CAPTIONS = {"view": {"name": "captions", "anchor": "image", "of": "text"}, "targets": "shared"}
NEGATIVE_PARTS: dict[str, Any] = {
    "in_batch": "in_batch",
    "distinct": "distinct",
    "alike": {"name": "alike", "by": "teacher.text", "above": 0.3},
    "in_modal": "in_modal",
    "provided": {"name": "provided", "copies": ["image.wrong"]},
    "null_anchor": {"name": "null_anchor", "of": ["image"]},
    "queue": {"name": "queue", "size": 12, "of": ["image", "text"], "top_k": 3},
    "mixed": {"name": "mixed", "hardest": 3, "count": 2, "with_query": 1},
}
TARGET_PARTS: dict[str, Any] = {
    "identity": "identity",
    "shared": "shared",
    "soft": {"name": "soft", "by": TEACHER},
    "cwcl": {"name": "cwcl", "by": "teacher.image", "toward": "image"},
    "congrat": {"name": "congrat", "by": "teacher.text"},
    "neighbours": {"name": "neighbours", "by": "image", "k": 2},
    "graded": {"name": "graded", "by": "grade"},
}
TERMS: dict[str, dict[str, Any]] = {
    **{
        f"{name} negatives": {"negatives": ["distinct", part] if name != "distinct" else part}
        for name, part in NEGATIVE_PARTS.items()
    },
    **{f"{name} targets": {"targets": part} for name, part in TARGET_PARTS.items()},
    "a margin": {"negatives": {"name": "alike", "by": TEACHER, "margin": 0.0}},
    "joint": {"negatives": ["in_batch", "in_modal"], "directions": "joint"},
    "backward": {"directions": "backward", "negatives": ["in_batch", {**NEGATIVE_PARTS["queue"], "of": ["text"]}]},
    "sigmoid": {"contrast": "sigmoid", "negatives": ["distinct", NEGATIVE_PARTS["in_modal"]]},
    "hinge": {"contrast": "hinge", "negatives": ["distinct", NEGATIVE_PARTS["provided"]]},
    "captions": {**CAPTIONS, "contrast": {"name": "softmax", "label_smoothing": 0.1}},
    "captions in one": {**CAPTIONS, "directions": "joint", "contrast": {"name": "softmax", "positives": "in"}},
    "volumes": {"score": "gram", "anchor": "text", "negatives": ["distinct", NEGATIVE_PARTS["provided"]]},
    "cut": {"transform": {"name": "matryoshka", "dims": [3, 6]}, "contrast": "hard_negative"},
}


def term(name: str, **more: Any) -> dict[str, Any]:
    said = TERMS[name]
    tempered = CONTRASTS.classes[said["contrast"]].tempered if isinstance(said.get("contrast"), str) else True
    view = {} if {"view", "anchor"} & set(said) else PAIR
    return {**view, **said, **({"temperature": 0.3} if tempered else {}), **more}


def record(rows: int, dtype: Any = torch.float32, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Embeddings, and what else an objective is told."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    x = {m: drawn(rows, 6) for m in MODALITIES}
    extras = {name: drawn(rows, 4) for name in TEACHER.values()} | {"grade": drawn(rows).abs() + 1}
    present = {m: torch.arange(rows) % (5 + i) != 3 for i, m in enumerate((*MODALITIES, "teacher.text"))}
    return x, {"extras": extras, "present": present, "keys": [str(i // 2) for i in range(rows)]}


def results(objective: Objective, x: dict[str, Tensor], more: dict[str, Any]) -> dict[str, Tensor]:
    """Value and gradients of the second of two steps."""
    for step in range(2):
        leaves = {m: t.clone().requires_grad_() for m, t in x.items()}
        objective.zero_grad()
        total = objective(leaves, step=step, **more).total
        total.backward()
        if step == 0:
            objective.after_step_()
    grads = {m: t.grad for m, t in leaves.items() if t.grad is not None}
    grads |= {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}
    return {"value": total.detach(), **grads}


def made(said: dict[str, Any], dtype: Any = torch.float32) -> Objective:
    torch.manual_seed(0)
    return mmcl.objective(said, dim=6).to(dtype)


@pytest.mark.parametrize("name", TERMS)
def test_tiles_are_the_plain_form(name: str) -> None:
    x, more = record(37, torch.float64)
    plain, tiles = (results(made(term(name, block=b), torch.float64), x, more) for b in (None, 16))
    assert plain.keys() == tiles.keys()
    for key, value in plain.items():
        torch.testing.assert_close(tiles[key], value, rtol=1e-9, atol=1e-11, msg=key)


HELD_STILL = ("neighbours targets", "mixed negatives")  # embeddings that stand for a teacher carry no gradient


@pytest.mark.parametrize("name", [name for name in TERMS if name not in HELD_STILL])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    """Along one direction."""
    x, more = record(9, torch.float64)
    objective = made(term(name), torch.float64)
    direction = {m: torch.randn_like(t) for m, t in x.items()}
    found = results(objective, x, more)
    along = sum((found[m] * direction[m]).sum() for m in x if m in found)
    state = {k: t.clone() for k, t in objective.state_dict().items()}
    ends = []
    for h in (1e-6, -1e-6):
        objective.load_state_dict(state)
        ends.append(objective({m: t + h * direction[m] for m, t in x.items()}, step=1, **more).total.item())
    assert float(along) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_broken_and_few_rows_stay_finite(name: str, dtype: Any) -> None:
    for kind in ("zero", "same", "few", "one", "none"):
        x, more = record({"few": 2, "one": 1, "none": 0}.get(kind, 6), dtype)
        if kind in ("zero", "same"):
            x = {m: torch.zeros_like(t) if kind == "zero" else torch.ones_like(t) for m, t in x.items()}
            more["extras"] |= {n: torch.ones_like(t) for n, t in more["extras"].items()}
        found = results(made(term(name)), x, more)
        for key, value in found.items():
            assert value.isfinite().all(), (kind, key)
        if kind in ("one", "none"):
            assert found["value"] == 0


@pytest.mark.slow
def test_every_combination_takes_a_finite_step_or_is_refused_with_a_reason() -> None:
    """One of 30, drawn once."""
    parts = [t for t in TARGET_PARTS if t in TARGETS.classes], [n for n in NEGATIVE_PARTS if n in NEGATIVES.classes]
    assert set(TARGETS.classes) == set(parts[0])
    assert set(NEGATIVES.classes) == {*parts[1], "bank"}
    every = list(
        product(SCORES.classes, CONTRASTS.classes, VIEWS.classes, *parts, ("both", "forward", "backward", "joint"))
    )
    taken, reasons = 0, set[str]()
    x, more = record(5)
    for score, contrast, view, targets, negatives, directions in random.Random(0).sample(every, len(every) // 30):
        arguments = {
            "star": {"anchor": "text"},
            "tuple": {"anchor": "text"},
            "captions": {"anchor": "image", "of": "text"},
        }
        said = {
            "score": score,
            "contrast": contrast,
            "view": {"name": view, **arguments.get(view, {})},
            "targets": TARGET_PARTS[targets],
            "negatives": ["distinct", NEGATIVE_PARTS[negatives]] if targets != "shared" else NEGATIVE_PARTS[negatives],
            "directions": directions,
        }
        try:
            found = results(made(said), x, more)
        except MmclError as error:
            reasons.add(str(error))
            continue
        assert all(value.isfinite().all() for value in found.values()), said
        taken += 1
    assert taken > 200
    assert all(len(reason) > 40 for reason in reasons)
