"""One run: batches to the learner, with rows of metrics, checkpoints and measurements on the way."""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext

import torch
from torch import Tensor

from mmcl import checkpoints, distributed, effects, marks
from mmcl.data import Stream
from mmcl.errors import MmclError
from mmcl.model import Encoder, MultiTower
from mmcl.recipe import Recipe
from mmcl.runs import Run, beginnings
from mmcl.training import checks, state, tracking
from mmcl.training.bad_samples import BadSamples, in_words
from mmcl.training.learner import Learner
from mmcl.training.progress import ProgressLine, Row
from mmcl.training.window import Window
from mmcl.types import modality_of

Evaluate = Callable[[Encoder], dict[str, float]]
"""What measures the model: metric -> number."""


class Trainer:
    """Trains the recipe of a run folder.

    The stream is not handed to accelerate, which would shard it: it knows its processes itself.

    Args:
        recipe: what to do.
        run: where to leave it.
        evaluate: measures the model, on every process at once.
        resume: go on from the newest whole checkpoint.

    Raises:
        MmclError: shards, or processes that were asked for, are missing.
    """

    def __init__(self, recipe: Recipe, run: Run, evaluate: Evaluate, resume: bool = False) -> None:
        self.recipe, self.run, self.evaluate = recipe, run, evaluate
        tracking.check_installed(recipe.training.trackers)
        self.notes = [*checks.check_processes(recipe), *effects.late(recipe.objective, recipe.steps)]
        checkpoint = checkpoints.latest(run.checkpoints) if resume else None
        self.begins = checkpoint is None
        self.learner = Learner(recipe, load=self.begins)
        self.notes += beginnings(self.model) if self.begins else []
        self.stream = make_stream(recipe, self.model)
        self.bad = BadSamples(run.bad_samples, recipe.data.max_bad)
        self.seconds, self.epoch = 0.0, 0
        if checkpoint is not None:
            self._restore(checkpoint)
        elif resume:
            self.notes.append(f"{run.path} has no checkpoint to resume from; the run starts from the beginning")
            run.bad_samples.unlink(missing_ok=True)
        self._samples_logged = self.stream.samples_seen

    @property
    def model(self) -> MultiTower:
        """The towers."""
        return self.learner.model

    @property
    def step(self) -> int:
        """Steps of the optimizer that are done."""
        return self.learner.step

    def train(self) -> dict[str, float]:
        """Run to the end and measure.

        Returns:
            The tasks' numbers, the ``samples`` and ``seconds`` of training, and whether an average was measured.
        """
        main = distributed.rank() == 0
        with ExitStack() as stack:
            self.progress = stack.enter_context(ProgressLine(self.recipe.steps, self.step, show=main))
            rows = tracking.tracked(self.recipe, self.run, self.step, self.progress.say) if main else nullcontext()
            self.metrics = stack.enter_context(rows)
            for note in self.notes:
                self.progress.say(note)
            results = self._loop()
            self._say_bad("at the end", self.stream.samples_seen)
        numbers = {
            **results,
            "train/samples": self.stream.samples_seen,
            "train/seconds": round(self.seconds, 2),
        }
        ema = self.recipe.training.ema
        return numbers if ema is None else {**numbers, "train/measured_ema": ema.evaluate}

    def _loop(self) -> dict[str, float]:
        training, steps = self.recipe.training, self.recipe.steps
        window = Window(self.step)
        results: dict[str, float] | None = None
        batches = iter(self.stream)
        while self.step < steps:
            seen = self.stream.samples_seen
            with marks.part("data"):
                batch = next(batches)
            if batch.epoch != self.epoch:  # on all processes in the same step
                self._say_bad(f"epoch {self.epoch} ended", seen)
                self.epoch = batch.epoch
            out = self.learner.backward(batch, look=self._logged(self.step + 1))
            self.bad.note(batch, self.step)
            window.add(out, self.learner.update())
            self.progress.advance(self.step)
            measure = self.step == steps or _due(self.step, training.eval_every_steps)
            save = self.step == steps or _due(self.step, training.checkpoint_every_steps)
            if self._logged(self.step):
                self._log(self._row(window))
                if save:  # before measuring, which may fail
                    self._save()
                if measure:
                    results = self._measure()
                window = Window(self.step)
        return results if results is not None else self._measure()

    def _logged(self, step: int) -> bool:
        """Whether a step has a row. A checkpoint's has: a run that goes on from it has the rows of an unbroken one."""
        training = self.recipe.training
        every = (training.log_every_steps, training.eval_every_steps, training.checkpoint_every_steps)
        return step == self.recipe.steps or any(_due(step, steps) for steps in every)

    def _measure(self) -> dict[str, float]:
        """Numbers of the tasks; the row of this step takes them up, and says whether they are the average's."""
        spec, average, model = self.recipe.training.ema, self.learner.average, self.model
        if average is not None and spec is not None and spec.evaluate:
            model = average.model
        results = self.evaluate(Encoder(model, self.learner.device))
        if self.metrics is not None:
            self.metrics.extend_last(results if spec is None else {**results, "measured_ema": spec.evaluate})
        return results

    def _row(self, window: Window) -> Row:
        """The numbers of the steps since the last row. Only steps that are logged make the host wait for the device."""
        learner = self.learner
        mine = torch.tensor([float(self.bad.counts.total()), float(self.bad.rows)], device=learner.device)
        sums = distributed.total(torch.cat([torch.stack(list(window.sums.values())), mine])).tolist()
        *sums, bad_samples, bad_rows = sums
        means = {name: value / window.counts[name] for name, value in zip(window.sums, sums, strict=True)}
        seconds = time.perf_counter() - window.start
        self.seconds += seconds
        for name, value in means.items():
            if not math.isfinite(value):
                raise MmclError(
                    f"step {self.step}: {name} is {value}. The newest checkpoint is from before; lower optimizer.lr, "
                    "set training.clip_norm, or raise the temperature's min, and resume."
                )
        done = self.step - window.first
        samples, self._samples_logged = self.stream.samples_seen - self._samples_logged, self.stream.samples_seen
        self.bad.judge(round(bad_rows), samples, self.step, last=self.step == self.recipe.steps)
        return {
            "step": self.step,
            "samples": self.stream.samples_seen,
            **means,
            **{f"temperature/{name}": t.item() for name, t in learner.objective.temperatures(self.step - 1).items()},
            **_finite(learner.seen),
            "grad_norm": float(window.norm) / done,
            "lr": learner.lr,
            "bad_samples": round(bad_samples),
            "samples_per_second": samples / seconds,
            "seconds_per_step": seconds / done,
            "seconds": self.seconds,
        }

    def _log(self, row: Row) -> None:
        if self.metrics is not None:
            self.metrics.write(row)
        self.progress.row(row)

    def _say_bad(self, when: str, samples: int) -> None:
        """What could not be used so far, on all processes."""
        totals = self.bad.totals()
        dropped = f"; {self.stream.dropped} samples left out as incomplete batches" if self.stream.dropped else ""
        if totals or dropped:
            self.progress.say(
                f"{when}: {samples:,} samples; not usable: {in_words(totals)}{dropped}; see {self.run.bad_samples}"
            )

    def _save(self) -> None:
        files, known = state.taken(self.learner)
        known |= {
            "seconds": self.seconds,
            "bad": self.bad.state(),
            "reading": self._reading,
            "epoch": self.epoch,
            "data": self.stream.state(),
        }
        if distributed.rank() == 0:
            checkpoints.write(self.run.checkpoints, self.step, files, known, self.recipe.training.keep_checkpoints)
        distributed.barrier()

    @property
    def _reading(self) -> list[list[object]]:
        """How samples are read, which may be corrected when a run goes on."""
        return [[source.modalities, source.extras, source.optional] for source in self.recipe.data.sources]

    def _restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        self.notes += state.give(self.learner, checkpoint)
        known = checkpoint.state
        self.stream.restore(known["data"])
        self.seconds, self.epoch = known["seconds"], known["epoch"]
        self.bad.restore(known["bad"], self.step, corrected=known["reading"] != self._reading)


def make_stream(recipe: Recipe, model: MultiTower) -> Stream:
    """The batches of a run, prepared as its towers want them."""
    transforms = model.transforms(train=True)
    return Stream(
        recipe.data.sources,
        batch_size=recipe.data.batch_size,
        seed=recipe.seed,
        workers=recipe.data.workers,
        endless=True,
        last_batch=recipe.data.last_batch,
        cache=recipe.data.cache.open,
        transforms={m: transforms[modality_of(m)] for m in recipe.data.modalities},
        copies=recipe.data.copies,
    )


def _finite(values: dict[str, Tensor]) -> Row:
    """Numbers of the device; what is none, because nothing is there to be measured, is left out."""
    numbers = torch.stack([value.float() for value in values.values()]).tolist() if values else []
    return {name: value for name, value in zip(values, numbers, strict=True) if math.isfinite(value)}


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
