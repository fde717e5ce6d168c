"""mmcl eval."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from mmcl.compare import Measurement
    from mmcl.tasks.formats import Results

WIDE = 160  # columns, where nobody says how wide a line may be
Format = Literal["table", "markdown", "csv", "json", "clip_benchmark", "datacomp"]


def evaluate(  # noqa: PLR0913 - each is a choice of the user's
    *models: str,
    on: Annotated[list[str], Parameter(consume_multiple=True)],
    weights: str | None = None,
    embeddings: Path | None = None,
    data: str | None = None,
    json: bool = False,
    format: Format = "table",
    out: Path | None = None,
    page: Path | None = None,
    cache: bool = True,
    intervals: bool = True,
    skip_missing: bool = False,
) -> None:
    """Measure models on tasks.

    Args:
        models: run folders, or models of a library: open_clip:NAME, transformers:FOLDER, timm:NAME.
        on: tasks and suites, as `mmcl tasks` lists them, or YAML files of your own.
        weights: of a model of a library: a file, a folder, a tag, `pretrained` or `random`.
        embeddings: a folder that `mmcl embed` or clip-retrieval wrote: vectors are taken from it; a model is then only
            needed for prompts.
        data: the folder that the shards of tasks lie in, in place of ./data.
        json: the same as --format json.
        format: table, markdown and csv compare the models; json holds everything; clip_benchmark and datacomp are what
            those two write.
        out: file to write; of clip_benchmark a folder. On the terminal unless told.
        page: an HTML page to write, with confusion matrices, examples and maps.
        cache: keep vectors in the user's cache (MMCL_CACHE), and take them from it.
        intervals: 95 % bootstrap intervals.
        skip_missing: leave out tasks whose data are not there, and say which.
    """
    import sys

    from mmcl import distributed
    from mmcl.compare import Measurement, compare, load_tasks
    from mmcl.tasks import VectorStore

    def say(told: str) -> None:
        if distributed.rank() == 0:
            print(told, file=sys.stderr)

    _look(models, embeddings, "json" if json else format, (out, page))
    tasks = load_tasks(on, data, skip_missing, say)
    store = VectorStore() if cache else None
    found: list[Measurement] = []
    try:
        for one in compare(
            models, tasks, weights=weights, embeddings=embeddings, store=store, intervals=intervals, say=say
        ):
            found.append(one)
    finally:  # what was measured before a model failed is written
        if found and distributed.rank() == 0:
            _write(found, "json" if json else format, out, weights)
            if page is not None:
                from mmcl.eval_page import write_page

                write_page(page, found)
                say(f"page: {page}")


def _look(models: Sequence[str], embeddings: Path | None, format: Format, files: Sequence[Path | None]) -> None:
    """See that what was asked for makes sense, before hours of work.

    Raises:
        MmclError: it does not.
    """
    from mmcl.errors import MmclError
    from mmcl.opening import form_of

    if not models and embeddings is None:
        raise MmclError("say what to measure: a run folder, a model of a library, or --embeddings DIR.")
    for model in models:
        form_of(model)
    if format == "datacomp" and len(models) > 1:
        raise MmclError("--format datacomp: DataComp's file is of one model; measure one at a time.")
    for path in files:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)


def _write(found: Sequence["Measurement"], format: Format, out: Path | None, weights: str | None) -> None:
    from mmcl.tasks import formats

    results: dict[str, dict[str, formats.Result]] = {}
    for one in found:
        results.setdefault(one.model, {})[one.task.name] = one.result
    if format == "clip_benchmark":
        said = [formats.clip_benchmark(one.model, weights, one.result, one.task.key) for one in found]
        if out is not None:
            formats.write_clip_benchmark(out, said)
            return
        text = "".join(f"{formats.strict(one)}\n" for one in said)
    elif format == "datacomp":
        text = "".join(f"{formats.strict(formats.datacomp(one.result, one.task.key))}\n" for one in found)
    elif format == "table":
        _table(results, out)
        return
    else:
        text = formats.TEXTS[format](results)
    if out is None:
        print(text, end="" if text.endswith("\n") else "\n")
    else:
        out.write_text(text, encoding="utf-8")


def _table(results: "Results", out: Path | None) -> None:
    import os

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from mmcl.tasks import formats

    shown = Table()
    for name in ("task", "metric", "n", *results):
        shown.add_column(escape(name), no_wrap=name not in ("task", *results))
    before = None
    for task, metric, count, cells in formats.table(results):
        shown.add_row(task if task != before else "", metric, count, *map(escape, cells))
        before = task
    file = None if out is None else out.open("w", encoding="utf-8")
    console = Console(file=file)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDE
    console.print(shown)
    if file is not None:
        file.close()
