"""ONNX: one graph a tower, from the rows that its transform makes to unit vectors, for runtimes without torch."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmcl.errors import MmclError
from mmcl.exports.base import Source, Written, plain
from mmcl.exports.examples import TOLERANCE, examples
from mmcl.files import sha256_of
from mmcl.model import Encoder, MultiTower
from mmcl.runs import Run
from mmcl.towers import Backbone, Tower
from mmcl.towers.lora import merged
from mmcl.towers.preparation import preparation
from mmcl.types import Transform

OUTPUT = "vectors"
DESCRIPTION = "graphs.json"
INSTALL = "pip install 'mmcl[onnx]'"
LENGTHS = {"text": "tokens", "audio": "frames"}
"""What the length of a row is called, where rows vary."""


class UnitVectors(nn.Module):
    """A tower whose vectors have length one: what a graph computes."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, rows: Tensor) -> Tensor:
        """Unit vectors of rows."""
        return F.normalize(self.tower(rows).float(), dim=-1)


def write(source: Source, folder: Path) -> Written:
    """Any towers that torch can trace."""
    for name in ("onnx", "onnxscript"):
        try:
            import_module(name)
        except ImportError:
            raise MmclError(f"{name} is not installed: {INSTALL}") from None
    graphs, notes = {}, []
    for m in source.modalities:
        transform = source.encoder.transforms[m]
        short, long = examples(source.tower(m).takes, transform)
        lengths = [axis for axis in range(1, long.ndim) if short.shape[axis] != long.shape[axis]]
        named = {0: "batch"} | {axis: LENGTHS.get(source.tower(m).takes, f"length{axis}") for axis in lengths}
        model = UnitVectors(merged(source.tower(m))).eval()
        _write_graph(model, m, long, named, folder / f"{m}.onnx")
        graphs[m] = {
            "file": f"{m}.onnx",
            "takes": source.tower(m).takes,
            "input": {
                "name": m,
                "dtype": str(long.dtype).removeprefix("torch."),
                "shape": [named.get(axis, size) for axis, size in enumerate(long.shape)],
            },
            "output": {"name": OUTPUT, "shape": ["batch", source.encoder.dim]},
            "rows": preparation(transform, source.tower(m).backbone),
        }
        notes.append(f"`{m}.onnx`: {_checked(model, m, [long, short], folder / f'{m}.onnx')}")
    (folder / DESCRIPTION).write_text(json.dumps(graphs, indent=1) + "\n")
    return Written(source.modalities, notes)


def opened(folder: Path, manifest: dict[str, Any]) -> Encoder:
    """The graphs themselves as towers, run by onnxruntime, with the recipe's transforms."""
    recipe, towers = Run(folder).recipe(), {}
    for m in manifest["modalities"]:
        with torch.device("meta"):
            tower = plain(recipe, m)
        towers[m] = Tower(Graph(folder / f"{m}.onnx", m, tower, recipe.dim))
    return Encoder(MultiTower(towers, recipe.dim).eval(), torch.device("cpu"))


class Graph(Backbone):
    """A tower's graph, run by onnxruntime.

    Args:
        path: of the graph.
        modality: name of its input.
        tower: whose transform makes its rows.
        dim: width of its vectors.

    Raises:
        MmclError: onnxruntime is not installed.
    """

    takes = "rows"
    entire = True

    def __init__(self, path: Path, modality: str, tower: Tower, dim: int) -> None:
        super().__init__()
        self.takes = tower.takes  # pyright: ignore[reportAttributeAccessIssue]
        self.width, self.modality, self.tower_transform = dim, modality, tower.transform
        self.session = _session(path)
        digest = bytes.fromhex(sha256_of(path))
        self.register_buffer("digest", torch.tensor(list(digest), dtype=torch.uint8))  # so that its weights are known

    def transform(self, train: bool) -> Transform:
        """The tower's own."""
        return self.tower_transform(train)

    def forward(self, rows: Tensor) -> Float[Tensor, "batch dim"]:
        """Unit vectors."""
        return torch.from_numpy(_run(self.session, self.modality, rows)).to(rows.device)


def _write_graph(model: nn.Module, name: str, rows: Tensor, axes: dict[int, str], path: Path) -> None:
    try:
        program = torch.onnx.export(
            model,
            (rows,),
            dynamo=True,
            dynamic_shapes={"rows": axes},
            input_names=[name],
            output_names=[OUTPUT],
            verbose=False,
        )
    except Exception as error:  # torch.onnx wraps whatever a tower's code raises
        reason = " ".join(str(error.__cause__ or error).strip().splitlines()[:2])
        raise MmclError(f"{name}: torch cannot trace this tower: {reason}") from error
    assert program is not None
    program.save(path)  # weights stand beside it only where they have more than 2 GB


def _checked(model: nn.Module, name: str, batches: list[Tensor], path: Path) -> str:
    """What a comparison of the graph with the tower says, for the card.

    Raises:
        MmclError: the graph's vectors are others, or it refuses batches of other sizes.
    """
    try:
        session = _session(path)
    except MmclError:
        return f"not compared with the tower, since onnxruntime is not installed ({INSTALL})"
    largest = 0.0
    for rows in (batches[0], batches[0][:1], batches[0].repeat(3, *[1] * (batches[0].ndim - 1)), *batches[1:]):
        with torch.no_grad():
            expected = model(rows).numpy()
        try:
            found = _run(session, name, rows)
        except Exception as error:  # onnxruntime's own kinds, which have no base of their own
            reason = str(error).strip().splitlines()[-1]
            raise MmclError(f"{name}: the graph refuses rows of {tuple(rows.shape)}: {reason}") from None
        largest = max(largest, float(np.abs(found - expected).max()))
    if not largest <= TOLERANCE:
        raise MmclError(f"{name}: vectors of the graph differ by {largest:.1e} from the tower's.")
    return f"vectors differ by at most {largest:.0e} from the tower's (onnxruntime, batches of 1, 2 and 6)"


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MmclError(f"onnxruntime is not installed: {INSTALL}") from None
    return onnxruntime.InferenceSession(str(path), providers=onnxruntime.get_available_providers())


def _run(session: Any, name: str, rows: Tensor) -> np.ndarray:
    return session.run([OUTPUT], {name: rows.cpu().contiguous().numpy()})[0]
