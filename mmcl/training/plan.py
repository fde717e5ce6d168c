"""What a run will be, before it is one: how long, how many operations, how much memory."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mmcl import distributed
from mmcl.data.stream import AHEAD
from mmcl.losses import Objective
from mmcl.model import MultiTower
from mmcl.recipe import Recipe
from mmcl.runs import Run
from mmcl.training import costs
from mmcl.training.saving import Saving
from mmcl.types import Embeddings, Mixed, modality_of

SAMPLED = 2048  # rows with which the memory of an objective is measured; of more, it goes on in a straight line


@dataclass(frozen=True)
class TowerPlan:
    """One tower. Operations are floating-point ones, a multiply-add being two."""

    parameters: int
    trained: int
    rows: float
    """That go through it of a sample: copies, and the share of samples whose source has the modality."""
    forward: int
    """Operations of a row's forward pass."""
    backward: int
    """Operations of a row's backward pass, with what is computed again for it."""
    training: int
    """Operations of a sample in training: all of its rows, and all passes."""


@dataclass(frozen=True)
class Plan:
    """A run in numbers."""

    run: str
    processes: int
    batch: int
    rows: int
    """Of the largest share of a batch that a process has."""
    chunk: int | None
    steps: int
    samples: int
    samples_of_an_epoch: int | None
    """None where nothing says it without reading shards."""
    epochs: float | None
    towers: dict[str, TowerPlan]
    step_operations: int
    """Of all processes."""
    memory: dict[str, int]
    """Bytes of one process, by what they are for; ``total`` is their sum."""
    activations: int
    """Bytes that lie there between the forward and the backward pass."""
    gradients: int
    """Bytes."""
    checkpoint: int
    """Bytes."""
    checkpoints: int
    kept: int
    evaluations: int
    validation: int | None
    """Held-out samples of each evaluation; None where there are none, or nobody knows how many."""


def make_plan(
    recipe: Recipe,
    model: MultiTower,
    objective: Objective,
    processes: int,
    epoch: int | None,
    validation: int | None = None,
) -> Plan:
    """The plan of a recipe.

    Args:
        recipe: what is to be run.
        model: its towers, on the meta device; they come to lie nowhere at all.
        objective: its objective, likewise.
        processes: that will train.
        epoch: samples of one, where that is known.
        validation: samples that are held out, likewise.
    """
    batch, chunk = recipe.data.batch_size, recipe.training.chunk
    rows = distributed.share(batch, 0, processes)[1]
    chunk = None if chunk is None or chunk >= rows else chunk
    at_once, per_sample = min(chunk or rows, rows), _rows_of_a_sample(recipe, model)
    forms = {m: transform.empty(1) for m, transform in model.transforms(train=True).items()}
    shares = per_sample if recipe.data.batches == "mixed" else _rows_of_a_sample(recipe, model, whole=True)
    counts = {m: max(round(shares[m] * at_once), 1) for m in forms}
    shapes = {m: (torch.Size([counts[m], *form.shape[1:]]), form.dtype) for m, form in forms.items()}
    model.at_step(recipe.steps - 1)  # by then everything learns that ever does
    with costs.pretending(model, objective):
        passes = costs.passes(model, shapes, recipe.training.precision)
        optimizer = recipe.optimizer.build().over([model, objective], model.lr_factors())
        slots, stepping = costs.optimizer_step(optimizer)
    gradients = sum(_bytes([p for p in part.parameters() if p.requires_grad]) for part in (model, objective))
    weights = _weights(model) + _weights(objective)
    average = 0 if recipe.training.ema is None else _weights(model)
    towers = {m: _tower(recipe, model, m, passes, counts[m], per_sample[m], chunk is not None) for m in forms}
    held = gradients if chunk is not None else 0  # of the chunks before
    memory = {
        "weights": weights,
        "optimizer": slots,
        "average": average,
        "passes": max(passes.peak + held, gradients + stepping),
        "sharing": gradients if processes > 1 else 0,
        "objective": _objective(recipe, batch, rows),
        "batches": (AHEAD + 2) * sum(_bytes([form]) * round(shares[m] * rows) for m, form in forms.items()),
    }
    return Plan(
        run=recipe.run,
        processes=processes,
        batch=batch,
        rows=rows,
        chunk=chunk,
        steps=recipe.steps,
        samples=recipe.steps * batch,
        samples_of_an_epoch=epoch,
        epochs=None if epoch is None else recipe.steps * batch / epoch,
        towers=towers,
        step_operations=batch * sum(tower.training for tower in towers.values()),
        memory={**memory, "total": sum(memory.values())},
        activations=passes.activations,
        gradients=gradients,
        checkpoint=weights + average + slots,
        checkpoints=_checkpoints(recipe),
        kept=recipe.training.keep_checkpoints,
        evaluations=_times(recipe.training.eval_every_steps, recipe.steps)
        if recipe.tasks or recipe.data.held_out
        else 0,
        validation=validation,
    )


