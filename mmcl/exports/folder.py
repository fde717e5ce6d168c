"""The folder of an export: whole or not there, with a manifest and a card."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mmcl.embed import weights_digest
from mmcl.errors import MmclError, did_you_mean
from mmcl.exports import onnx, open_clip, safetensors, sentence_transformers, transformers
from mmcl.exports.base import Format, Source
from mmcl.exports.card import write_card
from mmcl.files import replacing_folder, sha256_of, write_json
from mmcl.model import Encoder, MultiTower
from mmcl.runs import computing

FORMAT = 1
MANIFEST = "manifest.json"
FORMATS: dict[str, Format] = {
    "open_clip": Format("open_clip", open_clip.write, open_clip.opened),
    "transformers": Format("transformers", transformers.write, transformers.opened),
    "safetensors": Format("mmcl itself", safetensors.write, safetensors.opened, towers="any towers"),
    "sentence_transformers": Format(
        "sentence-transformers, without mmcl where its own modules can hold the towers",
        sentence_transformers.write,
        sentence_transformers.opened,
        towers="texts, pictures, sounds",
    ),
    "onnx": Format("runtimes without torch, a graph a tower", onnx.write, onnx.opened, towers="what torch can trace"),
}


def export(run: str | Path, format: str, out: str | Path) -> dict[str, Any]:
    """Hand a run on as a folder that other libraries open, with a model card.

    Args:
        run: a run folder.
        format: ``open_clip``, ``transformers``, ``sentence_transformers``, ``safetensors`` (mmcl) or ``onnx``.
        out: folder to make; an export that lies there already is replaced.

    Returns:
        The manifest, which is also ``out/manifest.json``: format, digest of the weights, modalities, files.

    Raises:
        MmclError: this is no run, the format cannot express its towers, or the folder holds something else.
    """
    out = Path(out)
    if format not in FORMATS:
        raise MmclError(f"no format is called {format!r}{did_you_mean(format, FORMATS)} Known: {', '.join(FORMATS)}.")
    _check_free(out)
    source = Source(run)
    with replacing_folder(out) as folder:
        try:
            written = FORMATS[format].write(source, folder)
        except MmclError as error:
            others = ", ".join(
                f"{name} ({one.towers})" for name, one in FORMATS.items() if one.towers and name != format
            )
            raise MmclError(f"{run} cannot be exported as {format}: {error} Other formats: {others}.") from None
        shutil.copyfile(source.run.path / "recipe.yaml", folder / "recipe.yaml")
        if (source.run.path / "assets").is_dir():
            shutil.copytree(source.run.path / "assets", folder / "assets", dirs_exist_ok=True)
        write_card(source, format, written, folder)
        model = source.encoder.model
        towers = MultiTower({m: model.tower(m) for m in written.modalities}, model.dim)
        manifest = {
            "format": FORMAT,
            "kind": format,
            "model": weights_digest(Encoder(towers)),
            "modalities": list(written.modalities),
            "takes": {m: source.encoder.takes(m) for m in written.modalities},
            "dim": model.dim,
            "run": source.run.path.resolve().name,
            "mmcl": version("mmcl"),
            "files": {name: sha256_of(folder / name) for name in _files(folder)},
        }
        write_json(folder / MANIFEST, manifest)
    return manifest


def is_export(path: str | Path) -> bool:
    """Whether a folder is an export of mmcl's."""
    return _manifest(Path(path)) is not None


def open_export(path: str | Path, device: str | torch.device | None = None) -> Encoder:
    """The encoder of an export of any format.

    Args:
        path: the folder.
        device: where to compute; a GPU if there is one, unless told.

    Raises:
        MmclError: this is no export, it is of a later version of mmcl, or its files are not those that were written.
    """
    folder = Path(path)
    manifest = _manifest(folder)
    if manifest is None:
        raise MmclError(f"{path} is no export: mmcl export RUN --format FORMAT --out DIR makes one.")
    if manifest["format"] > FORMAT or manifest["kind"] not in FORMATS:
        raise MmclError(f"{path} was exported by mmcl {manifest['mmcl']}, as what this one does not know; update mmcl.")
    for name, expected in manifest["files"].items():
        if not (folder / name).is_file() or sha256_of(folder / name) != expected:
            raise MmclError(f"{path}: {name} is not what was exported; export the run once more.")
    encoder = FORMATS[manifest["kind"]].opened(folder, manifest)
    return Encoder(encoder.model, computing(device))


def save_again(folder: Path, out: Path, encoder: Encoder) -> None:
    """The same towers with other weights, as an export into a folder that is there.

    Args:
        folder: the export that the encoder came from, whose weights are safetensors of mmcl's.
        out: where to put the recipe, the files that it names, weights and a manifest; it may be the same folder.
        encoder: the towers as they are now.

    Raises:
        MmclError: the folder is no export any more.
    """
    manifest = _manifest(folder)
    if manifest is None:
        raise MmclError(f"{folder} is no export any more, so that its recipe cannot be copied.")
    for name in manifest["files"]:
        copied = name == "recipe.yaml" or name.startswith("assets/")
        if copied and folder.resolve() != out.resolve():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, out / name)
    safetensors.save(encoder.model, out)
    files = [n for n in _files(out) if n in ("recipe.yaml", safetensors.WEIGHTS) or n.startswith("assets/")]
    sums = {name: sha256_of(out / name) for name in files}
    write_json(out / MANIFEST, manifest | {"model": weights_digest(encoder), "files": sums})


def _check_free(out: Path) -> None:
    """Refuse to replace anything but an export as it was written.

    Raises:
        MmclError: the folder holds something else.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise MmclError(f"out: {out} is a file; name a folder.")
    manifest = _manifest(out)
    own = {} if manifest is None else manifest["files"]
    other = [name for name in _files(out) if name not in {*own, *([] if manifest is None else [MANIFEST])}]
    if other:
        raise MmclError(f"out: {out} holds {other[0]}, which is of no export; choose another folder.")
    for name, digest in own.items():
        if (out / name).is_file() and sha256_of(out / name) != digest:
            raise MmclError(f"out: {out} holds {name}, which is not as it was exported; choose another folder.")


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    keys = {"format", "kind", "modalities", "files", "mmcl"}
    return found if isinstance(found, dict) and keys <= found.keys() else None


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
