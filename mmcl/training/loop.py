"""One run: batches to the learner, with rows of metrics, checkpoints and measurements on the way."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from mmcl import checkpoints, distributed, effects, marks
from mmcl.data import Stream
from mmcl.errors import MmclError, StoppedError
from mmcl.model import Encoder, MultiTower
from mmcl.recipe import Recipe
from mmcl.runs import Run, beginnings
from mmcl.stops import Stops, called
from mmcl.training import checks, state, tracking
from mmcl.training.bad_samples import BadSamples, in_words
from mmcl.training.collapse import Signs
from mmcl.training.learner import Learner
from mmcl.training.progress import ProgressLine, Row
from mmcl.training.saving import Best, Saving, first_process, is_due, newest, writing
from mmcl.training.validation import Validation
from mmcl.training.window import Found, Window, broken_in_words
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
        checkpoint = checkpoints.latest(run.checkpoints) if resume else None
        if resume and checkpoint is None and (damaged := checkpoints.listed(run.checkpoints)):
            names = ", ".join(path.name for path in damaged)
            raise MmclError(
                f"{run.path}: none of its checkpoints is whole ({names}). Begin anew in another folder with run=DIR, "
                "or remove them to begin anew here."
            )
        self.begins = checkpoint is None
        self.learner = Learner(recipe, load=self.begins)  # from here on processes know of one another
        checks.check_agreed(run.path, None if checkpoint is None else checkpoint.path.name)
        self.notes = [*checks.check_processes(recipe), *effects.late(recipe.objective, recipe.steps)]
        self.notes += beginnings(self.model) if self.begins else []
        self.stream = make_stream(recipe, self.model)
        self.validation = Validation(recipe, self.model) if recipe.data.held_out else None
        self.bad = BadSamples(run.bad_samples, recipe.data.max_bad)
        self.saving = Saving(run, recipe.training)
        self.seconds, self.epoch, self.skipped = 0.0, 0, 0
        self.postponed = False  # a checkpoint, until a step is taken again
        self.window = Window(0, 0, self.learner.device)
        if checkpoint is not None:
            self._restore(checkpoint)
        elif resume:
            self.notes.append(f"{run.path} has no checkpoint to resume from; the run starts from the beginning")
        if self.step > recipe.steps:
            self.notes.append(f"the run has {self.step} steps already, more than the {recipe.steps} that are asked for")

    @property
    def model(self) -> MultiTower:
        """The towers."""
        return self.learner.model

    @property
    def step(self) -> int:
        """Steps of the optimizer that are done."""
        return self.learner.step

    def train(self, stops: Stops | None = None) -> dict[str, float]:
        """Run to the end and measure.

        Args:
            stops: what hears signals already; unless told, they are heard from here on.

        Returns:
            The tasks' numbers, the ``samples`` and ``seconds`` of training, and whether an average was measured.

        Raises:
            MmclError: something is wrong that a person can mend; the newest checkpoint stays.
            StoppedError: a signal asked for the end; all is saved.
        """
        with ExitStack() as stack:
            stops = stops or stack.enter_context(Stops())
            line = ProgressLine(self.recipe.steps, self.step, show=distributed.rank() == 0)
            self.progress = stack.enter_context(line)
            rows = self._begin(stack)
            try:
                results = self._loop(stops, rows[-1] if rows else {})
            except RuntimeError as error:
                if distributed.of_a_lost_process(error):
                    raise MmclError(self._lost(error)) from None
                raise
            self._say_bad("at the end", self.stream.samples_seen)
        numbers = {
            **results,
            "train/samples": self.stream.samples_seen,
            "train/seconds": round(self.seconds, 2),
        }
        if self.best.step is not None:
            numbers |= {"train/best_step": self.best.step, "train/best": self.best.value}
        if self.best.settled:
            numbers |= {"train/ended_by_patience": True}
        ema = self.recipe.training.ema
        return numbers if ema is None else {**numbers, "train/measured_ema": ema.evaluate}

    def _begin(self, stack: ExitStack) -> list[Row]:
        """Open the files of the run, cut back to the step from which it goes on; the rows that are left."""
        self.metrics = self.signs = None
        say, titles = self.progress.say, self.learner.objective.titles
        with first_process(self.run, self.step) as first:
            if first:
                self.metrics = stack.enter_context(tracking.tracked(self.recipe, self.run, self.step, say))
                self.signs = Signs(self.run, self.recipe, titles, self.step)
                self.bad.begin(self.step)
        rows = distributed.collect(self.metrics.rows() if self.metrics is not None else [])[0]
        if self.window.first > (rows[-1]["step"] if rows else 0):
            self.notes.append(f"{self.run.metrics} lacks rows up to step {self.window.first}, which are lost")
        self.best = Best(self.run, self.recipe.training, rows)
        for note in self.notes:
            say(note)
        return rows

    def _loop(self, stops: Stops, last: Row) -> dict[str, float]:
        """Steps to the end; returns the numbers of the last evaluation.

        Args:
            stops: what hears signals.
            last: row of the steps before, where there are any.
        """
        steps, stops.training = self.recipe.steps, True
        results: dict[str, float] | None = None
        batches, agreement = iter(self.stream), distributed.Agreement(2)
        if self._measured(self.step) and (last.get("step") != self.step or "evaluated" not in last):
            results = self._measure()  # which the run was stopped before
        while self.step < steps and not self.best.settled:
            stop, save = agreement.on(stops.heard, self.saving.wanted())
            before = self.stream.samples_seen
            with marks.part("data"):
                batch = next(batches)
            if batch.epoch != self.epoch:  # on all processes in the same step
                self._say_bad(f"epoch {self.epoch} ended", before)
                self.epoch = batch.epoch
            self.learner.backward(batch, look=self._logged(self.step + 1))
            with writing(self.run, self.step):
                self.bad.note(batch, self.step)
            self.window.add(self.learner.update(), self.step)
            self.progress.advance(self.step)
            if self._logged(self.step):
                self._log()
            due = self.saving.due(self.step, before, self.stream.samples_seen) or self.saving.agreed(save)
            now = bool(stop) or self.step == steps or (self._measured(self.step) and self.best.spec is not None)
            if due or now or self.postponed:  # before measuring, which may fail
                with self.window.resting():
                    self._save(now)
            if stop and self.step < steps:
                agreement.end()
                raise StoppedError(
                    f"{called(stop)}: stopped after step {self.step} of {steps}, which is saved. Go on with: "
                    f"mmcl train {self.run.path} --resume"
                )
            if self._measured(self.step):
                results = self._measure()
        if self.best.settled and self.step < steps:
            self.progress.say(
                f"training.best: {self.best.without} evaluations in a row brought nothing better than step "
                f"{self.best.step}; the run ends at step {self.step} of {steps}"
            )
        agreement.end()
        return results if results is not None else self._measure()

    def _logged(self, step: int) -> bool:
        """Whether a step has a row."""
        training = self.recipe.training
        return is_due(step, training.log_every_steps) or self._measured(step)

    def _measured(self, step: int) -> bool:
        """Whether the tasks are measured after a step."""
        return step == self.recipe.steps or (step > 0 and is_due(step, self.recipe.training.eval_every_steps))

    def _measure(self) -> dict[str, float]:
        """Numbers of the tasks; the row of this step takes them up, and says whether they are the average's."""
        spec, average, model = self.recipe.training.ema, self.learner.average, self.model
        if average is not None and spec is not None and spec.evaluate:
            model = average.model
        encoder = Encoder(model, self.learner.device)
        more = {} if spec is None else {"measured_ema": spec.evaluate}
        with self.window.resting():
            with self.learner.opened(model):
                results = self.evaluate(encoder)
            results |= self.validation(self.learner, model, self.progress.say) if self.validation is not None else {}
            with first_process(self.run, self.step):
                if self.metrics is not None:
                    step = {"step": self.step, "samples": self.stream.samples_seen}
                    self.metrics.extend({**step, **results, **more})
            self.best.meet(self.step, results)
        return results

    def _log(self) -> None:
        """Write the row of the steps since the last one, and begin anew."""
        found, window = self._look(), self.window
        self.window = Window(self.step, self.stream.samples_seen, self.learner.device, window.streak)
        self.skipped += found.skipped
        if found.skipped:
            where = broken_in_words(found.broken)
            self.progress.say(f"step {found.step}: {where}; steps left out since the last row: {found.skipped}")
        row = self._row(window, found)
        self.progress.row(row)
        with first_process(self.run, self.step):
            if self.metrics is not None and self.signs is not None:
                self.metrics.write(row)
                for warning in self.signs.new(row):
                    self.progress.say(f"step {self.step}: warning: {warning}")

    def _look(self) -> Found:
        """Read the window, for which the host waits for the device.

        Raises:
            MmclError: too many steps in a row were broken.
        """
        found = self.window.read()
        if found.streak > self.recipe.training.skip_nonfinite:
            allowed = self.recipe.training.skip_nonfinite
            raise MmclError(
                f"step {found.step}: {broken_in_words(found.broken)}. Steps in a row that were left out: "
                f"{found.streak}; training.skip_nonfinite allows {allowed}. They changed no weights. "
                f"{newest(self.run)}: lower optimizer.lr, set training.clip_norm, or train in fp32, and resume with "
                "the changed recipe."
            )
        return found

    def _row(self, window: Window, found: Found) -> Row:
        learner = self.learner
        mine = torch.tensor([float(self.bad.counts.total()), float(self.bad.rows)], device=learner.device)
        bad_samples, bad_rows = (round(number) for number in distributed.total(mine).tolist())
        done, samples, seconds = self.step - window.first, self.stream.samples_seen - window.samples, window.seconds
        self.seconds += seconds
        self.bad.judge(bad_rows, samples, self.step, last=self.step == self.recipe.steps)
        temperatures = learner.objective.temperatures(self.step - 1)
        return {
            "step": self.step,
            "samples": self.stream.samples_seen,
            **found.means,
            **{f"temperature/{name}": t.item() for name, t in temperatures.items()},
            **_finite(learner.seen),
            "lr": learner.lr,
            "bad_samples": bad_samples,
            "skipped_steps": self.skipped,
            "samples_per_second": samples / seconds,
            "seconds_per_step": seconds / done,
            "seconds": self.seconds,
        }

    def _say_bad(self, when: str, samples: int) -> None:
        """What could not be used so far, on all processes."""
        totals = self.bad.totals()
        dropped = f"; {self.stream.dropped} samples left out as incomplete batches" if self.stream.dropped else ""
        if totals or dropped:
            self.progress.say(
                f"{when}: {samples:,} samples; not usable: {in_words(totals)}{dropped}; see {self.run.bad_samples}"
            )

    def _save(self, now: bool) -> None:
        """Leave a checkpoint, which takes a good one's place: amid steps that are left out only if it must be now."""
        self.postponed = self._look().open and not now
        if self.postponed:
            return
        files, known = state.taken(self.learner)
        known |= {
            "seconds": self.seconds,
            "skipped": self.skipped,
            "bad": self.bad.state(),
            "reading": self._reading,
            "epoch": self.epoch,
            "window": self.window.state(),
            "data": self.stream.state(),
        }
        self.saving.write(self.step, files, known, self.best.step)

    @property
    def _reading(self) -> list[list[object]]:
        """How samples are read, which may be corrected when a run goes on."""
        return [[source.modalities, source.extras, source.optional] for source in self.recipe.data.sources]

    def _restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        self.notes += state.give(self.learner, checkpoint)
        known: dict[str, Any] = checkpoint.state
        self.stream.restore(known["data"])
        self.seconds, self.epoch, self.skipped = known["seconds"], known["epoch"], known["skipped"]
        self.bad.restore(known["bad"], corrected=known["reading"] != self._reading)
        self.window.restore(known["window"])

    def _lost(self, error: RuntimeError) -> str:
        """What to say where another process is gone."""
        return (
            f"step {self.step}: another process of this run is gone, so that this one cannot go on; what ended it is "
            f"in its own output. {newest(self.run)}; go on with: mmcl train {self.run.path} --resume. (torch says: "
            f"{str(error).strip().splitlines()[0][:200]})"
        )


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
        batches=recipe.data.batches,
    )


def _finite(values: dict[str, Tensor]) -> Row:
    """Numbers of the device; what is none, because nothing is there to be measured, is left out."""
    numbers = torch.stack([value.float() for value in values.values()]).tolist() if values else []
    return {name: value for name, value in zip(values, numbers, strict=True) if math.isfinite(value)}
