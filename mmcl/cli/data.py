"""mmcl data."""

import functools
import inspect
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from mmcl import bundled
from mmcl.errors import MmclError

app = App(name="data", help="List and build data sets; train tokenizers.", help_format="plaintext")


@app.command(name="list")
def list_() -> None:
    """List the data sets that mmcl can build."""
    folder = bundled.shelf("data_tools")
    for name in bundled.names(folder, ".py"):
        print(f"{name:<16}{bundled.first_line(folder / f'{name}.py')}")


@app.command(help_flags=[], usage="Usage: mmcl data build NAME --out DIR [--option value ...]")
def build(
    name: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *options: Annotated[str, Parameter(allow_leading_hyphen=True)],
) -> None:
    """Build a data set as tar shards. A folder that is finished already is left as it is.

    Args:
        name: as `mmcl data list` shows it, or a script of your own with a function build(out, ...).
        options: the arguments of build: --out, the folder to make, and what mmcl data build NAME --help shows.
    """
    if name in ("--help", "-h"):  # every other one belongs to the data set
        app["build"].help_print()
        return
    script = bundled.find("data set", name, bundled.shelf("data_tools"), ".py", "mmcl data list")
    sys.path.insert(0, str(script.parent))  # a script may import its neighbour
    try:
        tool = runpy.run_path(str(script))
        if "build" not in tool:
            raise MmclError(f"{script} has no function build(out).")
        plain = Parameter(negative_iterable=())
        command = App(
            name=f"mmcl data build {name}", help_format="plaintext", version_flags=[], default_parameter=plain
        )
        command.default(_unfinished_only(tool["build"]))
        command(options, exit_on_error=False, print_error=True, result_action="return_value")
    except ModuleNotFoundError as error:
        raise MmclError(
            f"{name} needs the package {error.name}: pip install {error.name}, or 'mmcl[demo,tools]'."
        ) from None


def _unfinished_only(build: Callable[..., Any]) -> Callable[..., None]:
    """The function of a data tool as a command: ``--out`` is a folder, and one that is finished is left as it is."""

    @functools.wraps(build)
    def command(*arguments: Any, out: Path, **options: Any) -> None:
        if (out / "manifest.json").exists():
            print(f"{out} is finished already; remove it to build it again.", file=sys.stderr)
            return
        build(out, *arguments, **options)
        for key, value in _read(out / "counts.json").items():
            print(f"{value:>12,}  {key}", file=sys.stderr)
        if samples := _read(out / "manifest.json").get("samples"):
            print(f"{samples:>12,}  samples in {out}", file=sys.stderr)

    signature = inspect.signature(build)
    others = [parameter for name, parameter in signature.parameters.items() if name != "out"]
    folder = inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, annotation=Path)
    command.__signature__ = signature.replace(parameters=[*others, folder])  # pyright: ignore[reportAttributeAccessIssue]
    command.__annotations__ = {**build.__annotations__, "out": Path}
    return command


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


@app.command
def train_tokenizer(shards: str, /, *, out: Path, text: str = "txt", vocab_size: int = 8000) -> None:
    """Train a sentencepiece model on the captions of shards.

    Args:
        shards: files: braces, globs, folders.
        out: the .model file to write.
        text: where captions lie: a member (txt) or a field of a JSON member (json:caption).
        vocab_size: pieces, the 256 bytes and 4 special ones included.
    """
    from mmcl.data import stream
    from mmcl.towers import train_sentencepiece

    batches = stream(shards, {"text": text}, batch_size=1000, shuffle=False, captions="all")
    captions = (caption for batch in batches for several in batch["text"] for caption in several or [])
    print(train_sentencepiece(captions, out, vocab_size))
