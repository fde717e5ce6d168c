"""Curves of a run, as SVG, with what they mean in words."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

MOST = 500  # points of a curve
COLORS = ("#2f6fde", "#d9662b", "#2c9a6b", "#b0418f", "#8a6d1f", "#4aa5c7", "#c33c3c", "#6b57c9", "#7b8494", "#1d4a43")

Rows = Sequence[Mapping[str, Any]]


class Plot(NamedTuple):
    """What one plot shows."""

    title: str
    about: str
    names: str
    """Which numbers of a row are its curves, as a regular expression; what it captures is their label."""
    log: bool = False


class Line(NamedTuple):
    """One curve, for the legend."""

    label: str
    color: str
    style: str
    last: str


@dataclass(frozen=True)
class Drawn:
    """A plot, drawn."""

    title: str
    about: str
    svg: str
    lines: list[Line]


RUN = (
    Plot("loss", "What the optimizer minimises: the sum of all terms, each with its weight.", "loss"),
    Plot("norm of the gradient", "Of all weights, before it is clipped; logarithmic.", "grad_norm", log=True),
    Plot(
        "gradient of each tower",
        "Before it is clipped, and of the objective's own weights; logarithmic.",
        "(?:towers/)?(.+)/grad_norm",
        log=True,
    ),
    Plot("learning rate", "Set by the schedule.", "lr"),
    Plot("speed", "Samples a second, over all processes.", "samples_per_second"),
)
TERMS = (
    Plot("value of each term", "Without its weight.", "loss/(.+)"),
    Plot(
        "gradient of each term",
        "Norm with respect to the embeddings, with its weight; logarithmic. The largest moves them most.",
        "grad_norm/(.+)",
        log=True,
    ),
    Plot(
        "temperature",
        "Scores are divided by it: the smaller, the more the nearest negatives count.",
        "temperature/(.+)",
    ),
)
EMBEDDINGS = (
    Plot(
        "positive and hardest negative",
        "Mean cosine with the own candidate (solid) and the best other one (dashed). Solid should lie above.",
        "embeddings/(.+/(?:positive|hardest_negative))",
    ),
    Plot(
        "alignment",
        "Mean squared distance of what belongs together. 0: the same; 2: unrelated.",
        "embeddings/(.+)/alignment",
    ),
    Plot("gap", "Distance between the means of two modalities. 0: they lie in the same place.", "embeddings/(.+)/gap"),
    Plot(
        "uniformity",
        "0: all of a modality in one point (collapse); -4: spread like unrelated vectors.",
        "embeddings/(.+)/uniformity",
    ),
    Plot(
        "effective rank",
        "How many directions a modality uses. 1: collapse; at most the width.",
        "embeddings/(.+)/effective_rank",
    ),
)


def training(rows: Rows) -> dict[str, tuple[str, list[Drawn]]]:
    """Plots of what training wrote, in groups: what each is about, and its plots."""
    known = [plot.names.rpartition("/")[2] for plot in EMBEDDINGS[1:]] + ["positive", "hardest_negative"]
    kinds = dict.fromkeys(n.rpartition("/")[2] for row in rows for n in row if n.startswith("embeddings/"))
    more = [Plot(k.replace("_", " "), "", f"embeddings/(.+)/{re.escape(k)}") for k in kinds if k not in known]
    groups = {
        "The run": ("", RUN),
        "Terms": ("The lines of the recipe's objective. A gap is a time at which a term is switched off.", TERMS),
        "Embeddings": ("Of the first rows of a batch, by modality or by pair of modalities.", (*EMBEDDINGS, *more)),
    }
    found = {}
    for name, (about, plots) in groups.items():
        colors: dict[str, str] = {}
        found[name] = about, [made for made in (drawn(rows, plot, colors) for plot in plots) if made is not None]
    return found


def drawn(rows: Rows, plot: Plot, colors: dict[str, str], every_row: bool = True) -> Drawn | None:
    """One plot, or None where there is nothing to draw.

    Args:
        rows: of the metrics.
        plot: what to draw.
        colors: of the things that are drawn, the same in several plots; new ones are added.
        every_row: a row that lacks a number is a gap in its curve; otherwise only rows count that have one.
    """
    found = {n: m for row in rows for n in row if (m := re.fullmatch(plot.names, n))}
    if not found:
        return None
    if not every_row:
        rows = [row for row in rows if any(name in row for name in found)]
    rows = [*rows[: -1 : math.ceil(len(rows) / MOST)], rows[-1]]
    samples = [row["samples"] for row in rows]
    figure = Figure(figsize=(4.2, 2.3), layout="constrained")
    axes = figure.subplots()
    lines = list[Line]()
    for name in found:
        label, dashed = "/".join(found[name].groups()) or name, name.endswith("/hardest_negative")
        thing = label.removesuffix("/positive").removesuffix("/hardest_negative")
        color = colors.setdefault(thing, COLORS[len(colors) % len(COLORS)])
        values = [row.get(name, math.nan) for row in rows]
        style = "dashed" if dashed else "solid"
        alone = [
            i for i in range(len(values)) if not any(map(math.isfinite, (values[i - 1 : i] + values[i + 1 : i + 2])))
        ]
        points = range(len(values)) if len(rows) < 20 else alone
        axes.plot(samples, values, color=color, linestyle=style, linewidth=1.5, marker=".", markevery=list(points))
        last = next((v for v in reversed(values) if math.isfinite(v)), math.nan)
        lines.append(Line(label.replace("_", " ").replace("/", " "), color, style, f"{last:.3g}"))
    if plot.log and any(row.get(name, 0) > 0 for row in rows for name in found):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.0, 0.5)))
    return Drawn(plot.title, plot.about, _svg(figure, plot.title), lines)


def _svg(figure: Figure, title: str) -> str:
    (axes,) = figure.axes
    axes.xaxis.set_major_formatter(
        lambda x, _: f"{x / 1e6:g}M" if x >= 1e6 else f"{x / 1e3:g}k" if x >= 1e3 else f"{x:g}"
    )
    axes.locator_params(axis="x", nbins=5)
    axes.tick_params(which="both", labelsize=9, colors="#6a6d76", length=0)
    axes.grid(alpha=0.25)
    axes.spines[:].set_visible(False)
    return as_svg(figure, title)


def as_svg(figure: Figure, title: str) -> str:
    """A figure as an SVG element, the same each time.

    Args:
        figure: what is drawn.
        title: what the names of its parts are made from.
    """
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    svg = out.getvalue()
    return svg[svg.index("<svg") :]
