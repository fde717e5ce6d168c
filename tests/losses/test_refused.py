"""Terms that would do nothing, or something else than they say."""

from typing import Any

import pytest
import torch

import mmcl
from mmcl.errors import MmclError
from mmcl.losses import check_objective

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "toward nothing": (
        {"targets": {"name": "cwcl", "by": "image", "toward": "imgae"}},
        "'imgae' is nothing that the term",
    ),
    "toward what is not searched": (
        {"targets": {"name": "cwcl", "by": "image", "toward": "image"}, "directions": "backward"},
        "nothing that the term looks for",
    ),
    "wrong captions that nobody sees": (
        {"negatives": {"name": "provided", "copies": ["text.wrong"]}, "directions": "forward"},
        "nothing that the term looks for",
    ),
    "twice": ({"negatives": ["in_modal", "in_modal"]}, "count twice"),
    "a null in one": (
        {"negatives": {"name": "null_anchor", "of": ["image"]}, "directions": "joint"},
        "a null of its own",
    ),
    "a margin over itself": ({"negatives": {"name": "alike", "by": "text", "margin": 0.0}}, "needs a mapping"),
    "queues of nobody": (
        {"negatives": {"name": "queue", "size": 4, "of": ["image"], "by": {"imgae": "image"}}},
        "have no queue",
    ),
    "mixtures of positives": ({"negatives": ["in_batch", "mixed"], "targets": "shared"}, "may be positives"),
    "mixtures of lengths": ({"negatives": ["in_batch", "mixed"], "score": "lorentz"}, "about lengths too"),
    "a temperature that only grows": ({"contrast": "sogclr", "temperature": {"learn": True}}, "set `rho`"),
    "mixed twice": ({"transform": ["mixup", "mixup"]}, "mixed once"),
    "graded by vectors": ({"targets": {"name": "graded", "by": "text"}}, "needs the extra 'text'"),
    "several widths": (
        {"negatives": {"name": "null_anchor", "of": ["image"]}, "transform": {"name": "matryoshka", "dims": [2, 4]}},
        "several widths",
    ),
}


def test_members_of_a_tuple_are_not_mixed() -> None:
    said = {"score": "gram", "anchor": "text", "transform": "mixup"}
    (line,) = check_objective(said)
    with pytest.raises(MmclError, match="image: only the anchor"):
        line.fits(["text", "image", "audio"], {}, (), 4)
    (line,) = check_objective({**said, "transform": {"name": "mixup", "modalities": ["text"]}})
    line.fits(["text", "image", "audio"], {}, (), 4)


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_do_nothing_or_something_else_is_refused(case: str) -> None:
    said, message = REFUSED[case]
    x = {m: torch.randn(8, 6) for m in ("text", "image", "text.wrong")}
    with pytest.raises(MmclError, match=message):
        mmcl.objective({"pairs": [["text", "image"]], **said}, dim=6)(x)


LATE: dict[str, tuple[dict[str, Any], str]] = {
    "matryoshka": ({"transform": {"name": "matryoshka", "dims": [8]}}, "6 coordinates, fewer than 8"),
    "matryoshka twice": ({"transform": {"name": "matryoshka", "dims": [2, 2]}}, "names one twice"),
    "whitening": ({"transform": {"name": "whitening", "groups": 4}}, "4 groups do not divide 6"),
    "after a head": (
        {
            "transform": [
                {"name": "heads", "modalities": ["text", "image"], "out": 5},
                {"name": "whitening", "groups": 3},
            ]
        },
        "3 groups do not divide 5",
    ),
    "what a head hides": (
        {"transform": {"name": "heads", "modalities": ["image"], "out": 5}},
        "two modalities or more",
    ),
    "swap": ({"transform": {"name": "swap", "pair": ["image", "txt"]}}, "'txt' is not among"),
    "mixup": ({"transform": {"name": "mixup", "modalities": ["txt"]}}, "'txt' is not among"),
    "positives of one": ({"contrast": {"name": "softmax", "positives": "in"}}, "they need `targets: shared`"),
    "a pair twice": ({"pairs": [["text", "image"], ["image", "text"]]}, "would count twice"),
    "no pairs": ({"pairs": []}, "at least 1"),
    "modalities twice": ({"regularize": {"name": "uniformity", "modalities": ["text", "text"]}}, "'text' twice"),
    "an extra that is a number": ({"targets": {"name": "soft", "by": "grade"}}, "a number a row, and a vector"),
    "an extra that is a vector": ({"targets": {"name": "graded", "by": "vector"}}, "a vector a row, and a number"),
}


@pytest.mark.parametrize("case", LATE)
def test_it_is_refused_before_the_term_counts(case: str) -> None:
    said, message = LATE[case]
    x = {m: torch.randn(8, 6) for m in ("text", "image")}
    extras = {"grade": torch.ones(8), "vector": torch.ones(8, 3)}
    with pytest.raises(MmclError, match=message):
        mmcl.objective([{"temperature": 0.1}, {"from_step": 5, **said}], dim=6)(x, extras=extras)


def test_parts_of_ones_own_that_return_the_wrong_thing_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    x = {m: torch.randn(8, 6) for m in ("text", "image")}
    objective = mmcl.objective("clip")
    monkeypatch.setattr(type(objective.terms[0].contrast), "__call__", lambda self, side: side.own.mean())
    with pytest.raises(MmclError, match=r"softmax must return the loss of each of 8 rows; got \(\)"):
        objective(x)
    objective = mmcl.objective({"regularize": "koleo"})
    monkeypatch.setattr(type(objective.terms[0]), "value", lambda self, e: e.all["text"].norm(dim=1))
    with pytest.raises(MmclError, match=r"koleo must be one number; got \(8,\)"):
        objective(x)


def test_parameters_that_nobody_would_train_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_weights(self: object, **_: object) -> None:
        vars(self)["weight"] = torch.nn.Parameter(torch.ones(2))

    monkeypatch.setattr("mmcl.losses.contrasts.focal.Focal.__init__", with_weights)
    with pytest.raises(MmclError, match="focal: weight would be neither trained nor saved"):
        mmcl.objective({"contrast": "focal"})


def test_a_contrast_may_ask_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmcl.losses.contrasts.softmax.Softmax.statistics", lambda self, shared: {})
    monkeypatch.setattr("mmcl.losses.contrasts.softmax.Softmax.__call__", lambda self, side: -side.own)
    x = torch.randn(8, 6, requires_grad=True)
    out = mmcl.objective("clip")({"text": x, "image": torch.randn(8, 6)})
    out.total.backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
