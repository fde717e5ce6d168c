"""mmcl eval."""

from typing import Annotated

from cyclopts import Parameter


def evaluate(
    model: str,
    /,
    *,
    on: Annotated[list[str], Parameter(consume_multiple=True)],
    weights: str | None = None,
    json: bool = False,
) -> None:
    """Measure a model on tasks.

    Args:
        model: a run folder, or a model of a library: open_clip:NAME, transformers:FOLDER, timm:NAME.
        on: tasks, as `mmcl tasks` lists them, or YAML files of your own.
        weights: of a model of a library: a file, a folder, a tag, `pretrained` or `random`.
        json: print one JSON object, task -> metric -> number.
    """
    import json as json_module

    import mmcl

    encoder = mmcl.load(model, weights=weights)
    results = {task: mmcl.evaluate(encoder, task) for task in on}
    if json:
        print(json_module.dumps(results, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("task", "metric", "value")
    for task, metrics in results.items():
        for i, (name, value) in enumerate(metrics.items()):
            table.add_row(task if i == 0 else "", name, f"{value:,.0f}" if name == "n" else f"{value:.4f}")
    Console().print(table)
