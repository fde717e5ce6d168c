"""Prompts that name classes, and the vectors that stand for the classes."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators.base import Embedder
from mmcl.evaluators.ranking import whole
from mmcl.registry import Spec

Read = Callable[[str], str]
"""Gives the text of a file that a task names."""
Aggregate = Literal["vector", "scores", "best"]
VOWEL = ("a ", "an ")
VERBS = ("has ", "often ", "typically ", "may ", "can ")


class Described(Spec):
    """Descriptions that go into prompts: what one sees of a class."""

    descriptors: dict[str, list[str]] | str
    """Label -> what it looks (or sounds) like; or a JSON file that says so."""
    template: str = "{c}, {which}"
    """`{c}` is the class's name, `{d}` a descriptor, `{which}` the descriptor after "which is" or "which has"."""
    control: Literal["none", "nameless", "shuffled"] = "none"
    """What the descriptions are worth: without the class's name, or with the descriptions of other classes."""
    thing: str = "an object"
    """What stands for a class's name where there is none."""
    seed: int = 0
    """Of the order of shuffled descriptions."""


class FollowUp(Spec):
    """A second look at the best classes, by what tells each two of them apart (FuDD)."""

    pairs: str
    """JSON file: [{"classes": [label, label], "prompts": [[...], [...]]}, ...]: prompts of the first, of the second."""
    top: Annotated[int, Field(ge=2)] = 10
    """Classes that are looked at again."""


def no_files(name: str) -> str:
    """What reads files where there is no task that could say where they lie."""
    raise MmclError(f"{name}: files are read for tasks; give a list or a mapping.")


def names_of(said: Mapping[str, str] | Sequence[str] | str, read: Read) -> dict[str, str]:
    """Label -> name. Of a list, or of the lines of a file, labels are the numbers from 0.

    Args:
        said: a mapping; a list; a file of lines, or of JSON with either.
        read: gives the text of a file.

    Raises:
        MmclError: a name is empty; or a line between others, which would move the labels behind it.
    """
    if isinstance(said, str):
        said = _json(said, read) if said.endswith(".json") else _numbered_lines(said, read)
    pairs = said.items() if isinstance(said, Mapping) else enumerate(said)
    names = {str(label): str(name) for label, name in pairs}
    for label, name in names.items():
        if not name.strip():
            raise MmclError(f"classes: label {label!r} has no name to prompt with.")
    return names


def _numbered_lines(name: str, read: Read) -> list[str]:
    lines = [line.strip() for line in read(name).rstrip().splitlines()]
    if "" in lines:
        raise MmclError(f"{name}: line {lines.index('') + 1} is empty; each line names a class: 0, 1, 2, ...")
    return lines


def templates_of(said: Mapping[str, list[str]] | Sequence[str] | str, read: Read) -> dict[str, list[str]] | list[str]:
    """Templates, or each class's own prompts by its name (as CuPL has them).

    Raises:
        MmclError: there are none, or one has no place for the name.
    """
    if isinstance(said, str):
        said = _json(said, read) if said.endswith(".json") else _lines(said, read)
    if isinstance(said, Mapping):
        return {str(name): [str(prompt) for prompt in prompts] for name, prompts in said.items()}
    templates = list(said)
    if not templates:
        raise MmclError("a zero-shot task needs templates.")
    for template in templates:
        if "{c}" not in template:
            raise MmclError(f"template {template!r} has no {{c}} where the class's name goes.")
    return templates


def _lines(name: str, read: Read) -> list[str]:
    return [line.strip() for line in read(name).splitlines() if line.strip()]


def prompts_of(
    names: Mapping[str, str],
    templates: Mapping[str, Sequence[str]] | Sequence[str],
    described: Described | None,
    read: Read,
) -> dict[str, list[str]]:
    """Label -> the prompts of its class.

    Raises:
        MmclError: a class has none.
    """
    if described is not None:
        return _described(names, described, read)
    if isinstance(templates, Mapping):
        found = {label: list(templates.get(name, templates.get(label, []))) for label, name in names.items()}
    else:
        found = {label: [t.replace("{c}", name) for t in templates] for label, name in names.items()}
    return _full(found, "templates")


def _described(names: Mapping[str, str], described: Described, read: Read) -> dict[str, list[str]]:
    said = described.descriptors
    given = _json(said, read) if isinstance(said, str) else said
    known = {label: given.get(label, given.get(name, [])) for label, name in names.items()}
    if described.control == "shuffled":
        labels = list(known)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(described.seed)).tolist()
        others = {labels[a]: known[labels[b]] for a, b in zip(order, [*order[1:], *order[:1]], strict=True)}
        known = {label: others[label] for label in labels}  # each from another class: one round through all of them

    def prompt(name: str, descriptor: str) -> str:
        name = described.thing if described.control == "nameless" else name
        return described.template.replace("{which}", which(descriptor)).replace("{d}", descriptor).replace("{c}", name)

    return _full({label: [prompt(names[label], d) for d in ds] for label, ds in known.items()}, "descriptors")


