"""How a classifier holds up when pictures are corrupted."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators.base import EVALUATORS, Embedded, Embedder, Evaluator, EvaluatorPart, Findings, Items, View
from mmcl.evaluators.combined import combined, mean_of
from mmcl.evaluators.corruptions import LEAST, NAMES, SEVERITIES, Corruption, Name, package
from mmcl.evaluators.effective_robustness import baseline_of, effective_robustness
from mmcl.evaluators.figures import Figure
from mmcl.evaluators.prompts import Read, no_files

Severity = Annotated[int, Field(ge=1, le=5)]


@EVALUATORS.register("robustness")
class Robustness(Evaluator):
    """Another evaluator, on pictures as they are and on corrupted ones.

    Protocol: each corruption at each severity is another look at every picture; it is embedded, and the other
    evaluator's headline is measured with it in place of the clean picture. What that evaluator learns from stays clean.
    Draws are the same for every model.

    ``clean`` is the headline as it is; ``corruption/fog`` its mean over severities; ``mca`` (mean corruption accuracy)
    the mean over corruptions of that; ``relative`` the share of clean that is left, mca / clean. The published mCE
    divides errors by AlexNet's on ImageNet, which means nothing on other data. ``effective_robustness``, with a
    baseline, is mca less what models of the baseline that are as accurate on clean pictures have.
    Headline: ``mca``.

    Intervals are over items, drawn for clean and corrupted pictures together. The baseline is held fixed.

    Args:
        of: the evaluator; a larger headline must be better.
        modality: that is corrupted, where the evaluator takes several.
        corruptions: all 15, unless told.
        severities: all 5, unless told.
        size: see `mmcl.evaluators.corruptions.Corruption`.
        baseline: accuracies of other models, each on clean and on corrupted pictures (their mca).

    Reference:
        Hendrycks and Dietterich, ICLR 2019 (https://arxiv.org/abs/1903.12261); for effective robustness see
        `mmcl.evaluators.effective_robustness`.
    """

    headline = "mca"

    def __init__(
        self,
        of: EvaluatorPart,
        modality: str | None = None,
        corruptions: Annotated[list[Name], Field(min_length=1)] = list(NAMES),  # noqa: B006
        severities: Annotated[list[Severity], Field(min_length=1)] = list(SEVERITIES),  # noqa: B006
        size: Annotated[int, Field(ge=LEAST)] | None = 224,
        baseline: list[tuple[float, float]] | None = None,
        *,
        read: Read = no_files,
    ) -> None:
        self.inner: Evaluator = of.build(**({"read": read} if "read" in of.wants else {}))
        self.modality = _corrupted(of.name, self.inner, modality)
        for name, said in (("corruptions", corruptions), ("severities", severities)):
            if len(set(said)) < len(said):
                raise MmclError(f"robustness: {name} names one twice: {', '.join(map(str, said))}.")
        if baseline is not None:
            baseline_of(baseline)  # says what is wrong with it
        package()
        self.corruptions, self.severities, self.baseline = corruptions, severities, baseline
        self.looks = {(c, s): Corruption(c, s, size) for c in corruptions for s in severities}
        self.score = self.inner.score

    def modalities(self) -> list[str]:
        """Those of the other evaluator."""
        return self.inner.modalities()

    def metrics(self) -> dict[str, bool]:
        """The other's headline, clean and corrupted, of which larger is better."""
        names = ["clean", "mca", "relative", *(f"corruption/{name}" for name in self.corruptions)]
        return dict.fromkeys([*names, *(["effective_robustness"] if self.baseline else [])], True)

    def fields(self) -> list[str]:
        """Those of the other evaluator."""
        return self.inner.fields()

    def prompted(self) -> list[str]:
        """Those of the other evaluator."""
        return self.inner.prompted()

    def trained_on(self) -> list[str]:
        """Those of the other evaluator."""
        return self.inner.trained_on()

    def views(self) -> dict[str, tuple[str, View]]:
        """Each corruption at each severity, as in ``image.fog-3``."""
        return {_view(self.modality, c, s): (self.modality, look) for (c, s), look in self.looks.items()}

    def check(self, items: Items, train: Items | None = None) -> None:
        """As the other evaluator does."""
        self.inner.check(items, train)

    def measure(self, data: Embedded, embedder: Embedder) -> Findings:
        """Figures over all corruptions; examples and confusion are those of clean pictures."""
        once = _Once(embedder)
        clean = self.inner.measure(data, once)
        found = {c: [self._under(c, s, data, once) for s in self.severities] for c in self.corruptions}
        each = {f"corruption/{c}": mean_of(of) for c, of in found.items()}
        whole = clean.figures[self.inner.headline]
        mca = mean_of(list(each.values()))
        figures = {"clean": whole, "mca": mca, "relative": combined(lambda v: v[1] / v[0], [whole, mca]), **each}
        if pairs := self.baseline:
            figures["effective_robustness"] = combined(lambda v: effective_robustness(v[0], v[1], pairs), [whole, mca])
        severities: dict[str, Any] = {
            c: {str(s): f.value for s, f in zip(self.severities, of, strict=True)} for c, of in found.items()
        }
        return replace(clean, figures=figures, details={"of": self.inner.headline, "severities": severities})

    def _under(self, corruption: Name, severity: int, data: Embedded, embedder: Embedder) -> Figure:
        """The other's headline with corrupted pictures in place of the clean ones."""
        view, m = _view(self.modality, corruption, severity), self.modality
        other = replace(
            data, vectors={**data.vectors, m: data.vectors[view]}, owner={**data.owner, m: data.owner[view]}
        )
        return self.inner.measure(other, embedder).figures[self.inner.headline]


class _Once:
    """Embeds the same prompts once only."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder
        self.known: dict[tuple[str, tuple[str, ...]], Float[Tensor, "values dim"]] = {}

    def embed(self, modality: str, values: Sequence[Any]) -> Float[Tensor, "values dim"]:
        """Unit vectors, of texts as they were embedded first."""
        if not all(isinstance(value, str) for value in values):
            return self.embedder.embed(modality, values)
        key = (modality, tuple(values))
        if key not in self.known:
            self.known[key] = self.embedder.embed(modality, values)
        return self.known[key]


def _view(modality: str, corruption: str, severity: int) -> str:
    return f"{modality}.{corruption}-{severity}"


def _corrupted(name: str, inner: Evaluator, modality: str | None) -> str:
    """The modality that is corrupted.

    Raises:
        MmclError: it is not known which, or the evaluator is not one that this can be measured with.
    """
    taken = inner.modalities()
    if inner.views():
        raise MmclError(f"robustness: {name} has other looks at pictures of its own; take one that has none.")
    if not inner.metrics()[inner.headline]:
        raise MmclError(
            f"robustness: of {inner.headline}, the headline of {name}, smaller is better; larger is needed."
        )
    if modality is None and len(taken) != 1:
        raise MmclError(f"robustness: {name} takes {' and '.join(taken)}; say which `modality` is corrupted.")
    if modality is not None and modality not in taken:
        raise MmclError(f"robustness: {name} takes {' and '.join(taken)}, not {modality}, which is to be corrupted.")
    return modality or taken[0]
