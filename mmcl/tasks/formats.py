"""Results as other people's programs, and papers, want them."""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmcl.tasks.result import Result

Results = Mapping[str, Mapping[str, Result]]
"""Model -> task -> what was measured."""
KINDS = {
    "zeroshot": "zeroshot_classification",
    "retrieval": "zeroshot_retrieval",
    "linear_probe": "linear_probe",
    "choice": "image_caption_selection",
    "winoground": "image_caption_selection",
}
"""What CLIP_benchmark calls ways to measure."""
THEIRS = {
    "text_to_image/recall@": "image_retrieval_recall@",
    "image_to_text/recall@": "text_retrieval_recall@",
}
"""What they call retrieval: by what is found."""
CSV = ("model", "task", "metric", "value", "low", "high", "n", "version", "score", "towers", "headline")


def as_json(results: Results) -> str:
    """Task -> metric -> number, with ``about`` beside the numbers; of several models, model -> that."""
    said = {model: {task: one.to_json() for task, one in tasks.items()} for model, tasks in results.items()}
    return strict(said if len(said) != 1 else next(iter(said.values())), indent=1)


def as_csv(results: Results) -> str:
    """A row a number."""
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(CSV)
    for model, tasks in results.items():
        for task, one in tasks.items():
            about = one.about
            for metric, count in about["counts"].items():
                low, high = one.interval(metric) or ("", "")
                own = (about["version"], about["score"], about["precision"]["towers"], metric == about["headline"])
                rows.writerow([model, task, metric, one[metric], low, high, count, *own])
    return file.getvalue()


def as_markdown(results: Results) -> str:
    """A row a task, a column a model: the headline, with its interval and n."""
    models = list(results)
    lines = ["| task | metric | n | " + " | ".join(models) + " |", "|---|---|---|" + "---|" * len(models)]
    for task, metric, count, cells in table(results):
        lines.append(f"| {task} | {metric} | {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def table(results: Results) -> list[tuple[str, str, str, list[str]]]:
    """(task, metric, n, the models' values): the headlines, or, of one model, everything."""
    tasks = list(dict.fromkeys(task for tasks in results.values() for task in tasks))
    alone = len(results) == 1
    rows = []
    for task in tasks:
        first = next(tasks_of[task] for tasks_of in results.values() if task in tasks_of)
        for metric in first.about["counts"] if alone else [first.about["headline"]]:
            cells = [cell(tasks_of.get(task), metric) for tasks_of in results.values()]
            left = f" ({first['skipped']:,.0f} skipped)" if first.get("skipped") else ""
            rows.append((task, metric, f"{first.about['counts'][metric]:,}{left}", cells))
    return rows


def cell(one: Result | None, metric: str) -> str:
    """A number with its interval.

    >>> cell(Result({"acc1": 0.75}, {"intervals": {"acc1": [0.7, 0.8]}}), "acc1")
    '0.750 [0.700, 0.800]'
    """
    if one is None or metric not in one:
        return "-"
    ends = one.interval(metric)
    shown = number(one[metric])
    return shown if ends is None else f"{shown} [{number(ends[0])}, {number(ends[1])}]"


def number(value: float) -> str:
    """A share with three digits; a rank with one.

    >>> number(0.12345), number(12.0), number(float("nan"))
    ('0.123', '12.0', 'nan')
    """
    return f"{value:.1f}" if abs(value) > 10 else f"{value:.3f}"


def clip_benchmark(model: str, weights: str | None, one: Result, key: str) -> dict[str, Any]:
    """One result as CLIP_benchmark writes it; what it does not know stands in `metrics` under our names.

    Args:
        model: what was measured.
        weights: of a model of a library.
        one: the result.
        key: what the data set is called.
    """
    about = one.about
    probe = about["evaluator"] == "linear_probe"
    metrics = {f"lp_{name}" if probe else name: value for name, value in _theirs(one).items()}
    return {
        "dataset": key,
        "model": model.removeprefix("open_clip:"),
        "pretrained": weights or "",
        "task": KINDS.get(about["evaluator"], about["evaluator"]),
        "metrics": metrics,
        "language": about["language"],
        "about": about,
    }


def datacomp(one: Result, key: str) -> dict[str, Any]:
    """One result as a line of DataComp's eval_results.jsonl."""
    metrics = _theirs(one)
    return {"key": key, "dataset": one.about["title"], "metrics": {**metrics, "main_metric": one.headline}}


def _theirs(one: Result) -> dict[str, float]:
    """The numbers under the names that CLIP_benchmark and DataComp have for them, or else ours."""
    numbers = {}
    for name in one.about["counts"]:
        theirs = next(
            (f"{new}{name.removeprefix(ours)}" for ours, new in THEIRS.items() if name.startswith(ours)), name
        )
        numbers[theirs] = one[name]
    return numbers


def write_clip_benchmark(folder: Path, said: list[dict[str, Any]]) -> list[Path]:
    """A file a result, as `clip_benchmark build` reads them.

    Args:
        folder: where; made where it is not there.
        said: what `clip_benchmark` gives.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for one in said:
        parts = (one["dataset"], one["pretrained"], one["model"], one["language"], one["task"])
        path = folder / ("_".join(str(part).replace("/", "-") for part in parts) + ".json")
        path.write_text(strict(one) + "\n", encoding="utf-8")
        paths.append(path)
    return paths


def strict(value: Any, indent: int | None = None) -> str:
    """JSON that every reader takes: what is not a number is null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


TEXTS: dict[str, Callable[[Results], str]] = {"json": as_json, "csv": as_csv, "markdown": as_markdown}
"""Formats that are one text."""
