"""Questions that are asked of candidates, and how they were answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmcl.evaluators.candidates import best


@dataclass(frozen=True)
class Questions:
    """Right candidates, each with the wrong ones that it stands against."""

    item: Int[Tensor, " questions"]
    right: Float[Tensor, " questions"]
    """Score of the right candidate."""
    rights: Sequence[str | None]
    """Text of the right candidate, where it is one."""
    wrong: Float[Tensor, " wrong"]
    """Scores of wrong candidates."""
    of: Int[Tensor, " wrong"]
    """Question of each."""
    kind: Int[Tensor, " wrong"]
    """Number of what each is: its column, or what was done to the right one."""
    texts: Sequence[str | None]
    """Text of each, where it is one."""

    def correct(self) -> Bool[Tensor, " questions"]:
        """Whether the right candidate beats every wrong one."""
        return self.right > self.rival()

    def rival(self) -> Float[Tensor, " questions"]:
        """Score of the best wrong candidate."""
        return best(self.wrong, self.of, len(self.item))

    def distinct(self) -> "Questions":
        """The same without wrong candidates that have the very text of the right one, and so are not wrong.

        Questions that have no others are left out.
        """
        pairs = zip(self.of.tolist(), self.texts, strict=True)
        keep = torch.tensor([t is None or t != self.rights[q] for q, t in pairs], dtype=torch.bool)
        asked = torch.bincount(self.of[keep], minlength=len(self.item)) > 0
        number = asked.cumsum(0) - 1
        return Questions(
            self.item[asked],
            self.right[asked],
            [self.rights[q] for q in asked.nonzero()[:, 0].tolist()],
            self.wrong[keep],
            number[self.of[keep]],
            self.kind[keep],
            [self.texts[row] for row in keep.nonzero()[:, 0].tolist()],
        )

    def chance(self) -> float:
        """Accuracy of scores that are drawn by lot."""
        return (1 / (1 + torch.bincount(self.of, minlength=len(self.item)).double())).mean().item()

    def blind(self) -> dict[str, float]:
        """Accuracy of who never looks, and takes the longest or the shortest text (in characters); ties are wrong.

        Empty where the candidates are no texts.
        """
        if any(text is None for text in (*self.rights, *self.texts)):
            return {}
        right, wrong = (torch.tensor([float(len(t or "")) for t in texts]) for texts in (self.rights, self.texts))
        longest, shortest = (sign * right > best(sign * wrong, self.of, len(self.item)) for sign in (1, -1))
        return {"longest": share(longest)["accuracy"], "shortest": share(shortest)["accuracy"]}

    def by_kind(self, kinds: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Accuracy against wrong candidates of each kind alone, over the questions that have such."""
        found = {}
        for number, kind in enumerate(kinds):
            mine = self.kind == number
            there = torch.bincount(self.of[mine], minlength=len(self.item)) > 0
            if there.any():
                found[kind] = share((self.right > best(self.wrong[mine], self.of[mine], len(self.item)))[there])
        return found

    def ranked(self, question: int, right: str, kinds: Sequence[str]) -> list[str]:
        """All candidates of a question, best first: their texts, or else what they are called."""
        rows = (self.of == question).nonzero()[:, 0].tolist()
        candidates = [(self.wrong[row].item(), 0, self.texts[row] or kinds[int(self.kind[row])]) for row in rows]
        candidates.append((self.right[question].item(), 1, self.rights[question] or right))
        return [name for _, _, name in sorted(candidates, key=lambda c: (c[0] != c[0], -c[0], c[1]))]


def each_question(owner: Int[Tensor, " rows"], counts: Int[Tensor, " items"]) -> tuple[Tensor, Tensor]:
    """Each wrong candidate against every question of its item.

    Args:
        owner: item of each candidate.
        counts: how many questions each item asks, one after the other.

    Returns:
        Numbers of the candidates, and of the questions that they stand in.
    """
    times = counts[owner]
    row = torch.arange(len(owner)).repeat_interleave(times)
    place = torch.arange(len(row)) - (times.cumsum(0) - times)[row]
    return row, (counts.cumsum(0) - counts)[owner[row]] + place


def share(correct: Bool[Tensor, " questions"]) -> dict[str, Any]:
    """Accuracy of some questions, and their number."""
    return {"accuracy": correct.double().mean().item(), "n": len(correct)}
