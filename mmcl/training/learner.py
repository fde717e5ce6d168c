"""What learns, and one step of it: batch -> towers -> gather -> objective -> gradients -> optimizer."""

import math
from collections import defaultdict
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from accelerate.utils import AutocastKwargs
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmcl import distributed, marks
from mmcl.losses import LossOutput, Objective, diagnostics, gradient_norms
from mmcl.model import MultiTower, embedded, embedded_in_parts, evaluating, present_rows
from mmcl.recipe import Recipe
from mmcl.runs import build_model
from mmcl.training import checks, mixing
from mmcl.training.average import Average
from mmcl.training.chunks import Chunks
from mmcl.training.compiling import compile_
from mmcl.training.devices import make_accelerator, sharding, unsharded_environment
from mmcl.training.optimizer_state import settings
from mmcl.training.record import gathered, placed
from mmcl.training.sharding import Sharded, apart_, clip_, opened, shard_, total_norm
from mmcl.types import Batch, Embeddings


class Outcome(NamedTuple):
    """What a step came to: numbers on the device, the same on every process."""

    names: tuple[str, ...]
    """`loss`; `loss/TERM`, without its weight; `grad_norm`, before it was clipped, and that of each tower
    (`towers/NAME/grad_norm`) and of the objective; for each column of embeddings (`vectors/NAME`) 0, or NaN where some
    of them are not finite."""
    values: Float[Tensor, " names"]
    taken: Bool[Tensor, ""]
    """Whether loss and gradient are finite; if not, weights and what else is remembered stay as they were."""


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
        checks.check_mixing(recipe, self.model, distributed.world_size())
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
        self.owners, self.settings = self._owners(), settings(self.optimizer)
        kept = self.model.state_dict().keys()
        self.buffers = {name: x for name, x in self.model.named_buffers() if name in kept}
        """What of the towers is kept and does not learn, such as the statistics of batch normalisation."""
        self._before: list[Tensor] = []  # the same, as the step began: forward passes move it
        self.step = 0
        self._losses: dict[str, Tensor] = {}  # of the step that is being made
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
        self._before = [x.clone() for x in self.buffers.values()]
        rows = present_rows(batch, self.names, self.device)
        extras, mixed = self._extras(batch, rows), self._mix_(batch, rows)
        chunks = self._chunks(batch, rows)
        vectors = embedded(self.towers, rows) if chunks is None else chunks.embed()
        embeddings = gathered(vectors, batch, self.names, self.model.dim, self.device, extras, mixed)
        embeddings = replace(embeddings, step=self.step, seed=self.recipe.seed)
        with marks.part("objective: forward"):
            out = self.objective(embeddings)
        self._losses = self._global(out, batch) | _flags(embeddings)
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
        if isinstance(self.towers, Sharded):
            self.towers.close()
        distributed.average_gradients(self.objective.parameters_at(self.step))
        return out

    @torch.no_grad()
    def judge(self, batch: Batch, model: MultiTower) -> Outcome:
        """Loss of a batch by the objective of the step that was made last; a collective.

        Nothing is learned of it, and the objective remembers nothing.

        Args:
            batch: this process's rows.
            model: the towers, or their average.
        """
        rows = present_rows(batch, self.names, self.device)
        extras = self._extras(batch, rows)
        with self.opened(model), evaluating(model), self.accelerator.autocast():
            vectors = embedded_in_parts(model, rows, self.recipe.training.chunk)
        embeddings = gathered(vectors, batch, self.names, self.model.dim, self.device, extras)
        with evaluating(self.objective):
            out = self.objective(replace(embeddings, step=max(self.step - 1, 0), seed=self.recipe.seed))
        losses = self._global(out, batch) | _flags(embeddings)
        taken = losses["loss"].isfinite()
        self.objective.after_step_(torch.zeros_like(taken))
        return Outcome(tuple(losses), torch.stack(list(losses.values())), taken)

    def _global(self, out: LossOutput, batch: Batch) -> dict[str, Tensor]:
        """The loss, and that of each term into which such a batch can bring anything, over all processes."""
        parts = out.parts
        if batch.carried is not None:  # in means over steps the others would be zeros
            about = {title for title, term in self.objective if term.spec.is_about(batch.carried, self.names)}
            parts = {title: part for title, part in parts.items() if title in about}
        local = {"loss": out.total.detach(), **{f"loss/{title}": part for title, part in parts.items()}}
        return dict(zip(local, distributed.total(torch.stack(list(local.values()))).unbind(), strict=True))

    def _chunks(self, batch: Batch, rows: dict[str, Tensor]) -> Chunks | None:
        """What brings the batch through the towers a few samples at a time; None where all of it goes at once."""
        size = self.recipe.training.chunk
        if size is None or size >= distributed.share(self.recipe.data.batch_size, 0, distributed.world_size())[1]:
            return None  # on all processes
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

    @marks.part("clip and optimizer")
    def update(self) -> Outcome:
        """One step of the optimizer, which is left out where loss or gradient are not finite.

        Nothing waits for the device where the optimizer can leave out a step there, as fused ones can.
        """
        self.lr = self.base_lr * self.schedule.factor(self.step, self.recipe.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * group["lr_factor"]
        self.accelerator.unscale_gradients(self.optimizer)
        norms = self._norms()
        limit, norm = self.recipe.training.clip_norm, norms["grad_norm"]
        if limit is not None:
            clip_([p.grad for own in self.owners.values() for p in own if p.grad is not None], limit, norm)
        scaled = self.accelerator.scaler is not None  # which looks at gradients alone
        taken = norm.isfinite() if scaled else norm.isfinite() & self._losses["loss"].isfinite()
        self._move(taken)
        for x, before in zip(self.buffers.values(), self._before, strict=True):
            x.copy_(torch.where(taken, x, before))
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.after_step_(taken)
        if self.average is not None:  # weights that stayed move it as any others
            self.average.update(self.model)
        self.step += 1
        found = {**self._losses, **norms}
        return Outcome(tuple(found), torch.stack([value.float() for value in found.values()]), taken)

    def _move(self, taken: Tensor) -> None:
        """Let the optimizer step, or not."""
        optimizer: Any = getattr(self.optimizer, "optimizer", self.optimizer)  # inside accelerate's
        if self.accelerator.scaler is not None:
            self.optimizer.step()
        elif getattr(optimizer, "_step_supports_amp_scaling", False):  # as torch's scaler asks
            optimizer.found_inf = 1 - taken.float()
            self.optimizer.step()
            del optimizer.found_inf
        elif bool(taken):
            self.optimizer.step()

    def _owners(self) -> dict[str, list[Tensor]]:
        """What the optimizer moves, by tower and of the objective."""
        moved = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        owners = defaultdict[str, list[Tensor]](list)
        for name, parameter in self.model.named_parameters():
            if id(parameter) in moved:
                owners["/".join(name.split(".")[:2])].append(parameter)
        owners["objective"] = [p for p in self.objective.parameters() if id(p) in moved]
        return {name: parameters for name, parameters in owners.items() if parameters}

    def _norms(self) -> dict[str, Tensor]:
        """Norms of the gradient, of all and by owner."""
        norms = {}
        for name, parameters in self.owners.items():
            gradients = [p.grad for p in parameters if p.grad is not None]
            norms[f"{name}/grad_norm"] = total_norm(gradients) if gradients else torch.zeros((), device=self.device)
        return {"grad_norm": torch.stack([n.float() for n in norms.values()]).norm(), **norms}


def _flags(embeddings: Embeddings) -> dict[str, Tensor]:
    """For each column of vectors 0, or NaN where some of them are not finite."""
    return {f"vectors/{name}": 0 * x.detach().sum() for name, x in embeddings.all.items()}
