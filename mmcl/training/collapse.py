"""Signs in the numbers of a run that it learns nothing, or no more, each with advice."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping

from mmcl.losses.line import LineSpec
from mmcl.losses.term_spec import TermSpec
from mmcl.recipe import Recipe
from mmcl.runs import Run
from mmcl.training.progress import Row, cut_back

RANK = 2.0  # effective rank below which a modality has collapsed
SPREAD = -0.05  # uniformity above which all vectors of a modality lie in one place
CHANCE = 0.99  # share of ln(rows) from which a softmax has learned nothing
LIMIT = 1.001  # times its least value, up to which a temperature is at its limit
SETTLING, LEAST, MOST = 0.1, 20, 2_000  # share of the steps, and steps, before which nothing is a sign


SPREAD_OUT = (
    "Look at the loss and the norm of the gradient; a lower optimizer.lr, a longer warm-up, larger batches, or a term "
    "that spreads vectors (regularize: uniformity) help."
)
GEOMETRY: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    (
        r"embeddings/(.+)/effective_rank",
        lambda rank: rank < RANK,
        "{of} uses {value:.1f} directions of its space (effective rank): it collapses. " + SPREAD_OUT,
    ),
    (
        r"embeddings/(.+)/uniformity",
        lambda uniformity: uniformity > SPREAD,
        "all vectors of {of} lie in one place (uniformity {value:.2f}; unrelated ones: -4): collapse. " + SPREAD_OUT,
    ),
    (
        r"embeddings/(.+)/positive",
        lambda cosine: cosine < 0,
        "what belongs together in {of} points apart (mean cosine {value:.2f}). See that data.train.modalities pairs "
        "the right members.",
    ),
)
LIMITED = (
    "the temperature of {of} is at its limit of {least:g}. That is usual late in long runs, as long as the loss falls; "
    "where it does not, pairs may be noisy: raise temperature.min, or let the temperature be a number."
)
GUESSING = (
    "the loss of {of} is {loss:.3f}, and guessing among {rows} rows gives ln {rows} = {chance:.3f}: nothing is "
    "learned. See that pairs belong together (mmcl data check), try a larger and a smaller optimizer.lr, and look "
    "at the norm of the gradient."
)


class Signs:
    """What a person should look at, said once each and kept in the run folder.

    Args:
        run: where they are kept, a JSON object a line.
        recipe: of the run.
        titles: of the objective's terms.
        step: that the run goes on from.
    """

    def __init__(self, run: Run, recipe: Recipe, titles: list[str], step: int) -> None:
        self.path, self.recipe = run.warnings, recipe
        self.terms = dict(zip(titles, recipe.objective, strict=True))
        lines = cut_back(self.path, step)
        self.said = {json.loads(line)["about"] for line in lines}

    def new(self, row: Row) -> list[str]:
        """Those of a row that were not said before; they are kept."""
        if row["step"] < min(max(SETTLING * self.recipe.steps, LEAST), MOST):
            return []
        found = dict(signs(row, self.terms, self.recipe.data.batch_size))
        new = {about: text for about, text in found.items() if about not in self.said}
        self.said |= set(new)
        if new:
            with self.path.open("a", encoding="utf-8") as file:
                lines = ({"step": row["step"], "about": about, "warning": text} for about, text in new.items())
                file.writelines(f"{json.dumps(line)}\n" for line in lines)
        return list(new.values())


def signs(row: Row, terms: Mapping[str, LineSpec], rows: int) -> Iterator[tuple[str, str]]:
    """What a number is a sign of: its name, and what to do.

    Args:
        row: of the metrics.
        terms: of the objective, by title.
        rows: of a batch.
    """
    for name, value in row.items():
        for pattern, is_one, text in GEOMETRY:
            if (match := re.fullmatch(pattern, name)) and is_one(value):
                yield name, text.format(of=match[1], value=value)
    for title, term in terms.items():
        if isinstance(term, TermSpec):
            yield from _of_term(title, term, row, rows)


def _of_term(title: str, term: TermSpec, row: Row, rows: int) -> Iterator[tuple[str, str]]:
    temperature, loss = row.get(f"temperature/{title}", math.inf), row.get(f"loss/{title}", 0.0)
    spec, chance = term.temperature, math.log(rows)
    if spec is not None and spec.learn and temperature <= LIMIT * spec.min:
        yield f"temperature/{title}", LIMITED.format(of=title, least=spec.min)
    if term.contrast.name == "softmax" and loss >= CHANCE * chance:
        yield f"loss/{title}", GUESSING.format(of=title, loss=loss, rows=rows, chance=chance)
