"""The objective on samples that nothing is trained on: the validation loss."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from mmcl import distributed
from mmcl.data import Source, Stream
from mmcl.errors import MmclError
from mmcl.losses.objective import titles
from mmcl.model import MultiTower
from mmcl.recipe import Recipe
from mmcl.training.learner import Learner
from mmcl.training.window import Window, broken_in_words
from mmcl.types import Bad, Batch, modality_of

NAME = "validation"


class Validation:
    """The loss of the samples in `data.validation`, in batches like those of training, so that both can be compared.

    Batches have the size of training's and are the same ones each time, each sample once at most; what does not fill
    the last one is left out, since the loss of a contrast depends on the number of rows. Where training's batches are
    of one source each, these are as well. Samples are prepared as in evaluation, and not mixed; of modalities with
    copies as in training, by the same draws each time, since copies would be the same otherwise. Terms count as in the
    step that was made last; their memories (queues, averages of samples) are looked at and stay.

    Args:
        recipe: says the samples.
        model: says how they are prepared.

    Raises:
        MmclError: shards are missing, or have fewer samples than a batch.
    """

    def __init__(self, recipe: Recipe, model: MultiTower) -> None:
        self.recipe = recipe
        apart = recipe.data.batches == "by_source"
        with _told():
            groups = [[source] for source in recipe.data.held_out] if apart else [recipe.data.held_out]
            self.streams = [self._stream(sources, model) for sources in groups]
        self._starts = [stream.state() for stream in self.streams]

    def _stream(self, sources: Sequence[Source], model: MultiTower) -> Stream:
        data, copies = self.recipe.data, self.recipe.data.copies
        modalities = list(dict.fromkeys(m for source in sources for m in source.modalities))
        prepared = [model.transforms(train=train) for train in (False, True)]
        stream = Stream(
            sources,
            batch_size=data.batch_size,
            seed=self.recipe.seed,
            workers=data.workers,
            last_batch="drop",
            cache=data.cache.open,
            transforms={m: prepared[copies.get(m, 1) > 1][modality_of(m)] for m in modalities},
            copies={m: count for m, count in copies.items() if m in modalities},
            own_ids=NAME,
        )
        if stream.samples < data.batch_size:
            where = ", ".join(str(source.shards) for source in sources)
            raise MmclError(
                f"{where}: {stream.samples} samples are fewer than the {data.batch_size} of a batch, and the loss of "
                "smaller batches could not be compared with that of training. Hold out more samples."
            )
        return stream

    @property
    def samples(self) -> int:
        """Of all batches."""
        size = self.recipe.data.batch_size
        return sum(stream.samples // size * size for stream in self.streams)

    def __call__(self, learner: Learner, model: MultiTower, say: Callable[[str], None]) -> dict[str, float]:
        """`validation/loss`, that of each term, how many samples they are of, and what of them could not be used.

        A collective.

        Args:
            learner: its objective.
            model: its towers, or their average.
            say: takes what a person should know.

        Raises:
            MmclError: more samples than `data.max_bad` allows could not be used.
        """
        window, samples, bad = Window(0, 0, learner.device), 0, list[Bad]()
        for stream, start in zip(self.streams, self._starts, strict=True):
            with _told():
                stream.restore(start)
                for batch in stream:
                    samples += batch.size
                    window.add(learner.judge(_with_all(batch, learner.names), model), samples)
                    bad += batch.bad
        bad = [one for some in distributed.collect(bad) for one in some]
        unused = len({(one.shard, one.key) for one in bad})
        if unused:
            self._judge(bad, unused, samples, say)
        found = window.read()
        if found.skipped:
            say(f"data.validation: left out as not finite: {found.skipped} batches; {broken_in_words(found.broken)}")
        failed = {"bad_samples": unused, "broken_batches": found.skipped}
        numbers = {**found.means, "n": samples, **{name: count for name, count in failed.items() if count}}
        return {f"{NAME}/{name}": number for name, number in numbers.items()}

    def _judge(self, bad: list[Bad], unused: int, samples: int, say: Callable[[str], None]) -> None:
        first = bad[0]
        told = (
            f"data.validation: of {unused} of {samples:,} samples something could not be used, first {first.key} of "
            f"{first.shard}: {first.modality}: {first.reason} (mmcl data check tells all)"
        )
        if unused > self.recipe.data.max_bad * samples:
            raise MmclError(
                f"{told}. data.max_bad allows a share of {self.recipe.data.max_bad:g}; correct or replace the shards, "
                "and resume."
            )
        say(told)


def _with_all(batch: Batch, names: Sequence[str]) -> Batch:
    """A batch of one source in which what other sources have is absent."""
    lacking = [name for name in names if name not in batch.present]
    if not lacking:
        return batch
    absent = dict.fromkeys(lacking, torch.zeros(len(batch), dtype=torch.bool))
    return replace(batch, present={**batch.present, **absent}, carried=frozenset(batch.present))


@contextmanager
def _told() -> Iterator[None]:
    """Say of which data an error is."""
    try:
        yield
    except MmclError as error:
        said = str(error)
        raise (
            error if said.startswith(f"data.{NAME}") else MmclError(f"data.{NAME}: {said.removeprefix('data: ')}")
        ) from None


def metrics(recipe: Recipe) -> Iterator[str]:
    """Numbers by which a checkpoint may be the best one, the smaller the better: those that each evaluation gives."""
    if not recipe.data.held_out:
        return
    yield f"{NAME}/loss"
    carried = recipe.data.carried(recipe.data.held_out)
    for title, term in zip(titles(recipe.objective), recipe.objective, strict=True):
        always = term.from_step == 0 and (term.until_step is None or term.until_step >= recipe.steps)
        if always and any(term.is_about(names, recipe.names) for names in carried):
            yield f"{NAME}/loss/{title}"
