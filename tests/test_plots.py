"""Curves of the report: which there are, where they have gaps, and no warning."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import mmcl
from mmcl.losses import REGULARIZERS, Regularizer
from mmcl.plots import MOST, Plot, drawn, training
from mmcl.recipe import Recipe
from mmcl.types import Embeddings

TERM = Plot("t", "", "loss/(.+)")


def rows(count: int = 30, **numbers: Callable[[int], float | None]) -> list[dict[str, Any]]:
    made = [{"samples": 10 * i, **{name: number(i) for name, number in numbers.items()}} for i in range(count)]
    return [{name: number for name, number in row.items() if number is not None} for row in made]


def curves(svg: str) -> list[str]:
    """Paths of the curves, which alone are clipped to the axes, but for the grid."""
    groups = re.findall(r'<path d="([^"]*)" clip-path="[^"]*" style="fill: none; stroke: #([0-9a-f]{6})', svg)
    return [path for path, color in groups if color != "b0b0b0"]


def test_what_training_writes_is_drawn_in_groups_and_explained() -> None:
    names = [
        "loss",
        "grad_norm",
        "towers/image/grad_norm",
        "lr",
        "samples_per_second",
        "loss/a_b",
        "loss/c",
        "grad_norm/c",
        "temperature/c",
        "embeddings/image/uniformity",
    ]
    pair = ["alignment", "gap", "positive", "hardest_negative", "something_new"]
    names += ["embeddings/image/effective_rank", *(f"embeddings/image-text/{name}" for name in pair)]
    groups = training(rows(**{name: lambda i: 1.0 + i for name in names}))
    found = {name: [plot.title for plot in plots] for name, (_, plots) in groups.items()}
    assert found == {
        "The run": ["loss", "norm of the gradient", "gradient of each tower", "learning rate", "speed"],
        "Terms": ["value of each term", "gradient of each term", "temperature"],
        "Embeddings": [
            "positive and hardest negative",
            "alignment",
            "gap",
            "uniformity",
            "effective rank",
            "something new",
        ],
    }
    assert all(plot.about for _, plots in groups.values() for plot in plots if plot.title != "something new")
    values, gradients, temperatures = groups["Terms"][1]
    assert [(line.label, line.last) for line in values.lines] == [("a b", "30"), ("c", "30")]
    assert {plot.lines[-1].color for plot in (values, gradients, temperatures)} == {values.lines[1].color}
    positive, hardest = groups["Embeddings"][1][0].lines
    assert (positive.style, hardest.style) == ("solid", "dashed")
    assert positive.color == hardest.color
    assert training(rows())["Terms"][1] == []


def test_a_term_that_is_switched_off_is_a_gap() -> None:
    whole, broken = (
        drawn(rows(**{"loss/a": lambda i, off=off: None if i in off else float(i % 7)}), TERM, {})
        for off in ((), (10, 11, 12))
    )
    assert whole is not None
    assert broken is not None
    (unbroken,), (path,) = curves(whole.svg), curves(broken.svg)
    assert (unbroken.count("M"), path.count("M")) == (1, 2)
    measured = drawn(rows(**{"loss/a": lambda i: float(i) if i % 3 == 0 else None}), TERM, {}, every_row=False)
    assert measured is not None
    assert curves(measured.svg)[0].count("M") == 1  # what is measured now and then has no gaps


def test_a_term_that_counts_for_one_row_alone_is_a_point() -> None:
    made = drawn(rows(**{"loss/a": lambda i: 1.0 if i == 15 else None, "loss/b": lambda i: 2.0}), TERM, {})
    assert made is not None
    assert made.svg.count("<use ") == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, -1.0, 1e-30, 1e30])
@pytest.mark.parametrize("count", [1, 2, 25])
def test_no_numbers_make_a_warning(value: float, count: int) -> None:
    names = ["loss", "grad_norm", "grad_norm/a", "lr", "loss/a", "temperature/a", "embeddings/i/uniformity"]
    groups = training(rows(count, **{name: lambda i: value for name in names}))
    assert sum(len(plots) for _, plots in groups.values()) == len(names)


def test_a_long_run_has_a_short_page() -> None:
    made = drawn(rows(20 * MOST + 7, **{"loss/a": lambda i: float(i % 13)}), TERM, {})
    assert made is not None
    assert len(made.svg) < 60_000
    assert made.lines[0].last == f"{(20 * MOST + 6) % 13}"


def test_a_term_may_have_the_name_of_another_number(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    @REGULARIZERS.register("step")
    class Step(Regularizer):
        def __call__(self, embeddings: Embeddings) -> Float[Tensor, ""]:
            return torch.tensor(-7.0)

    try:
        run = mmcl.train(tiny(tmp_path / "run", "objective=[{}, {regularize: step, from_step: 4}]"))
    finally:
        del REGULARIZERS.classes["step"], REGULARIZERS._specs["step"]
    written = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in written] == list(range(1, 9))
    assert [row.get("loss/step") for row in written] == [None] * 4 + [-7.0] * 4
    page = (run / "report.html").read_text()
    for shown in (
        "value of each term",
        "gradient of each term",
        "effective rank",
        "Solid should lie above",
        "step<span>-7",
    ):
        assert shown in page
