"""The objective on samples that nothing is trained on: the validation loss."""

from collections.abc import Iterator

from mmcl import distributed
from mmcl.data import Stream
from mmcl.errors import MmclError
from mmcl.losses.objective import titles
from mmcl.model import MultiTower
from mmcl.recipe import Recipe
from mmcl.training.learner import Learner
from mmcl.training.window import Window
from mmcl.types import modality_of

NAME = "validation"


class Validation:
    """The loss of the samples in `data.validation`, in batches like those of training, so that both can be compared.

    Batches have the size of training's and are the same ones each time; what does not fill the last one is left out,
    since the loss of a contrast depends on the number of rows. Samples are prepared as in evaluation, and not mixed.
    Terms have the weights of the next step; their memories (queues, averages of samples) are looked at and stay.

    Args:
        recipe: says the samples.
        model: says how they are prepared.

    Raises:
        MmclError: shards are missing, or have fewer samples than a batch.
    """

    def __init__(self, recipe: Recipe, model: MultiTower) -> None:
        data, transforms = recipe.data, model.transforms(train=False)
        self.stream = Stream(
            data.held_out,
            batch_size=data.batch_size,
            seed=recipe.seed,
            workers=data.workers,
            last_batch="drop",
            cache=data.cache.open,
            transforms={m: transforms[modality_of(m)] for m in data.modalities},
            copies=data.copies,
            batches=data.batches,
        )
        self._start = self.stream.state()
        if self.stream.samples < data.batch_size:
            raise MmclError(
                f"data.validation: {self.stream.samples} samples are fewer than the {data.batch_size} of a batch, and "
                "the loss of smaller batches could not be compared with that of training. Hold out more samples."
            )

    def __call__(self, learner: Learner, model: MultiTower) -> dict[str, float]:
        """`validation/loss`, that of each term, how many samples they are of, and what of them could not be used.

        A collective.

        Args:
            learner: its objective.
            model: its towers, or their average.
        """
        self.stream.restore(self._start)
        window, samples, bad = Window(0, 0, learner.device), 0, 0
        for number, batch in enumerate(self.stream, 1):
            window.add(learner.judge(batch, model), number)
            samples += batch.size
            bad += len(batch.bad)
        found = window.read()
        failed = {"bad_samples": sum(distributed.collect(bad)), "broken_batches": found.skipped}
        numbers = {**found.means, "n": samples, **{name: count for name, count in failed.items() if count}}
        return {f"{NAME}/{name}": number for name, number in numbers.items()}


def metrics(recipe: Recipe) -> Iterator[str]:
    """Numbers by which a checkpoint may be the best one, the smaller the better."""
    if recipe.data.held_out:
        yield f"{NAME}/loss"
        yield from (f"{NAME}/loss/{title}" for title in titles(recipe.objective))
