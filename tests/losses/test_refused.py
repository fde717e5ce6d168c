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
    "a null in one": ({"negatives": {"name": "null", "of": ["image"]}, "directions": "joint"}, "a null of its own"),
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
        {"negatives": {"name": "null", "of": ["image"]}, "transform": {"name": "matryoshka", "dims": [2, 4]}},
        "several widths",
    ),
}


def test_members_of_a_tuple_are_not_mixed() -> None:
    said = {"score": "gram", "anchor": "text", "transform": "mixup"}
    (line,) = check_objective(said)
    with pytest.raises(MmclError, match="image: only the anchor"):
        line.fits(["text", "image", "audio"], [])
    (line,) = check_objective({**said, "transform": {"name": "mixup", "modalities": ["text"]}})
    line.fits(["text", "image", "audio"], [])


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_do_nothing_or_something_else_is_refused(case: str) -> None:
    said, message = REFUSED[case]
    x = {m: torch.randn(8, 6) for m in ("text", "image", "text.wrong")}
    with pytest.raises(MmclError, match=message):
        mmcl.objective({"pairs": [["text", "image"]], **said}, dim=6)(x)
