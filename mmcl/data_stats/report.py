"""All that is known of shards, as JSON can hold it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmcl.data_stats.alike import Alike, alike, near
from mmcl.data_stats.fields import Field
from mmcl.data_stats.look import Reason
from mmcl.data_stats.stats import Stats
from mmcl.data_stats.tally import Counter

FORMAT = 1
GROUPS, KINDS, VALUES = 12, 50, 5  # groups, kinds, and values of a field that are told
QUANTILES = {"least": 0.0, "1%": 0.01, "10%": 0.1, "half": 0.5, "90%": 0.9, "99%": 0.99, "most": 1.0}
SIZES = {  # kind of a value -> its numbers that are sizes, and in which unit
    "picture": {"width": "pixels", "height": "pixels", "aspect": "width / height", "megapixels": ""},
    "sound": {"seconds": ""},
    "text": {"characters": "", "words": "", "tokens": ""},
    "vector": {"numbers": ""},
}


class Twins(NamedTuple):
    """What comes more than once of one modality."""

    modality: str
    what: str
    """In which way it is alike."""
    found: Alike


def sizes(stats: Stats, modality: str) -> dict[str, NDArray[Any]]:
    """Numbers of the values of a modality that are sizes."""
    if stats.kind(modality) == "picture":
        width, height = (stats.column(modality, name).astype(np.float64) for name in ("width", "height"))
        return {"width": width, "height": height, "aspect": width / height, "megapixels": width * height / 1e6}
    found = {name: stats.column(modality, name) for name in SIZES[stats.kind(modality)]}
    return {name: numbers for name, numbers in found.items() if len(numbers)}


def twins(stats: Stats) -> list[Twins]:
    """What comes more than once: the same bytes, the same captions, pictures that look alike."""
    made = []
    for modality in stats.modalities:
        hashes = stats.column(modality, "hash")
        if stats.kind(modality) == "text":
            made.append(Twins(modality, "the same text", alike(hashes, GROUPS)))
            continue
        made.append(Twins(modality, "the same bytes", alike(hashes, GROUPS)))
        looks = stats.column(modality, "look") if stats.kind(modality) == "picture" else hashes[:0]
        if len(looks):
            first = np.sort(np.unique(hashes, return_index=True)[1])
            first = first[~stats.column(modality, "flat")[first]]
            found = alike(near(looks[first]), GROUPS)
            made.append(Twins(modality, "they look alike", found._replace(largest=[first[r] for r in found.largest])))
    return made


def report(stats: Stats, found: Sequence[Twins]) -> dict[str, Any]:
    """All of it; nothing in it depends on when, or on how many processes, it was made.

    Args:
        stats: of the shards.
        found: what comes more than once.
    """
    keys = alike(stats.keys, 0)
    return {
        "format": FORMAT,
        "shards": len(stats.shards),
        "samples": stats.samples,
        **({"drawn_from": stats.of} if stats.of is not None else {}),
        "bytes": sum(size for _, size, _ in stats.members.values()),
        "members": {
            extension: {"count": count, "bytes": size, "empty": empty}
            for extension, (count, size, empty) in sorted(stats.members.items(), key=lambda kv: -kv[1][0])
        },
        "samples_with": _counts(stats.together),
        "repeated_keys": {"keys": keys.groups, "samples": keys.values},
        "modalities": {modality: _modality(stats, modality, found) for modality in stats.modalities},
        "missing": _reasons(stats, absent=True),
        "broken": _reasons(stats, absent=False),
        "json": {
            "samples": stats.fields.samples,
            "fields": {name: _field(field) for name, field in stats.fields.found.items()},
            "values_of_other_fields": stats.fields.left_out,
        },
    }


def _modality(stats: Stats, modality: str, found: Sequence[Twins]) -> dict[str, Any]:
    owner = stats.owner(modality)
    said: dict[str, Any] = {
        "kind": stats.kind(modality),
        "values": len(owner),
        "samples": len(np.unique(owner)),
        "sizes": {name: summary(numbers) for name, numbers in sizes(stats, modality).items()},
        **{name.replace(" ", "_"): _counts(counter) for name, counter in stats.kinds(modality).items()},
    }
    if "tokens" in said["sizes"]:
        length = stats.context_length or 0
        cut = int((stats.column(modality, "tokens") > length).sum())
        said["context_length"], said["cut_at_context_length"] = length, cut
    if stats.kind(modality) == "picture":
        width, height = (stats.column(modality, name).astype(np.uint64) for name in ("width", "height"))
        said["frequent_sizes"] = frequent_sizes(width, height)
        if len(flat := stats.column(modality, "flat")):
            said["flat"] = int(flat.sum())
    if said["kind"] == "sound":
        said["hours"] = round(float(stats.column(modality, "seconds").sum(dtype=np.float64)) / 3600, 3)
    said["more_than_once"] = {
        one.what: {"groups": one.found.groups, "values": one.found.values} for one in found if one.modality == modality
    }
    return said


def summary(numbers: NDArray[Any]) -> dict[str, float]:
    """Mean and quantiles."""
    found = np.quantile(numbers.astype(np.float64), list(QUANTILES.values()))
    rounded = {name: float(f"{value:.6g}") for name, value in zip(QUANTILES, found.tolist(), strict=True)}
    return {**rounded, "mean": float(f"{numbers.mean(dtype=np.float64):.6g}")}


def frequent_sizes(width: NDArray[np.uint64], height: NDArray[np.uint64], shown: int = 8) -> dict[str, int]:
    """How many pictures have which size, the most frequent first."""
    both, counts = np.unique((width << np.uint64(32)) | height, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:shown]
    return {f"{int(both[i]) >> 32} × {int(both[i]) & 0xFFFFFFFF}": int(counts[i]) for i in order}


def _counts(counter: Counter) -> dict[str, int]:
    most = counter.most()
    others = counter.rest + sum(one.n for one in most[KINDS:])
    return {one.value: one.n for one in most[:KINDS]} | ({"(others)": others} if others else {})


def _reasons(stats: Stats, absent: bool) -> list[dict[str, Any]]:
    def said(reason: Reason, count: int) -> dict[str, Any]:
        examples = [
            {"shard": stats.shards[shard][1].shown, "key": key} for shard, key in stats.examples.get(reason, [])
        ]
        return {"where": reason.modality or "shard", "reason": reason.reason, "count": count, "examples": examples}

    return [said(reason, count) for reason, count in stats.reasons.most_common() if reason.absent == absent]


def _field(field: Field) -> dict[str, Any]:
    top = field.values.most(VALUES)
    different = len(field.values)
    return {
        "samples": field.samples,
        "types": dict(field.types.most_common()),
        "range": {kind: [field.least[kind], field.most[kind]] for kind in field.least},
        "different": f"more than {different}" if field.values.rest else different,
        "frequent": {one.value: one.n for one in top if one.n > 1},
    }
