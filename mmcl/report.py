"""report.html of a run: one file, no scripts, nothing loaded from elsewhere."""

import io
import json
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from matplotlib.figure import Figure

from mmcl.runs import Run

CURVES = (  # what to draw: title, how the metrics are called, logarithmic or not
    ("loss", "loss", False),
    ("temperature", "temperature/", False),
    ("norm of the gradient", "grad_norm", True),
    ("learning rate", "lr", False),
)


def write_report(run: Run, titles: dict[str, str]) -> Path:
    """Write the report of a run from what lies in its folder.

    Args:
        run: the run.
        titles: of the tasks, by name.
    """
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    examples = json.loads(run.examples.read_text()) if run.examples.exists() else {}
    environment = json.loads((run.path / "environment.json").read_text())["packages"]
    last = rows[-1] if rows else {}
    curves = [_curve(rows, title, _names(rows, start), log) for title, start, log in CURVES]
    measured = {name: _metrics(rows, name) for name in titles}
    curves += [
        _curve(rows, name, [f"{name}/{m}" for m in _curved(metrics)], False) for name, metrics in measured.items()
    ]
    page = _template().render(
        title=f"Run {run.path.name}",
        samples=f"{last.get('samples', 0):,}",
        seconds=_duration(last.get("seconds", 0.0)),
        bad=last.get("bad_samples", 0),
        average=next((row["measured_ema"] for row in reversed(rows) if "measured_ema" in row), None),
        version=environment["mmcl"],
        torch=environment["torch"],
        curves=[curve for curve in curves if curve],
        tasks=[
            {
                "name": name,
                "title": title,
                "n": f"{measured[name].get('n', 0):,.0f}",
                "metrics": _rows(measured[name]),
                "examples": examples.get(name, []),
            }
            for name, title in titles.items()
        ],
        recipe=(run.path / "recipe.yaml").read_text(),
    )
    run.report.write_text(page, encoding="utf-8")
    return run.report


def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8"))


def _names(rows: list[dict[str, Any]], start: str) -> list[str]:
    return sorted(
        {name for row in rows for name in row if name == start or (start.endswith("/") and name.startswith(start))}
    )


def _metrics(rows: list[dict[str, Any]], task: str) -> dict[str, float]:
    """The newest numbers of a task."""
    for row in reversed(rows):
        found = {name.removeprefix(f"{task}/"): v for name, v in row.items() if name.startswith(f"{task}/")}
        if found:
            return found
    return {}


def _curved(metrics: dict[str, float]) -> list[str]:
    """Metrics that are shares, so that they can share an axis."""
    return [name for name in metrics if name.startswith(("acc", "mean_per_class")) or "/recall@" in name]


def _curve(rows: list[dict[str, Any]], title: str, names: list[str], log: bool) -> str | None:
    """One plot as SVG, or None where there is nothing to plot."""
    lines = {name: [(row["samples"], row[name]) for row in rows if name in row] for name in names}
    if not any(lines.values()):
        return None
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    for name, points in lines.items():
        marker = "." if len(points) < 20 else None
        axes.plot(*zip(*points, strict=True), label=name.removeprefix(f"{title}/"), linewidth=1.4, marker=marker)
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel("samples seen")
    axes.set_yscale("log" if log else "linear")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    return svg[svg.index("<svg") :]


def _rows(metrics: dict[str, float]) -> dict[str, dict[str, str]]:
    """Metrics as a table: a row for each direction, where there are directions."""
    rows: dict[str, dict[str, str]] = {}
    for name, value in metrics.items():
        if name != "n":
            row, _, column = name.rpartition("/")
            rows.setdefault(row.replace("_", " "), {})[column.replace("_", " ")] = _number(value)
    return rows


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) <= 1 else f"{value:g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