def _tower(
    recipe: Recipe,
    model: MultiTower,
    modality: str,
    passes: costs.Passes,
    rows: int,
    per_sample: float,
    chunked: bool,
) -> TowerPlan:
    tower = model.tower(modality)
    sizes = [(p.numel(), p.requires_grad) for p in tower.parameters()]
    forward, backward = passes.forward[modality] // rows, passes.backward[modality] // rows
    again = 1 if chunked and passes.backward[modality] else 0  # each chunk is embedded once more
    names = [name for name in recipe.names if modality_of(name) == modality]
    averaged = sum(name in recipe.averaged for name in names) / len(names)
    looked_at = {modality_of(m) for name, mix in recipe.data.mix.items() if mix.by for m in (name, mix.by)}
    forwards = 1 + again + averaged + (modality in looked_at)
    return TowerPlan(
        parameters=sum(n for n, _ in sizes),
        trained=sum(n for n, learns in sizes if learns),
        rows=per_sample,
        forward=forward,
        backward=backward,
        training=round(per_sample * (forwards * forward + backward)),
    )


def _rows_of_a_sample(recipe: Recipe, model: MultiTower, whole: bool = False) -> dict[str, float]:
    """Rows that go through each tower, of a sample that has all that its source says it may have.

    Args:
        recipe: what says the sources.
        model: the towers.
        whole: of a sample whose source has every modality; otherwise of all sources, by their weights.
    """
    sources = recipe.data.sources
    weights = [0.0 if whole else source.weight or 0.0 for source in sources]
    rows = dict.fromkeys(model.modalities, 0.0)
    for name in recipe.names:
        base = name if any(name in source.modalities for source in sources) else modality_of(name)
        having = [base in source.modalities for source in sources]
        share = sum(w for w, has in zip(weights, having, strict=True) if has) / sum(weights) if any(weights) else 1.0
        if modality_of(name) in rows:
            rows[modality_of(name)] += share
    return rows


def _objective(recipe: Recipe, batch: int, own: int) -> int:
    """Bytes of vectors, their gradients, and what the objective makes of them, at the worst instant."""
    if batch <= SAMPLED:
        return _objective_at(recipe, batch, own)
    small, large = (_objective_at(recipe, n, max(own * n // batch, 1)) for n in (SAMPLED // 2, SAMPLED))
    return round(small + (large - small) * (batch - SAMPLED // 2) / (SAMPLED // 2))


def _objective_at(recipe: Recipe, rows: int, own: int) -> int:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vectors = {name: torch.randn(rows, recipe.dim) for name in recipe.names}
        extras = {name: torch.randn(rows, recipe.dim) for name in recipe.extras}
        everyone = torch.ones(rows, dtype=torch.bool)
        mixed = {name: Mixed(torch.arange(rows), torch.ones(rows)) for name in recipe.data.mix}
        record = Embeddings(
            local={name: x[:own] for name, x in vectors.items()},
            all=vectors,
            present=dict.fromkeys([*vectors, *extras], everyone),
            ids=torch.arange(rows),
            offset=0,
            total=lambda x: x,
            extras=extras,
            step=recipe.steps - 1,
            mixed=mixed,
        )
        return costs.objective_peak(Objective(recipe.objective, recipe.dim), record)


def _checkpoints(recipe: Recipe) -> int:
    """How many a run leaves that nobody stops, those by minutes aside."""
    saving, batch = Saving(Run(Path(recipe.run)), recipe.training), recipe.data.batch_size
    due = (saving.due(step, (step - 1) * batch, step * batch) for step in range(1, recipe.steps))
    return sum(due) + 1


def _times(every: int | None, steps: int) -> int:
    """How often something is done that is done every few steps, and at the end."""
    return 1 if every is None else -(-steps // every)


def _weights(module: nn.Module) -> int:
    return _bytes([*module.parameters(), *module.buffers()])


def _bytes(tensors: list[Tensor] | list[nn.Parameter]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
