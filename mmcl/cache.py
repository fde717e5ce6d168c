"""Vectors of a frozen tower beside the samples that they are of, so that training reads them instead of making them."""

import io
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmcl.data import Source, Stream
from mmcl.data.encode import encode
from mmcl.data.index import scan, write_index
from mmcl.data.shards import MANIFEST, find_shards, indexed
from mmcl.data.source import Selector
from mmcl.data.store import Shard, ShardSet
from mmcl.data.write import FORMAT, PARTIAL, SHARDS, HashedTar, claimed
from mmcl.embed import weights_digest
from mmcl.errors import MmclError
from mmcl.files import replacing, write_json
from mmcl.model import Encoder, evaluating
from mmcl.towers.preparation import preparation

DONE = ".done"  # a description a shard, until all are there
DTYPES = {"fp16": np.float16, "fp32": np.float32}
Dtype = Literal["fp16", "fp32"]
Of = Literal["backbone", "tower"]


@dataclass(frozen=True)
class Member:
    """What is to be added to each sample."""

    name: str
    """Extension of the new member, as in ``text.npy``."""
    modality: str
    """Whose tower embeds."""
    of: Of = "backbone"
    """Vectors of the backbone, to be read by a tower with a head that learns; or of the whole tower, head included.
    Neither is normalised."""
    dtype: Dtype = "fp32"
    """Of the vectors."""
    tower: Mapping[str, Any] | None = None
    """What a recipe says of the tower, or which model of a library it is of, for the manifest."""


class Row(NamedTuple):
    """What became of one sample."""

    key: str
    vector: np.ndarray | None
    reason: str | None


def add_embeddings(
    encoder: Encoder, source: Source, out: str | Path, member: Member, *, batch_size: int = 256, workers: int = 2
) -> dict[str, Any]:
    """Write shards again, sample by sample, with one more member: the vector that a tower makes of it.

    Samples are prepared as in evaluation, so nothing is drawn; of several texts of a sample it is the first. A sample
    whose modality cannot be used is kept without the member and listed. A call that was interrupted goes on after the
    last whole shard when it is made again.

    Args:
        encoder: what embeds.
        source: shards, and where the modality lies in their samples.
        out: folder to make.
        member: what is added.
        batch_size: rows that are embedded at once.
        workers: threads that read and decode.

    Returns:
        The manifest of the folder, which is also ``out/manifest.json``. Its ``embeddings`` say what made the vectors.

    Raises:
        MmclError: the folder is taken or was begun with something else, the samples have such a member, or none of them
            has the modality.
    """
    out, modality = Path(out), member.modality
    tower = encoder.model.tower(modality)
    if not member.name.endswith(".npy") or member.name.lower() != member.name or "/" in member.name:
        raise MmclError(f"a new member is called as in text.npy; got {member.name!r}.")
    if member.of == "backbone" and tower.backbone.entire:
        raise MmclError(f"of: the head is inside {modality}'s graph; take its vectors with the head: --of tower.")
    if modality not in source.modalities:
        raise MmclError(f"nothing says where {modality} lies in the samples; known: {', '.join(source.modalities)}.")
    only = {"modalities": {modality: source.modalities[modality]}, "optional": [], "extras": {}, "captions": "first"}
    source = source.model_copy(update=only)
    shards = ShardSet(indexed(find_shards(source.shards, "shards")))
    made_by = {
        **asdict(member),
        "lies": source.modalities[modality],
        "width": encoder.dim if member.of == "tower" else tower.backbone.width,
        "weights": weights_digest(encoder),
        "transform": _described(encoder, modality),
    }
    with claimed(out, [SHARDS, *PARTIAL], "data set") as left:
        done = _begin(out, left, made_by)
        entries = _done(done, shards)
        for number in range(len(entries), len(shards.listed)):
            one, shard = source.model_copy(update={"shards": [shards.listed[number].url]}), shards.open(number)
            rows = _rows(encoder, one, shard, member, batch_size, workers)
            entry = _write(out / f"{number:05d}.tar", shard, rows, member.name)
            write_json(done / f"{number:05d}.json", entry)
            entries.append(entry)
        bad = [one for entry in entries for one in entry["bad"]]
        reasons = {reason: sum(one["reason"] == reason for one in bad) for reason in sorted({b["reason"] for b in bad})}
        if not any(entry["embedded"] for entry in entries):
            raise MmclError(f"{source.shards}: no sample could be embedded: {reasons}.")
        with replacing(out / "bad_samples.jsonl") as file:
            file.writelines(f"{json.dumps(one)}\n".encode() for one in bad)
        manifest = {
            "format": FORMAT,
            "samples": sum(entry["samples"] for entry in entries),
            "shards": [{key: value for key, value in entry.items() if key != "bad"} for entry in entries],
            "embeddings": {**made_by, "samples": sum(entry["embedded"] for entry in entries), "bad": reasons},
        }
        write_json(out / MANIFEST, manifest)
    shutil.rmtree(done)
    return manifest


