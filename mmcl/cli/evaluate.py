"""mmcl eval."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def evaluate(
    run: Path,
    /,
    *,
    on: Annotated[list[str], Parameter(consume_multiple=True)],
    json: bool = False,
) -> None:
    """Measure a run on tasks.

    Args:
        run: a run folder.
        on: tasks, as `mmcl tasks` lists them, or YAML files of your own.
        json: print one JSON object, task -> metric -> number.
    """
    import json as json_module

    import mmcl

    encoder = mmcl.load(run)
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
