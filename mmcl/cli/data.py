"""mmcl data."""

import runpy
import sys
from pathlib import Path

from cyclopts import App

from mmcl import bundled
from mmcl.errors import MmclError

app = App(name="data", help="List and build data sets; train tokenizers.", help_format="plaintext")


@app.command(name="list")
def list_() -> None:
    """List the data sets that mmcl can build."""
    folder = bundled.shelf("data_tools")
    for name in bundled.names(folder, ".py"):
        print(f"{name:<16}{bundled.first_line(folder / f'{name}.py')}")


@app.command
def build(name: str, /, *, out: Path) -> None:
    """Build a data set as tar shards. A folder that is finished already is left as it is.

    Args:
        name: as `mmcl data list` shows it, or a script of your own with a function build(out).
        out: folder to make.
    """
    script = bundled.find("data set", name, bundled.shelf("data_tools"), ".py", "mmcl data list")
    if (out / "manifest.json").exists():
        print(f"{out} is finished already; remove it to build it again.", file=sys.stderr)
        return
    sys.path.insert(0, str(script.parent))  # a script may import its neighbour
    try:
        tool = runpy.run_path(str(script))
    except ModuleNotFoundError as error:
        raise MmclError(f"{name} needs the package {error.name}: pip install {error.name}, or 'mmcl[demo]'.") from None
    if "build" not in tool:
        raise MmclError(f"{script} has no function build(out).")
    tool["build"](out)


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

    batches = stream(shards, {"text": text}, batch_size=1000, shuffle=False)
    captions = (caption for batch in batches for caption in batch["text"] if caption is not None)
    print(train_sentencepiece(captions, out, vocab_size))
