"""report.html of a run: one file, no scripts, nothing loaded from elsewhere."""

import contextlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2

from mmcl.files import replacing
from mmcl.plots import Plot, drawn, training
from mmcl.runs import Run

REASONS, BAD = 10, 20  # of what could not be used: reasons, and samples, that are shown


def write_report(run: Run, titles: dict[str, str]) -> Path:
    """Write the report of a run from what lies in its folder.

    Args:
        run: the run.
        titles: of the tasks, by name.
    """
    rows, warnings, bad = (_lines(path) for path in (run.metrics, run.warnings, run.bad_samples))
    examples = _object(run.examples)
    packages = _object(run.path / "environment.json").get("packages", {})
    last = rows[-1] if rows else {}
    measured = {name: _metrics(rows, name) for name in titles}
    groups = training(rows)
    shares = [Plot(titles[name], "", rf"{re.escape(name)}/(.*(?:acc|mean_per_class|recall@).*)") for name in titles]
    held_out = Plot("validation loss", "And that of each term, without its weight.", "validation/(loss(?:/.+)?)")
    groups["Validation"] = (
        "Samples that are held out. Where it rises while the loss of training falls, samples are learned by heart.",
        [plot] if (plot := drawn(rows, held_out, {}, every_row=False)) else [],
    )
    groups["Tasks"] = (
        "Shares of what is right, from 0 to 1.",
        [p for p in (drawn(rows, one, {}, every_row=False) for one in shares) if p],
    )
    page = template("report.html.jinja").render(
        title=f"Run {run.path.name}",
        samples=f"{last.get('samples', 0):,}",
        seconds=_duration(last.get("seconds", 0.0)),
        bad=last.get("bad_samples", 0),
        skipped=last.get("skipped_steps", 0),
        warnings=[*warnings],
        reasons=Counter(one.get("reason", "?") for one in bad).most_common(REASONS),
        bad_samples=bad[-BAD:],
        best=_object(run.best) or None,
        average=next((row["measured_ema"] for row in reversed(rows) if "measured_ema" in row), None),
        version=packages.get("mmcl", "?"),
        torch=packages.get("torch", "?"),
        groups={name: group for name, group in groups.items() if group[1]},
        tasks=[
            {
                "name": name,
                "title": title,
                "n": _count(measured[name]),
                "metrics": _rows(measured[name]),
                "examples": examples.get(name, []),
            }
            for name, title in titles.items()
        ],
        recipe=(run.path / "recipe.yaml").read_text(),
    )
    with replacing(run.report) as file:
        file.write(page.encode())
    return run.report


def template(name: str) -> jinja2.Template:
    """A template of a page, which lies in this folder or below; what it writes is escaped.

    Args:
        name: path of its file.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(name)


def _lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a file, without one that a killed process has begun."""
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def _object(path: Path) -> dict[str, Any]:
    """What a file says; nothing, where it is not there or damaged."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else {}
    return {}


def _metrics(rows: list[dict[str, Any]], task: str) -> dict[str, float]:
    """The newest numbers of a task."""
    for row in reversed(rows):
        found = {name.removeprefix(f"{task}/"): v for name, v in row.items() if name.startswith(f"{task}/")}
        if found:
            return found
    return {}


def _rows(metrics: dict[str, float]) -> dict[str, dict[str, str]]:
    """Metrics as a table: a row for each direction, where there are directions."""
    rows: dict[str, dict[str, str]] = {}
    for name, value in metrics.items():
        if name not in ("n", "skipped"):
            row, _, column = name.rpartition("/")
            rows.setdefault(row.replace("_", " "), {})[column.replace("_", " ")] = _number(value)
    return rows


def _count(metrics: dict[str, float]) -> str:
    """How many items there are, and how many lacked something."""
    said = f"{metrics.get('n', 0):,.0f}"
    return f"{said}, {metrics['skipped']:,.0f} skipped" if "skipped" in metrics else said


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) <= 1 else f"{value:g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
