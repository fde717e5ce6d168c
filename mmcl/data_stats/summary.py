"""What shards hold, in a few lines for a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmcl.data_stats.charts import short
from mmcl.data_stats.page import bytes_in_words
from mmcl.errors import several

KINDS, REASONS, LETTERS = 5, 5, 60  # of a line; reasons; letters of a kind


def summary(report: Mapping[str, Any]) -> Iterator[str]:
    """Lines.

    Args:
        report: as `mmcl.data_stats.report` makes it.
    """
    drawn = f" (drawn from {report['drawn_from']:,})" if "drawn_from" in report else ""
    samples, shards = several(report["samples"], "sample"), several(report["shards"], "shard")
    yield f"{samples}{drawn} in {shards}, {bytes_in_words(report['bytes'])}"
    for together, count in list(report["samples_with"].items())[:KINDS]:
        yield f"{count:>12,}  with {together or 'nothing'}"
    for modality, said in report["modalities"].items():
        yield from _modality(modality, said)
    if report["repeated_keys"]["keys"]:
        yield f"{report['repeated_keys']['samples']:,} samples share their key with another"
    for name in ("broken", "missing"):
        yield from (f"{one['count']:>12,}  {name}: {one['where']}: {one['reason']}" for one in report[name][:REASONS])
        if len(report[name]) > REASONS:
            yield f"{'':>12}  and {len(report[name]) - REASONS} other reasons"
    if fields := report["json"]["fields"]:
        some = list(fields)[: 3 * KINDS]
        yield f"json: {', '.join(some)}{', ...' if len(fields) > len(some) else ''}"


def _modality(modality: str, said: Mapping[str, Any]) -> Iterator[str]:
    yield f"{modality}: {said['values']:,} {said['kind']}s in {said['samples']:,} samples"
    for name, of in said["sizes"].items():
        yield f"{name:>12}  {short(of['least'])} .. {short(of['half'])} .. {short(of['most'])}"
    for name in ("format", "mode", "sample_rate", "channels", "language", "script"):
        if name in said:
            yield f"{name.replace('_', ' '):>12}  {_kinds(said[name])}"
    if "context_length" in said:
        yield f"{said['cut_at_context_length']:>12,}  would be cut: they have more than {said['context_length']} tokens"
    if said.get("flat"):
        yield f"{said['flat']:>12,}  flat: of one brightness"
    for what, one in said["more_than_once"].items():
        if one["groups"]:
            yield f"{one['values']:>12,}  in {one['groups']:,} groups: {what}"


def _kinds(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    most = sorted(((k, c) for k, c in counts.items() if k != "(others)"), key=lambda kc: -kc[1])[:KINDS]
    shown = [f"{kind[:LETTERS] or 'unknown'} {100 * count / total:.3g} %" for kind, count in most]
    return ", ".join(shown) + (", ..." if len(counts) > len(most) else "")
