"""Descriptions of folders of shards: an index beside every shard, and a manifest of all of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcl.data.every_shard import every_shard
from mmcl.data.index import load_index
from mmcl.data.remote import is_remote
from mmcl.data.shards import MANIFEST, find_shards, is_pipe
from mmcl.data.write import FORMAT
from mmcl.errors import MmclError
from mmcl.files import sha256_of, write_json


def describe(shards: Sequence[str], sha256: bool = False, processes: int | None = None) -> dict[Path, str]:
    """Index shards, and write a manifest into every folder that has none.

    A manifest says how many samples each shard has, and a digest of its index: so remote shards have a known epoch,
    and a run notices shards that were changed.

    Args:
        shards: files: braces, globs, folders.
        sha256: put checksums of the whole files into the manifest; downloads are then held to them.
        processes: one a core unless told.

    Returns:
        Folder -> what was done there.

    Raises:
        MmclError: a shard is remote or a pipe, cannot be read, or is not what the manifest of its folder says.
    """
    listed = find_shards(list(shards))
    for shard in listed:
        if is_remote(shard.url) or is_pipe(shard.url):
            raise MmclError(f"{shard.shown}: only shards on this machine can be described; do it where they lie.")
    described: dict[Path, list[dict[str, Any]]] = {}
    jobs = [(shard.url, sha256) for shard in listed]
    for (url, _), said in every_shard(_describe_one, jobs, "indexing", processes):
        if said is None or isinstance(said, str):
            raise MmclError(said or f"{url}: reading it kills the process that reads it.")
        described.setdefault(Path(url).parent, []).append(said)
    below: dict[Path, list[str]] = {folder: [] for folder in described}  # the manifest names them for remote readers
    for folder in sorted(described):
        above = next((parent for parent in folder.parents if parent in described), None)
        if above is not None:
            below[above].append(folder.relative_to(above).as_posix())
    return {
        folder: _write(folder, sorted(said, key=lambda s: s["name"]), below[folder])
        for folder, said in described.items()
    }


def _describe_one(job: tuple[str, bool]) -> "dict[str, Any] | str":
    url, sha256 = job
    path = Path(url)
    try:
        index = load_index(path, afresh=True)
    except (MmclError, OSError) as error:
        return str(error) if isinstance(error, MmclError) else f"{path} cannot be read: {error.strerror}"
    said = {"name": path.name, "samples": len(index), "bytes": path.stat().st_size, "digest": index.digest}
    if sha256:
        said["sha256"] = sha256_of(path)
    return said


def _write(folder: Path, shards: list[dict[str, Any]], folders: list[str]) -> str:
    """Write the manifest, or hold the shards to the one that is there."""
    path = folder / MANIFEST
    if not path.exists():
        every = {found.name for found in folder.glob("*.tar")}
        if every != {shard["name"] for shard in shards}:
            return "indexed; no manifest, since the folder holds other shards as well"
        manifest = {"format": FORMAT, "samples": sum(s["samples"] for s in shards), "shards": shards}
        try:
            write_json(path, manifest | ({"folders": folders} if folders else {}))
        except OSError as error:
            return f"indexed; no manifest, since it cannot be written there ({error.strerror})"
        return f"indexed and described in {MANIFEST}"
    try:
        there = {shard["name"]: shard for shard in json.loads(path.read_text(encoding="utf-8"))["shards"]}
    except (ValueError, LookupError, TypeError):
        return f"indexed; {MANIFEST} is not one of ours and was left as it is"
    for shard in shards:
        said = there.get(shard["name"], {})
        wrong = [
            key for key in ("samples", "digest", "sha256") if key in said and shard.get(key, said[key]) != said[key]
        ]
        if wrong or not said:
            how = f"{', '.join(wrong)} differ" if wrong else "it is not named there"
            raise MmclError(
                f"{folder / shard['name']} is not what {path} says: {how}. Restore the shard, or remove the manifest "
                "and describe the folder again."
            )
    return f"indexed; as {MANIFEST} says"
