"""mmcl export."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def export(run: Path, /, *, kind: Annotated[str, Parameter(name="--format")], out: Path) -> None:
    """Hand a run on as a folder that other libraries open, with a model card.

    Args:
        run: a run folder.
        kind: open_clip, transformers, sentence_transformers, safetensors (mmcl itself) or onnx.
        out: folder to make; an export that lies there already is replaced.
    """
    import sys

    import mmcl

    manifest = mmcl.export(run, kind, out)
    held = ", ".join(manifest["modalities"])
    print(f"{kind}: {held}, {manifest['dim']} numbers each, {len(manifest['files']) + 1} files: {out}", file=sys.stderr)