def which(descriptor: str) -> str:
    """A descriptor as a relative clause, as Menon and Vondrick put it.

    >>> which("a long tail"), which("has fur"), which("used to cut"), which("four legs")
    ('which is a long tail', 'which has fur', 'which is used to cut', 'which has four legs')
    """
    if descriptor.startswith(VOWEL) or descriptor.startswith("used"):
        return f"which is {descriptor}"
    return f"which {descriptor}" if descriptor.startswith(VERBS) else f"which has {descriptor}"


def _full(prompts: dict[str, list[str]], where: str) -> dict[str, list[str]]:
    if without := [label for label, some in prompts.items() if not some]:
        raise MmclError(f"{where}: class {without[0]!r} has none ({len(without)} such classes); every class needs one.")
    return prompts


class ClassVectors:
    """What stands for each class: the unit vectors of its prompts, together.

    Args:
        prompts: label -> prompts.
        embedder: embeds them.
        modality: of the prompts.
        aggregate: `vector`: the mean of the unit vectors, made a unit vector (CLIP's prompt ensembles); `scores`: an
            item's score is the mean of its cosines with the prompts; `best`: it is the largest of them.
    """

    def __init__(
        self, prompts: Mapping[str, Sequence[str]], embedder: Embedder, modality: str, aggregate: Aggregate = "vector"
    ) -> None:
        self.aggregate = aggregate
        self.vectors = embedder.embed(modality, [prompt for some in prompts.values() for prompt in some]).float()
        counts = torch.tensor([len(some) for some in prompts.values()])
        self.of = torch.repeat_interleave(torch.arange(len(counts)), counts)
        sums = torch.zeros(len(counts), self.vectors.shape[1]).index_add_(0, self.of, self.vectors)
        self.means = sums / counts[:, None]

    def unit(self) -> Float[Tensor, "classes dim"]:
        """A unit vector a class."""
        return F.normalize(self.means, dim=-1)

    @cached_property
    def _right(self) -> Float[Tensor, "rows dim"]:
        return whole({"vector": self.unit(), "scores": self.means, "best": self.vectors}[self.aggregate])

    def scores(self, items: Float[Tensor, "items dim"]) -> Float[Tensor, "items classes"]:
        """Of every item with every class."""
        every = items.float() @ self._right.T
        if self.aggregate != "best":
            return every[:, : len(self.means)]
        best, every = torch.full((len(items), len(self.means)), -torch.inf), every[:, : len(self.vectors)]
        return best.scatter_reduce_(1, self.of.expand(len(items), -1), every, "amax")


class Differences:
    """Prompts that tell two classes apart, for each two of some (FuDD).

    Args:
        follow_up: says where they are.
        labels: of all classes.
        read: gives the text of a file.

    Raises:
        MmclError: the file is not of its form.
    """

    def __init__(self, follow_up: FollowUp, labels: Sequence[str], read: Read) -> None:
        self.top = follow_up.top
        number = {label: i for i, label in enumerate(labels)}
        self.prompts: dict[tuple[int, int], list[str]] = {}
        for entry in _json(follow_up.pairs, read):
            try:
                (a, b), (of_a, of_b) = (number[str(c)] for c in entry["classes"]), entry["prompts"]
            except (KeyError, TypeError, ValueError) as error:
                raise MmclError(f"{follow_up.pairs}: {entry!r} is no pair of classes and prompts: {error}.") from None
            self.prompts[a, b], self.prompts[b, a] = list(of_a), list(of_b)

    def again(
        self,
        scores: Float[Tensor, "items classes"],
        items: Float[Tensor, "items dim"],
        embedder: Embedder,
        modality: str,
    ) -> tuple[Float[Tensor, "items classes"], int]:
        """Scores in which the best classes of each item are put in a new order, before all others.

        A class stands for the mean of the unit vectors of all prompts that tell it from one of the other best classes.
        Where one of these has no such prompt the order stays; of how many items, is the second that is returned.
        """
        best = scores.topk(min(self.top, scores.shape[1]), 1).indices
        pairs = sorted({(a, b) for row in best.tolist() for a in row for b in row if (a, b) in self.prompts})
        if not pairs:
            return scores, len(items)
        counts = torch.tensor([len(self.prompts[pair]) for pair in pairs])
        vectors = embedder.embed(modality, [prompt for pair in pairs for prompt in self.prompts[pair]]).float()
        sums = torch.zeros(len(pairs), vectors.shape[1])
        sums.index_add_(0, torch.repeat_interleave(torch.arange(len(pairs)), counts), vectors)
        place = {pair: i for i, pair in enumerate(pairs)}
        again, stayed = scores.clone(), 0
        for row, classes in enumerate(best.tolist()):
            made = [[place[a, b] for b in classes if (a, b) in place] for a in classes]
            if all(made):
                stands = F.normalize(torch.stack([sums[some].sum(0) for some in made]), dim=-1)
                again[row, classes] = 3.0 + items[row].float() @ stands.T  # above all cosines
            else:
                stayed += 1
        return again, stayed


def _json(name: str, read: Read) -> Any:
    content = read(name)
    try:
        return json.loads(content)
    except ValueError as error:
        raise MmclError(f"{name}: this is not JSON ({error}).") from None
