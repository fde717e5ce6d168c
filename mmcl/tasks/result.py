"""What a task gives: numbers, and what a reader must know of them."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from mmcl.model import Encoder
from mmcl.tasks.ready import ReadyVectors

DIGITS = 10  # of a number that is told: those after depend on how many threads sum it


class Result(dict[str, float]):
    """Metric -> number, ``n`` (items) and, where some could not be used, ``skipped``.

    Attributes:
        about: what a reader must know: the task, its version, the headline, the score, the precision, the versions of
            the packages; ``counts``: what each number is a mean of; ``intervals``: 95 % bootstrap intervals, where they
            were asked for; ``details`` of the evaluator.
    """

    def __init__(self, numbers: Mapping[str, float], about: Mapping[str, Any]) -> None:
        super().__init__(numbers)
        self.about = dict(about)

    @property
    def headline(self) -> float:
        """The number to quote."""
        return self[self.about["headline"]]

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Its 95 % bootstrap interval, where there is one."""
        ends = self.about.get("intervals", {}).get(metric)
        return None if ends is None else (ends[0], ends[1])

    def to_json(self) -> dict[str, Any]:
        """The numbers, and ``about`` beside them."""
        return {**self, "about": self.about}

    @classmethod
    def of_json(cls, said: Mapping[str, Any]) -> "Result":
        """What `to_json` wrote."""
        return cls({name: value for name, value in said.items() if name != "about"}, said["about"])


def rounded(value: Any) -> Any:
    """The same with the digits that are told, so that they are the same on any number of threads and processes."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {name: rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list | tuple) else value


def described(encoder: Encoder | None, ready: ReadyVectors | None) -> dict[str, Any]:
    """In which precision the model computes, the packages that do it, and where vectors lay that it did not make."""
    parameters = () if encoder is None else encoder.model.parameters()
    dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in parameters})
    said: dict[str, Any] = {
        "precision": {"towers": ", ".join(dtypes) or "unknown", "scores": "float32"},
        "packages": {name: version(name) for name in ("mmcl", "torch")},
    }
    if ready is not None:
        said["embeddings"] = {"folder": str(ready.folder), "model": ready.model}
    return said