def _described(encoder: Encoder, modality: str) -> str:
    """What prepares the values: the transform's class, and all that it and the backbone say of it."""
    said = preparation(encoder.transforms[modality], encoder.model.tower(modality).backbone)
    name = said.pop("transform")
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in sorted(said.items()))})"


def _begin(out: Path, left: list[Path], made_by: Mapping[str, Any]) -> Path:
    """The folder of what is done, and nothing else that an interrupted call left.

    Raises:
        MmclError: it was another call.
    """
    done = out / DONE
    done.mkdir(exist_ok=True)
    options = done / "options.json"
    before = json.loads(options.read_text()) if options.exists() else made_by
    if different := [key for key in made_by if before.get(key) != made_by[key]]:
        raise MmclError(
            f"{out} was begun otherwise: {', '.join(different)} differ. Remove it, or write to another folder."
        )
    write_json(options, dict(made_by))
    for path in left:
        if path.suffix == ".partial" or not (done / f"{path.stem}.json").exists():
            path.unlink()
    return done


def _done(done: Path, shards: ShardSet) -> list[dict[str, Any]]:
    """Descriptions of the shards that are there already.

    Raises:
        MmclError: they were made of other shards.
    """
    entries: list[dict[str, Any]] = []
    for number in range(len(shards.listed)):
        path = done / f"{number:05d}.json"
        if not path.exists():
            break
        entry = json.loads(path.read_text())
        if entry["from"]["digest"] != shards.open(number).index.digest:
            raise MmclError(
                f"{done.parent} was begun with other shards: {shards.listed[number].shown} is not what {entry['name']} "
                "was made of. Remove it, or write to another folder."
            )
        entries.append(entry)
    return entries


def _rows(
    encoder: Encoder, source: Source, shard: Shard, member: Member, batch_size: int, workers: int
) -> Iterator[Row]:
    """Vectors of the samples of one shard: what they are depends on no other, so that going on makes the same."""
    modality = member.modality
    selector = Selector.parse(source.modalities[modality], modality)
    if selector.find(shard.index.extensions) is None:
        yield from (Row(key, None, f"no {' or '.join(selector.extensions)}") for key in shard.index.keys)
        return
    stream = Stream(
        source,
        batch_size=batch_size,
        workers=workers,
        shuffle=False,
        transforms={modality: encoder.transforms[modality]},
        share=(0, 1),
    )
    for batch in stream:
        there = batch.present[modality]
        made = iter(())
        if there.any():
            made = iter(
                _embedded(encoder, modality, batch[modality][there], member.of).numpy().astype(DTYPES[member.dtype])
            )
        reasons = {bad.key: bad.reason for bad in batch.bad}
        for key, present in zip(batch.keys, there.tolist(), strict=True):
            vector = next(made) if present else None
            if vector is not None and not np.isfinite(vector).all():
                yield Row(key, None, f"its vector is not finite in {member.dtype}")
            else:
                yield Row(key, vector, None if present else reasons.get(key, f"no {modality}"))


@torch.no_grad()
def _embedded(encoder: Encoder, modality: str, rows: Tensor, of: Of) -> Tensor:
    """Vectors in fp32 on the CPU, as the tower makes them in training where it stands still."""
    tower = encoder.model.tower(modality)
    with evaluating(encoder.model):
        return (tower if of == "tower" else tower.backbone)(rows.to(encoder.device)).float().cpu()


def _write(path: Path, shard: Shard, rows: Iterator[Row], member: str) -> dict[str, Any]:
    """One shard, whole or not at all, and its index."""
    bad = [{"shard": shard.url, "key": key, "reason": reason} for key, reason in shard.index.problems]
    with replacing(path) as file:
        hashed = HashedTar(file)
        with hashed.writer() as writer:
            for key, members in encode(_samples(shard, rows, member, bad)):
                writer.write({"__key__": key, **members})
    index = scan(path)
    write_index(path, index)
    without = {one["key"] for one in bad}
    return {
        "name": path.name,
        "samples": len(index),
        "bytes": hashed.size,
        "sha256": hashed.sha256.hexdigest(),
        "digest": index.digest,
        "embedded": sum(key not in without for key in index.keys),
        "from": {"name": shard.url.rpartition("/")[2], "digest": shard.index.digest},
        "bad": bad,
    }


def _samples(shard: Shard, rows: Iterator[Row], member: str, bad: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for sample in range(len(shard)):
        row, places = next(rows), shard.members(sample)
        assert row.key == shard.key(sample)
        if member in places:
            raise MmclError(
                f"{shard.url}: sample {row.key} has a member .{member} already; call the new one otherwise."
            )
        members: dict[str, Any] = dict(zip(places, shard.read(list(places.values())), strict=True))
        if row.vector is None:
            bad.append({"shard": shard.url, "key": row.key, "reason": row.reason})
        else:
            content = io.BytesIO()
            np.save(content, row.vector)
            members[member] = content.getvalue()
        yield {"__key__": row.key, **members}
