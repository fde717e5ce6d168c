"""What learns, and one step of it: batch -> towers -> gather -> objective -> gradients -> optimizer."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from mmcl import distributed, marks
from mmcl.losses import LossOutput, Objective, diagnostics, gradient_norms
from mmcl.model import embedded, present_rows
from mmcl.recipe import Recipe
from mmcl.runs import build_model
from mmcl.training import checks, mixing
from mmcl.training.average import Average
from mmcl.training.chunks import Chunks
from mmcl.training.devices import make_accelerator
from mmcl.training.record import gathered, placed
from mmcl.types import Batch


class Learner:
    """Towers, objective, optimizer, and the average of the towers where the recipe asks for one.

    The towers are wrapped by accelerate (DDP on several processes); the objective is not: with cached gradients DDP
    would reduce its parameters wrongly, so the step averages their gradients itself. The schedule is not handed to
    accelerate, which would step it once a process.

    Args:
        recipe: what to build.
        load: bring the weights that the recipe names; otherwise a checkpoint brings them.

    Raises:
        MmclError: nothing would learn, or processes or devices do not fit the recipe.
    """

    def __init__(self, recipe: Recipe, load: bool = True) -> None:
        self.recipe = recipe
        self.accelerator = make_accelerator(recipe.training.precision)
        self.device = self.accelerator.device
        self.model = build_model(recipe, load=load)
        self.names, self.averaged = recipe.names, recipe.averaged
        checks.check_learning(self.model)
        checks.check_copies(recipe, self.model)
        checks.check_mixing(recipe, self.model, distributed.world_size())
        self.objective = Objective(recipe.objective, recipe.dim).to(self.device)
        self.model.to(self.device)
        self.average = None if recipe.training.ema is None else Average(self.model, recipe.training.ema)
        optimizer, self.schedule = recipe.optimizer.build(), recipe.schedule.build()
        self.lr = self.base_lr = optimizer.lr
        self.optimizer: torch.optim.Optimizer
        parameters = optimizer.over([self.model, self.objective], self.model.lr_factors())
        self.towers, self.optimizer = self.accelerator.prepare(self.model, parameters)
        self.step = 0
        self.seen: dict[str, Tensor] = {}  # of the last step that was looked at
        torch.manual_seed(recipe.seed * 1_000_003 + distributed.rank())  # dropout differs between processes

    def backward(self, batch: Batch, look: bool = False) -> LossOutput:
        """Loss of a batch, and the gradients of the global batch on every process.

        Args:
            batch: this process's rows.
            look: leave in `seen` where the embeddings lie, and which term moves them.
        """
        self.model.at_step(self.step)
        rows = present_rows(batch, self.names, self.device)
        extras, mixed = self._extras(batch, rows), self._mix_(batch, rows)
        chunks = self._chunks(batch, rows)
        vectors = embedded(self.towers, rows) if chunks is None else chunks.embed()
        embeddings = gathered(vectors, batch, self.names, self.model.dim, self.device, extras, mixed)
        embeddings = replace(embeddings, step=self.step, seed=self.recipe.seed)
        with marks.part("objective: forward"):
            out = self.objective(embeddings)
        if look:
            self.seen = {f"embeddings/{name}": value for name, value in diagnostics(embeddings).items()}
            norms = gradient_norms(self.objective, embeddings)
            self.seen |= {f"grad_norm/{name}": value for name, value in norms.items()}
        # partial losses sum to the loss, but DDP averages their gradients
        with marks.part("objective: backward"):  # until it comes to the vectors (`gathered`)
            self.accelerator.backward(out.total * distributed.world_size())
        if chunks is not None:
            del embeddings  # or they would lie beside a chunk's activations
            with marks.part("towers: backward"):
                chunks.backward()
        distributed.average_gradients(self.objective.parameters_at(self.step))
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

    @marks.part("clip and optimizer")
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
