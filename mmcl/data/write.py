"""Samples to shards: plain webdataset tars of equal content for equal samples, with indexes and a manifest."""

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from webdataset.writer import TarWriter

from mmcl.data.index import scan, write_index
from mmcl.errors import MmclError

UNFINISHED = ".unfinished"
PICKLED = {"pyd", "pickle", "pkl", "pth", "npz"}


def write_shards(samples: Iterable[dict[str, Any]], out: str | Path, samples_per_shard: int = 1000) -> dict[str, Any]:
    """Write samples as ``out/00000.tar`` and so on.

    Each shard is written under a temporary name and renamed when it is whole; the manifest comes last. A finished
    folder is never written again.

    Args:
        samples: in webdataset's form: ``__key__``, and an extension -> bytes (or text, or what JSON can hold) for
            each member.
        out: a folder that holds no finished data set yet.
        samples_per_shard: the last shard may hold fewer.

    Returns:
        The manifest, which is also ``out/manifest.json``: number of samples; name, samples and sha256 of each shard.

    Raises:
        MmclError: the folder is finished already, or a member would have to be pickled.
    """
    out = Path(out)
    claim(out, ["[0-9][0-9][0-9][0-9][0-9].tar*"], "data set")
    shards = []
    for number, chunk in enumerate(_chunks(samples, samples_per_shard)):
        shard = out / f"{number:05d}.tar"
        count = _write_one(chunk, shard)
        write_index(shard, scan(shard))
        shards.append({"name": shard.name, "samples": count, "sha256": hashlib.sha256(shard.read_bytes()).hexdigest()})
    manifest = {"samples": sum(s["samples"] for s in shards), "shards": shards}
    partial = out / "manifest.json.partial"
    partial.write_text(json.dumps(manifest, indent=1) + "\n")
    os.replace(partial, out / "manifest.json")
    (out / UNFINISHED).unlink()
    return manifest


def claim(out: Path, patterns: Sequence[str], what: str) -> None:
    """Make a folder ours to write in, and clear what an interrupted writing of ours left there.

    A marker tells our own leavings from files of the same names that somebody else put there; whoever writes the
    manifest removes it.

    Args:
        out: the folder.
        patterns: of the files that will be written.
        what: will be written, for the message.

    Raises:
        MmclError: the folder is finished, or such files are there that are not ours.
    """
    if (out / "manifest.json").exists():
        raise MmclError(f"{out} holds a finished {what}; remove it, or write to another folder.")
    left = [path for pattern in patterns for path in sorted(out.glob(pattern))]
    if left and not (out / UNFINISHED).exists():
        raise MmclError(f"{out} holds {left[0].relative_to(out)}, which would be overwritten; write to another folder.")
    out.mkdir(parents=True, exist_ok=True)
    (out / UNFINISHED).touch()
    for path in left:
        path.unlink()


def _write_one(samples: Iterable[dict[str, Any]], shard: Path) -> int:
    partial = shard.with_name(f"{shard.name}.partial")
    count = 0
    with open(partial, "wb") as file:
        with TarWriter(file, mtime=0) as tar:  # the current time would give every copy another checksum
            for sample in samples:
                for extension in sample:
                    if extension.rpartition(".")[2].lower() in PICKLED:
                        raise MmclError(
                            f"{sample['__key__']}: a .{extension} member is pickled; write json, npy or bytes."
                        )
                tar.write(sample)
                count += 1
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, shard)
    return count


def _chunks(samples: Iterable[dict[str, Any]], size: int) -> Iterator[Iterator[dict[str, Any]]]:
    rest = iter(samples)
    for first in rest:
        chunk = itertools.chain([first], itertools.islice(rest, size - 1))
        yield chunk
        for _ in chunk:  # whoever stops early must not shift the next shard
            pass
