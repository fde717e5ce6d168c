"""What a recipe says to no effect: it is refused, so that nothing is silently ignored."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from mmcl.data import Source
from mmcl.losses import NEGATIVES, TARGETS
from mmcl.losses.line import LineSpec, Ramp
from mmcl.losses.multiview.base import MultiViewSpec
from mmcl.losses.term_spec import TermSpec
from mmcl.registry import Told
from mmcl.towers import TowerSpec
from mmcl.towers.policies import Policy
from mmcl.types import modality_of, without_copies


def of_a_term(term: LineSpec, names: list[str], sources: Sequence[Source]) -> Iterator[tuple[str, str]]:
    """Settings of a term that do nothing with the data: key and message."""
    who = _asks_who(term)
    if who is not None and all(source.identity is None for source in sources):
        key, said, otherwise = who
        yield (
            key,
            f"{said} is about samples that show the same thing, and no source says which do, so each would be by "
            "itself. Say data.train.identity (`json:KEY`, a field that they share; `txt` for equal captions), "
            f"or take `{otherwise}`.",
        )
    if isinstance(term, TermSpec) and term.view is not None and term.view.name == "captions":
        for edge in term.view.build().edges(names):
            if not edge.copies:
                of = edge.others[0]
                yield (
                    "view",
                    f"there is one {of} a sample, so `captions` would be `pairs`. Say data.copies: {{{of}: 5}} and "
                    "data.train.captions: all, for up to five of each sample.",
                )


def of_carried(term: LineSpec, names: list[str], carried: Sequence[Collection[str]], apart: bool) -> str | None:
    """What a person should know of a term into which no source brings anything.

    Args:
        term: of the objective.
        names: modalities and copies.
        carried: those of each source.
        apart: whether each batch is of one source.
    """
    if not (apart or isinstance(term, TermSpec)):  # others may compare rows of several sources
        return None
    if any(term.is_about(own, names) for own in carried):
        return None
    have = "; ".join(", ".join(name for name in names if name in own) for own in carried)
    where = "batch" if apart else "sample"
    return f"no {where} has all that {term.title} compares, so that it would be 0 in each step. Sources have: {have}."


def of_names(
    terms: Sequence[LineSpec], names: list[str], copies: Mapping[str, int], extras: Sequence[str]
) -> Iterator[Told]:
    """Towers, copies and extras that no term looks at."""
    held = {name.removeprefix("ema.") for term in terms for name in term.extras()}
    looked = {m for term in terms for m in _looked_at(term, names)}
    trained = {modality_of(m) for term in terms if counts(term) is not None for m in _looked_at(term, names)}
    for tower in without_copies(names):
        if tower not in trained:
            yield Told(
                ("towers", tower),
                f"no term of the objective looks at {tower}, so that this tower would not be trained: name {tower} "
                "in a term, or leave out the tower and what data.train.modalities says of it.",
            )
    every = {modality: [modality, *(f"{modality}.{i}" for i in range(2, n + 1))] for modality, n in copies.items()}
    for name in names:
        if "." not in name or name in looked | held or modality_of(name) not in trained:
            continue
        modality = next((m for m, several in every.items() if name in several[1:]), None)
        if modality is None:
            where, less = ("data", "train", "modalities", name), "leave it out"
        else:
            last = max((i for i, one in enumerate(every[modality], 1) if one in looked | held), default=1)
            if name in every[modality][:last] or name != every[modality][last]:
                continue  # what lies before one that is looked at has to be there; and what is too many is told once
            less = "leave it out" if last == 1 else f"say {modality}: {last}"
            where = ("data", "copies", modality)
        yield Told(
            where, f"no term of the objective looks at {name}: name it in a term (docs/objectives.md), or {less}."
        )
    for name in extras:
        if name not in {extra for term in terms for extra in term.extras()}:
            yield Told(
                ("data", "train", "extras", name),
                f"no term of the objective looks at {name}: name it in a term, as in `by: {name}`, or leave it out.",
            )


def of_policies(towers: Mapping[str, TowerSpec], steps: int) -> Iterator[Told]:
    """Policies of towers by which a backbone would learn only after the last step."""
    for tower, part in towers.items():
        policy: Policy = part.policy.build()
        if not policy.never and not policy.learns(steps - 1):
            yield Told(
                ("towers", tower, "policy"),
                f"the backbone learns at none of the {steps} steps: say an earlier `from_step`, or take `frozen`.",
            )


def of_steps(terms: Sequence[LineSpec], steps: int) -> str | None:
    """Steps of a run at which nothing would be trained."""
    stretches = [stretch for stretch in map(counts, terms) if stretch is not None]
    first = _reached(stretches)
    if first >= steps:
        return None
    later = min((start for start, _ in stretches if start > first), default=math.inf)
    if first == 0 and later >= steps:
        return f"no term counts at any of the {steps} steps: weights are 0, or `from_step` lies behind the last step."
    return (
        f"no term counts from step {first} to {min(later, steps) - 1} of {steps}, so that nothing would be trained "
        "there: see `from_step`, `until_step` and the ramps of the weights, or make the run shorter."
    )


def late(terms: Sequence[LineSpec], steps: int) -> list[str]:
    """What a person should know of terms that would count only after the last step."""
    return [
        f"objective.{number}: {term.title} counts from step {term.from_step} on: not in this run of {steps}"
        for number, term in enumerate(terms)
        if term.from_step >= steps
    ]


def counts(term: LineSpec) -> tuple[int, float] | None:
    """The first step at which a term counts, and the first at which it counts no more; None where its weight is 0."""
    end = math.inf if term.until_step is None else term.until_step
    if not isinstance(term.weight, Ramp):
        return (term.from_step, end) if term.weight > 0 else None
    if term.weight.end > 0:
        return term.from_step, end
    return (term.from_step, min(end, term.from_step + term.weight.steps)) if term.weight.start > 0 else None


def _reached(stretches: Iterable[tuple[int, float]]) -> float:
    """The first step, from 0 on, at which none of them counts."""
    reached: float = 0
    for start, end in sorted(stretches):
        if start > reached:
            break
        reached = max(reached, end)
    return reached


def _asks_who(term: LineSpec) -> tuple[str, str, str] | None:
    """The key of a term that asks which rows show the same thing, what it says, and what does not ask."""
    if isinstance(term, MultiViewSpec):
        return ("negatives", "`distinct`", "in_batch") if term.negatives == "distinct" else None
    if not isinstance(term, TermSpec) or (term.view is not None and term.view.name == "captions"):
        return None  # all captions of a sample are one thing
    if TARGETS.classes[term.targets.name].shared:  # type: ignore[attr-defined]
        return "targets", f"`{term.targets.name}`", "targets: identity"
    drops = [part.name for part in term.negatives if NEGATIVES.classes[part.name].drop_same]  # type: ignore[attr-defined]
    return ("negatives", f"`{drops[0]}`", "negatives: in_batch") if drops else None


def _looked_at(term: LineSpec, names: list[str]) -> set[str]:
    """What a term is about, and what its transforms bring in, such as the other of a swap."""
    moved = {m for part in term.transform for key in ("pair", "modalities") for m in getattr(part, key, None) or []}
    return term.looks_at(names) | (moved & set(names))
