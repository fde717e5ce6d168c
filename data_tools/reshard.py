"""Shards from shards: merged, filtered, shuffled, split into parts, cut to another size."""

import hashlib
import json
import math
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mmcl.data import Tally, find_shards, write_shards
from mmcl.data.order import permutation
from mmcl.data.store import Shard, ShardSet
from mmcl.data.where import Where
from mmcl.errors import MmclError
from mmcl.files import write_json

HELD = 1 << 30  # bytes of samples that a shuffle holds at once


def members(shard: Shard, sample: int, only: str | None = None) -> dict[str, bytes]:
    """Members of one sample, or only that of one extension, if it has it."""
    places = {e: place for e, place in shard.members(sample).items() if only in (None, e)}
    return dict(zip(places, shard.read(list(places.values())), strict=True))


class Samples:
    """All samples of some shards, by their positions in them."""

    def __init__(self, shards: ShardSet, prefix_keys: bool) -> None:
        self.shards, self.starts, self.digest = shards, [0], hashlib.blake2b(digest_size=16)
        whole = [Path(shard.url).resolve().with_suffix("") for shard in shards.listed]
        top = os.path.commonpath([path.parent for path in whole])
        self.prefixes = [f"{path.relative_to(top).as_posix()}/" if prefix_keys else "" for path in whole]
        self.open = lru_cache(maxsize=1)(shards.open)

    def select(self, where: Where | None, seed: int, tally: Tally) -> np.ndarray:
        """(position, hash of the key) of the samples to keep, 16 bytes each; the others are counted by reason."""
        kept = [np.empty((0, 2), np.uint64)]
        for number, prefix in enumerate(self.prefixes):
            shard, rows = self.open(number), []
            for key, reason in shard.index.problems:
                tally.bad(reason, shard=shard.url, key=key)
            for sample, key in enumerate(shard.index.keys):
                if where and (reason := where.reason(members(shard, sample, "json").get("json"))):
                    tally.count(reason)
                else:
                    bits = hashlib.blake2b(f"{seed} {prefix}{key}".encode(), digest_size=8).digest()
                    rows.append((self.starts[-1] + sample, int.from_bytes(bits, "little")))
            kept.append(np.array(rows, np.uint64).reshape(-1, 2))
            self.starts.append(self.starts[-1] + len(shard))
            self.digest.update(shard.index.digest.encode())
        tally.count("samples read", self.starts[-1])
        return np.concatenate(kept)

    def read(self, positions: np.ndarray, at_once: int) -> Iterator[dict[str, Any]]:
        """Samples in the order of positions; so many at once are read in the order in which they lie."""
        for begin in range(0, len(positions), at_once):
            wanted = positions[begin : begin + at_once]
            held: list[dict[str, Any]] = [{}] * len(wanted)
            for slot in np.argsort(wanted):
                number = int(np.searchsorted(self.starts, wanted[slot], side="right")) - 1
                shard, sample = self.open(number), int(wanted[slot]) - self.starts[number]
                held[slot] = {"__key__": self.prefixes[number] + shard.key(sample), **members(shard, sample)}
            yield from held


def split_up(said: list[str], selected: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> positions. Shares divide the range of the keys' hashes; sizes divide the samples, by their hashes."""
    sizes = {name: size for name, _, size in (one.partition("=") for one in said)}
    numbers = [size for size in sizes.values() if size != "rest"]
    counted = all(size.isdecimal() for size in numbers)
    shares = all(size.replace(".", "", 1).isdecimal() and "." in size for size in numbers)
    named = len(sizes) == len(said) and all(name and name not in (".", "..") and "/" not in name for name in sizes)
    total = len(selected) if counted else 1.0
    wrong = not named or not (counted or shares) or "rest" in list(sizes.values())[:-1]
    if wrong or sum(map(float, numbers)) > total * (1 + 1e-9):
        raise MmclError(
            f"split: {' '.join(said)}: each part is NAME=SIZE (test=500) or each NAME=SHARE (test=0.1), with names of "
            f"folders that differ, not more than there is ({len(selected)} samples); the last may be NAME=rest."
        )
    place = np.argsort(np.argsort(selected[:, 1])) if counted else selected[:, 1] / 2.0**64
    parts, begin = {}, 0.0
    for name, size in sizes.items():
        end = math.inf if size == "rest" else begin + float(size)
        end = math.inf if math.isclose(end, total) else end
        parts[name] = selected[(place >= begin) & (place < end), 0]
        if not len(parts[name]):
            raise MmclError(f"split: {name}={size} of {len(selected)} samples is none.")
        begin = end
    return parts


def build(
    out: Path,
    shards: list[str],
    *,
    where: str | None = None,
    split: list[str] | None = None,
    shuffle: bool = False,
    seed: int = 0,
    prefix_keys: bool = False,
    samples_per_shard: int = 1000,
    bytes_per_shard: int | None = None,
) -> None:
    """Make shards of shards: merge, filter, shuffle, split, cut to another size. Bytes of members pass unchanged.

    What is not kept is counted by reason in counts.json, also where an expression cannot be computed (no such field);
    what cannot be read is listed in bad_samples.jsonl.

    Args:
        out: folder to make; with split, one folder a part in it.
        shards: webdataset tars: braces, globs, folders.
        where: keep samples whose JSON member makes this true, as in "width >= 256 and similarity > 0.3".
        split: a part, as in test=500 or test=0.1 or train=rest; a sample's part depends on its key and the seed.
        shuffle: mix all samples with one another; each order is as likely as any other.
        seed: of split and shuffle.
        prefix_keys: put the shard's path before each key, where data sets that use the same keys are merged.
        samples_per_shard: a shard that has so many is full.
        bytes_per_shard: a shard that has reached so many bytes is full.
    """
    options = {k: v for k, v in locals().items() if k not in ("out", "shards")}
    if (out / "manifest.json").exists():
        raise MmclError(f"{out} holds a finished data set; remove it, or write to another folder.")
    samples, condition = Samples(ShardSet(find_shards(shards, "shards")), prefix_keys), Where(where) if where else None
    with Tally(out) as tally:
        selected = samples.select(condition, seed, tally)
        if not len(selected):
            fields = f" Fields are: {', '.join(sorted(condition.fields))}." if condition else ""
            raise MmclError(f"no sample is kept: {json.dumps(dict(tally.counts))}.{fields}")
        parts = split_up(split, selected) if split else {"": selected[:, 0]}
        tally.count("samples in no part", len(selected) - sum(map(len, parts.values())))
        for name, positions in parts.items():
            tally.count(f"samples in {name}" if name else "samples kept", len(positions))
    options |= {"shards": samples.digest.hexdigest()}
    if (out / "options.json").exists() and json.loads((out / "options.json").read_text()) != options:
        raise MmclError(f"{out} was begun with other options or shards; remove it, or write to another folder.")
    write_json(out / "options.json", options)
    mean = sum(samples.shards.path(n).stat().st_size for n in range(len(samples.prefixes))) / samples.starts[-1]
    for name, positions in parts.items():
        order = positions[permutation(len(positions), seed, "reshard", name)] if shuffle else positions
        if not (out / name / "manifest.json").exists():
            at_once = max(1, int(HELD / mean)) if shuffle else 1
            write_shards(samples.read(order, at_once), out / name, samples_per_shard, bytes_per_shard)
    if split:
        counts = {name: len(positions) for name, positions in parts.items()}
        write_json(out / "manifest.json", {"format": 1, "samples": sum(counts.values()), "parts": counts})
