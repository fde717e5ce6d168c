"""An HTML page of what was measured: models side by side, confusions, examples, maps. One file, no scripts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcl.compare import Measurement
from mmcl.errors import MmclError
from mmcl.eval_page.embedding_map import embedding_map
from mmcl.eval_page.examples import groups
from mmcl.eval_page.heat import heat
from mmcl.eval_page.tables import Row, row
from mmcl.evaluators.base import Labelled
from mmcl.files import replacing
from mmcl.plots import COLORS
from mmcl.report import template
from mmcl.tasks import Result
from mmcl.tasks.formats import strict


def write_page(path: Path, found: Sequence[Measurement]) -> Path:
    """Write a page of one model or several on one task or several.

    Args:
        path: of the page.
        found: what was measured.

    Raises:
        MmclError: a folder lies there.
    """
    if path.is_dir():
        raise MmclError(f"page {path} is a folder; say a file in it, such as {path / 'page.html'}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    models = list(dict.fromkeys(one.model for one in found))
    by_task: dict[str, dict[str, Measurement]] = {}
    for one in found:
        by_task.setdefault(one.task.name, {})[one.model] = one
    page = template("eval_page/page.html.jinja").render(
        title=f"Evaluation of {models[0]}" if len(models) == 1 else "Evaluation",
        models=[
            {"name": model, "color": COLORS[i % len(COLORS)], "about": _about_model(model, found)}
            for i, model in enumerate(models)
        ],
        packages=_packages(found),
        intervals=any("intervals" in one.result.about for one in found),
        tasks=[_task(number, models, measured) for number, measured in enumerate(by_task.values(), 1)],
    )
    with replacing(path) as file:
        file.write(page.encode())
    return path


def _about_model(model: str, found: Sequence[Measurement]) -> str:
    """In which precision its towers compute, and where vectors lay that it did not make."""
    about = next(one.result.about for one in found if one.model == model)
    said = [f"towers {about['precision']['towers']}, scores {about['precision']['scores']}"]
    if "embeddings" in about:
        ready = about["embeddings"]
        said.append(f"vectors from {ready['folder']}" + (f" (made by {ready['model']})" if ready["model"] else ""))
    return "; ".join(said)


def _packages(found: Sequence[Measurement]) -> str:
    named = dict.fromkeys(f"{name} {v}" for one in found for name, v in one.result.about["packages"].items())
    return ", ".join(named)


def _task(number: int, models: Sequence[str], measured: Mapping[str, Measurement]) -> dict[str, Any]:
    """All of one task."""
    first = next(iter(measured.values()))
    results = [measured[model].result if model in measured else None for model in models]
    about = first.result.about
    shown = [_model(models.index(model), one) for model, one in measured.items()]
    kinds = [one["map"].kinds for one in shown if one["map"].svg]
    alike = all(one["said"] == shown[0]["said"] for one in shown)
    return {
        "id": f"task-{number}",
        "name": first.task.name,
        "title": about["title"],
        "headline": _row(first, results, first.task.headline),
        "about": [
            f"evaluator {about['evaluator']}",
            f"version {about['version']} of the task",
            f"score {about['score']}",
            f"headline {first.task.headline}",
            *(shown[0]["said"] if alike else []),
        ],
        "rows": [_row(first, results, metric) for metric in _metrics(results)],
        "models": [one | {"said": []} for one in shown] if alike else shown,
        "legend": kinds[0] if kinds and all(one == kinds[0] for one in kinds) else [],
    }


def _metrics(results: Sequence[Result | None]) -> list[str]:
    """Names of all that any of the models was measured by; those of no group first."""
    names = dict.fromkeys(name for one in results if one is not None for name in one.about["counts"])
    return sorted(names, key=lambda name: "/" in name)


def _row(first: Measurement, results: Sequence[Result | None], metric: str) -> Row:
    return row(results, metric, first.task.evaluator.metrics().get(metric))


def _model(number: int, one: Measurement) -> dict[str, Any]:
    """What one model did on one task."""
    result, measured = one.result, one.measured
    evaluator = one.task.evaluator
    label = evaluator.label if isinstance(evaluator, Labelled) else None
    details = result.about["details"]
    short = {key: value for key, value in details.items() if not isinstance(value, Mapping | list)}
    rest = json.loads(strict({key: value for key, value in details.items() if key not in short}))
    return {
        "number": number,
        "skipped": result.about.get("skipped", {"samples": 0, "bad": []}),
        "heat": None if measured.confusion is None else heat(measured.confusion, int(result["n"])),
        "n": int(result["n"]),
        "groups": groups(measured.examples),
        "map": embedding_map(measured.data, label, f"{one.model} {one.task.name}"),
        "said": [f"{key.replace('_', ' ')} {value}" for key, value in short.items()],
        "details": json.dumps(rest, indent=1, ensure_ascii=False) if rest else "",
    }
