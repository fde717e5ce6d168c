"""One run: batches -> towers -> gather -> objective -> optimizer, with checkpoints and measurements on the way."""

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor

from mmcl import checkpoints, distributed, effects
from mmcl.data import Stream
from mmcl.errors import MmclError
from mmcl.losses import LossOutput, Objective, diagnostics, gradient_norms
from mmcl.model import Encoder, embedded, present_rows
from mmcl.recipe import Recipe
from mmcl.runs import Run, beginnings, build_model
from mmcl.training import checks, mixing
from mmcl.training.average import Average
from mmcl.training.bad_samples import BadSamples, in_words
from mmcl.training.chunks import Chunks
from mmcl.training.optimizer_state import remembered, restore
from mmcl.training.progress import Metrics, ProgressLine, Row
from mmcl.training.record import gathered, placed
from mmcl.types import Batch, modality_of

Evaluate = Callable[[Encoder], dict[str, float]]
"""What measures the model: metric -> number."""


class Trainer:
    """Trains the recipe of a run folder.

    The towers are wrapped by accelerate (DDP on several processes); the objective is not: with cached gradients DDP
    would reduce its parameters wrongly, so the step averages their gradients itself. Neither the stream nor the
    schedule is handed to accelerate, which would shard the one and step the other once a process.

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
        AcceleratorState._reset_state()  # or a second run in this process could not have another precision
        self.accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),  # without it, processes on CPUs would not know of one another
            mixed_precision={"fp32": "no"}.get(recipe.training.precision, recipe.training.precision),
            # modalities may be absent from one process's rows; and with this, three processes resume bit for bit
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        self.device = self.accelerator.device
        if self.accelerator.num_processes != distributed.world_size():
            raise MmclError(
                f"accelerate sees {self.accelerator.num_processes} processes where there are "
                f"{distributed.world_size()}, so gradients would not be shared. On CPUs set ACCELERATE_USE_CPU=true."
            )
        if recipe.training.precision == "fp16" and self.device.type == "cpu":
            raise MmclError("training.precision: fp16 needs a GPU, a CPU has no scaling for it; use bf16 or fp32.")
        self.notes = [*checks.check_processes(recipe), *effects.late(recipe.objective, recipe.steps)]
        checkpoint = checkpoints.latest(run.checkpoints) if resume else None
        self.begins = checkpoint is None
        self.model = build_model(recipe, load=self.begins)
        self.notes += beginnings(self.model) if self.begins else []
        self.names, self.averaged = recipe.names, recipe.averaged
        checks.check_learning(self.model)
        checks.check_copies(recipe, self.model)
        checks.check_mixing(recipe, self.model)
        transforms = self.model.transforms(train=True)
        self.stream = Stream(
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
        self.objective = Objective(recipe.objective, recipe.dim).to(self.device)
        self.model.to(self.device)
        self.average = None if recipe.training.ema is None else Average(self.model, recipe.training.ema)
        optimizer, self.schedule = recipe.optimizer.build(), recipe.schedule.build()
        self.lr = self.base_lr = optimizer.lr
        self.optimizer: torch.optim.Optimizer
        parameters = optimizer.over([self.model, self.objective], self.model.lr_factors())
        self.towers, self.optimizer = self.accelerator.prepare(self.model, parameters)
        self.step, self.seconds, self.epoch = 0, 0.0, 0
        self.seen: dict[str, Tensor] = {}  # of the last step that is logged
        self.bad = BadSamples(run.bad_samples, recipe.data.max_bad)
        torch.manual_seed(recipe.seed * 1_000_003 + distributed.rank())  # dropout differs between processes
        if checkpoint is not None:
            self._restore(checkpoint)
        elif resume:
            self.notes.append(f"{run.path} has no checkpoint to resume from; the run starts from the beginning")
            run.bad_samples.unlink(missing_ok=True)
        self._samples_logged = self.stream.samples_seen

    def train(self) -> dict[str, float]:
        """Run to the end and measure.

        Returns:
            The tasks' numbers, the ``samples`` and ``seconds`` of training, and whether an average was measured.
        """
        main = distributed.rank() == 0
        self.metrics = Metrics(self.run.metrics, self.step) if main else None
        with ProgressLine(self.recipe.steps, self.step, show=main) as self.progress:
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
        window = _Window(self.step)
        results: dict[str, float] | None = None
        batches = iter(self.stream)
        while self.step < steps:
            seen = self.stream.samples_seen
            batch = next(batches)
            if batch.epoch != self.epoch:  # on all processes in the same step
                self._say_bad(f"epoch {self.epoch} ended", seen)
                self.epoch = batch.epoch
            out = self.backward(batch)
            norm = self.update()
            window.add(out, norm)
            self.progress.advance(self.step)
            measure = self.step == steps or _due(self.step, training.eval_every_steps)
            save = self.step == steps or _due(self.step, training.checkpoint_every_steps)
            if self._logged(self.step):
                self._log(self._row(window))
                if save:  # before measuring, which may fail
                    self._save()
                if measure:
                    results = self._measure()
                window = _Window(self.step)
        return results if results is not None else self._measure()

    def _logged(self, step: int) -> bool:
        """Whether a step has a row. A checkpoint's has: a run that goes on from it has the rows of an unbroken one."""
        training = self.recipe.training
        every = (training.log_every_steps, training.eval_every_steps, training.checkpoint_every_steps)
        return step == self.recipe.steps or any(_due(step, steps) for steps in every)

    def _measure(self) -> dict[str, float]:
        """Numbers of the tasks; the row of this step takes them up, and says whether they are the average's."""
        spec, model = self.recipe.training.ema, self.model
        if self.average is not None and spec is not None and spec.evaluate:
            model = self.average.model
        results = self.evaluate(Encoder(model, self.device))
        if self.metrics is not None:
            self.metrics.extend_last(results if spec is None else {**results, "measured_ema": spec.evaluate})
        return results

    def backward(self, batch: Batch) -> LossOutput:
        """Loss of a batch, and the gradients of the global batch on every process."""
        self.model.at_step(self.step)
        rows = present_rows(batch, self.names, self.device)
        extras, mixed = self._extras(batch, rows), self._mix_(batch, rows)
        chunks = self._chunks(batch, rows)
        vectors = embedded(self.towers, rows) if chunks is None else chunks.embed()
        embeddings = gathered(vectors, batch, self.names, self.model.dim, self.device, extras, mixed)
        embeddings = replace(embeddings, step=self.step, seed=self.recipe.seed)
        out = self.objective(embeddings)
        if self._logged(self.step + 1):
            self.seen = {f"embeddings/{name}": value for name, value in diagnostics(embeddings).items()}
            norms = gradient_norms(self.objective, embeddings)
            self.seen |= {f"grad_norm/{name}": value for name, value in norms.items()}
        # partial losses sum to the loss, but DDP averages their gradients
        self.accelerator.backward(out.total * distributed.world_size())
        if chunks is not None:
            del embeddings  # or they would lie beside a chunk's activations
            chunks.backward()
        distributed.average_gradients(self.objective.parameters_at(self.step))
        self.bad.note(batch, self.step)
        return out

    def _chunks(self, batch: Batch, rows: dict[str, Tensor]) -> Chunks | None:
        """What brings the batch through the towers a few samples at a time; None where all of it goes at once."""
        size = self.recipe.training.chunk
        if size is None or size >= self.recipe.data.batch_size:  # the same on all processes
            return None
        unshared = partial(self.accelerator.no_sync, self.towers)
        return Chunks(self.model, self.towers, rows, batch, size, self.accelerator.autocast, unshared)

    def _mix_(self, batch: Batch, rows: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Mix rows before the towers; partners and weights of this process's rows, for their targets."""
        found, whole = {}, dict(rows)
        for name, spec in self.recipe.data.mix.items():
            present = batch.present[name]
            drawn = mixing.draw(spec, name, present, batch.offset, self.recipe.seed, self.step)
            weight = torch.ones(len(batch))
            if name in rows:
                matter = None
                if spec.by is not None and spec.by in whole:
                    with self.accelerator.autocast():
                        matter = mixing.matters(self.model, whole, batch.present, name, spec.by)
                rows[name], weight = mixing.mixed(spec, rows[name], drawn, present, matter)
            found[name] = drawn.partner, weight
        return found

    def _extras(self, batch: Batch, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is known of this process's rows: by the data, and by the average of the towers."""
        extras = {name: batch[name].to(self.device, non_blocking=True) for name in self.recipe.data.extras}
        if self.averaged:
            assert self.average is not None
            with self.accelerator.autocast():
                seen = {name: rows[name] for name in self.averaged if name in rows}
                vectors = self.average.embed(seen, self.recipe.training.chunk)
            known = placed(vectors, batch, self.averaged, self.model.dim, self.device).unbind(1)
            extras |= {f"ema.{name}": x for name, x in zip(self.averaged, known, strict=True)}
        return extras

    def update(self) -> Tensor:
        """One step of the optimizer; returns the norm of the gradient before it was clipped."""
        self.lr = self.base_lr * self.schedule.factor(self.step, self.recipe.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * group["lr_factor"]
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = self._clip(parameters)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if not self.accelerator.optimizer_step_was_skipped:  # fp16 skips steps whose gradients overflow
            self.objective.after_step_()
            if self.average is not None:
                self.average.update(self.model)
        self.step += 1
        return norm

    def _clip(self, parameters: list[Tensor]) -> Tensor:
        """Norm of the gradient, which is clipped where the recipe says so."""
        limit = self.recipe.training.clip_norm
        if limit is not None:
            norm = self.accelerator.clip_grad_norm_(parameters, limit)
            assert norm is not None
            return norm
        self.accelerator.unscale_gradients(self.optimizer)
        return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

    def _row(self, window: "_Window") -> Row:
        """The numbers of the steps since the last row. Only steps that are logged make the host wait for the device."""
        mine = torch.tensor([float(self.bad.counts.total()), float(self.bad.rows)], device=self.device)
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
            **{f"temperature/{name}": t.item() for name, t in self.objective.temperatures(self.step - 1).items()},
            **_finite(self.seen),
            "grad_norm": float(window.norm) / done,
            "lr": self.lr,
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
        self._check_weights()
        generators, bad = distributed.collect(_random_state()), self.bad.state()
        if distributed.rank() == 0:
            weights = {f"model.{k}": t for k, t in self.model.state_dict().items()}
            weights |= {f"objective.{k}": t for k, t in self.objective.state_dict().items()}
            weights |= {f"ema.{k}": t for k, t in self.average.state().items()} if self.average is not None else {}
            optimizer, numbers = remembered(self.optimizer)
            rng = {f"{rank}.{name}": t for rank, state in enumerate(generators) for name, t in state.items()}
            state = {
                "step": self.step,
                "seconds": self.seconds,
                "bad": bad,
                "reading": self._reading,
                "epoch": self.epoch,
                "optimizer": numbers,
                "data": self.stream.state(),
            }
            files = {"weights": weights, "optimizer": optimizer, "rng": rng}
            checkpoints.write(self.run.checkpoints, self.step, files, state, self.recipe.training.keep_checkpoints)
        distributed.barrier()

    @property
    def _reading(self) -> list[list[object]]:
        """How samples are read, which may be corrected when a run goes on."""
        return [[source.modalities, source.extras, source.optional] for source in self.recipe.data.sources]

    def _check_weights(self) -> None:
        """A checkpoint of broken weights would take the place of a good one."""
        named = [*self.model.named_parameters(), *self.objective.named_parameters()]
        finite = torch.stack([parameter.detach().isfinite().all() for _, parameter in named])
        if not finite.all():
            name = named[int((~finite).nonzero()[0, 0])][0]
            raise MmclError(
                f"step {self.step}: {name} is not finite, so no checkpoint was written. The newest one is from before; "
                "lower optimizer.lr or set training.clip_norm, and resume."
            )

    def _restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        state, weights = checkpoint.state, checkpoint.tensors("weights")
        for name, module in (("model.", self.model), ("objective.", self.objective)):
            module.load_state_dict({k.removeprefix(name): t for k, t in weights.items() if k.startswith(name)})
        averaged = {k.removeprefix("ema."): t for k, t in weights.items() if k.startswith("ema.")}
        if self.average is not None and not self.average.restore(averaged, self.model):
            self.notes.append("training.ema: the run had no average before; it begins with the weights of now")
        restore(self.optimizer, checkpoint.tensors("optimizer"), state["optimizer"])
        _restore_random_state(checkpoint.tensors("rng"), distributed.rank())
        self.stream.restore(state["data"])
        self.step, self.seconds, self.epoch = state["step"], state["seconds"], state["epoch"]
        self.bad.restore(state["bad"], self.step, corrected=state["reading"] != self._reading)
        self.notes.append(f"resumed from {checkpoint.path} at step {self.step}")


def _finite(values: dict[str, Tensor]) -> Row:
    """Numbers of the device; what is none, because nothing is there to be measured, is left out."""
    numbers = torch.stack([value.float() for value in values.values()]).tolist() if values else []
    return {name: value for name, value in zip(values, numbers, strict=True) if math.isfinite(value)}


class _Window:
    """Sums over the steps between two rows, on the device."""

    def __init__(self, step: int) -> None:
        self.first, self.start = step, time.perf_counter()
        self.sums: dict[str, Tensor] = {}
        self.counts = Counter[str]()  # a term may be switched on within the window
        self.norm: Tensor | float = 0.0

    def add(self, out: LossOutput, norm: Tensor) -> None:
        """One step."""
        parts = {f"loss/{title}": value for title, value in out.parts.items()}
        for name, value in {"loss": out.total.detach(), **parts}.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] += 1
        self.norm = self.norm + norm


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_random_state(tensors: dict[str, Tensor], rank: int) -> None:
    """This process's generators; on more processes than there were, a new one keeps its own seed."""
    if f"{rank}.cpu" in tensors:
        torch.set_rng_state(tensors[f"{rank}.cpu"])
    if f"{rank}.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors[f"{rank}.cuda"])
