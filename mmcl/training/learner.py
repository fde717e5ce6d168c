"""What learns, and one step of it: batch -> towers -> gather -> objective -> gradients -> optimizer."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import torch
from accelerate.utils import AutocastKwargs
from torch import Tensor, nn

from mmcl import distributed
from mmcl.losses import LossOutput, Objective, diagnostics, gradient_norms
from mmcl.model import MultiTower, embedded, present_rows
from mmcl.recipe import Recipe
from mmcl.runs import build_model
from mmcl.training import checks, mixing
from mmcl.training.average import Average
from mmcl.training.chunks import Chunks
from mmcl.training.compiling import compile_
from mmcl.training.devices import make_accelerator, sharding, unsharded_environment
from mmcl.training.record import gathered, placed
from mmcl.training.sharding import Sharded, apart_, clip_, opened, shard_, total_norm
from mmcl.types import Batch


class Learner:
    """Towers, objective, optimizer, and the average of the towers where the recipe asks for one.

    The towers are wrapped by accelerate (DDP on several processes), or their weights are sharded (`Sharded`); the
    objective is neither: with cached gradients DDP would reduce its parameters wrongly, so the step averages their
    gradients itself. The schedule is not handed to accelerate, which would step it once a process.

    Args:
        recipe: what to build.
        load: bring the weights that the recipe names; otherwise a checkpoint brings them.

    Raises:
        MmclError: nothing would learn, or processes or devices do not fit the recipe.
    """

    def __init__(self, recipe: Recipe, load: bool = True) -> None:
        self.recipe = recipe
        with unsharded_environment():
            self.accelerator = make_accelerator(recipe.training.precision)
            self.model = build_model(recipe, load=load)
        self.device, self.sharding = self.accelerator.device, sharding()
        self.names, self.averaged = recipe.names, recipe.averaged
        checks.check_learning(self.model)
        checks.check_copies(recipe, self.model)
        checks.check_mixing(recipe, self.model)
        checks.check_sharding(recipe, self.sharding)
        self.objective = Objective(recipe.objective, recipe.dim).to(self.device)
        self.average: Average | None = None
        self.towers = self._wrapped()
        if recipe.training.compile:  # last, since copies would go on with what was compiled for the towers
            for model in [self.model] if self.average is None else [self.model, self.average.model]:
                compile_(model)
        optimizer, self.schedule = recipe.optimizer.build(), recipe.schedule.build()
        self.lr = self.base_lr = optimizer.lr
        self.optimizer: torch.optim.Optimizer
        parameters = optimizer.over([self.model, self.objective], self.model.lr_factors())
        self.optimizer = self.accelerator.prepare(apart_(parameters))
        self.step = 0
        self.seen: dict[str, Tensor] = {}  # of the last step that was looked at
        torch.manual_seed(recipe.seed * 1_000_003 + distributed.rank())  # dropout differs between processes

    def _wrapped(self) -> nn.Module:
        """The towers as the backward pass needs them, on the device; their average beside them."""
        ema = self.recipe.training.ema
        if self.sharding is None:
            self.model.to(self.device)
            self.average = None if ema is None else Average(self.model, ema)
            return self.accelerator.prepare(self.model)
        if ema is not None:  # before the weights are sharded: sharded modules cannot be copied
            self.average = Average(self.model, ema)
            shard_(self.average.model, self.device, self.sharding.reshard)
        # its cache would keep copies of all weights, which are let go of one after another
        uncached = partial(self.accelerator.autocast, AutocastKwargs(cache_enabled=False))
        return Sharded(self.model, self.device, self.sharding.reshard, uncached)

    def opened(self, model: MultiTower) -> AbstractContextManager[None]:
        """The towers, or their average, in which each process embeds what it likes; a collective."""
        return nullcontext() if self.sharding is None else opened(model, self.sharding.reshard)

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
        out = self.objective(embeddings)
        if look:
            self.seen = {f"embeddings/{name}": value for name, value in diagnostics(embeddings).items()}
            norms = gradient_norms(self.objective, embeddings)
            self.seen |= {f"grad_norm/{name}": value for name, value in norms.items()}
        # partial losses sum to the loss, but DDP averages their gradients
        self.accelerator.backward(out.total * distributed.world_size())
        if chunks is not None:
            del embeddings  # or they would lie beside a chunk's activations
            chunks.backward()
        if isinstance(self.towers, Sharded):
            self.towers.close()
        distributed.average_gradients(self.objective.parameters_at(self.step))
        return out

    def _chunks(self, batch: Batch, rows: dict[str, Tensor]) -> Chunks | None:
        """What brings the batch through the towers a few samples at a time; None where all of it goes at once."""
        size = self.recipe.training.chunk
        if size is None or size >= self.recipe.data.batch_size:  # the same on all processes
            return None
        unshared = partial(self.accelerator.no_sync, self.towers)
        longest = distributed.share(batch.size, 0, distributed.world_size())[1]
        parts = None if self.sharding is None else math.ceil(longest / size)
        return Chunks(self.model, self.towers, rows, batch, size, self.accelerator.autocast, unshared, parts)

    def _mix_(self, batch: Batch, rows: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Mix rows before the towers; partners and weights of this process's rows, for their targets."""
        found, whole = {}, dict(rows)
        for name, spec in self.recipe.data.mix.items():
            present = batch.present[name]
            drawn = mixing.draw(spec, name, present, batch.offset, self.recipe.seed, self.step)
            weight = torch.ones(len(batch))
            matter = None
            if spec.by is not None:
                with self.opened(self.model), self.accelerator.autocast():
                    if name in rows and spec.by in whole:
                        matter = mixing.matters(self.model, whole, batch.present, name, spec.by)
            if name in rows:
                rows[name], weight = mixing.mixed(spec, rows[name], drawn, present, matter)
            found[name] = drawn.partner, weight
        return found

    def _extras(self, batch: Batch, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is known of this process's rows: by the data, and by the average of the towers."""
        extras = {name: batch[name].to(self.device, non_blocking=True) for name in self.recipe.data.extras}
        if self.averaged:
            assert self.average is not None
            with self.opened(self.average.model), self.accelerator.autocast():
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
        if self.sharding is not None:
            gradients = [p.grad for p in parameters if p.grad is not None]
            norm = total_norm(gradients)
            if limit is not None:
                clip_(gradients, limit, norm)
            return norm
        if limit is not None:
            norm = self.accelerator.clip_grad_norm_(parameters, limit)
            assert norm is not None
            return norm
        self.accelerator.unscale_gradients(self.optimizer)
        return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
