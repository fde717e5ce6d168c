"""A plan in words."""

from collections.abc import Iterator

from mmcl.training.plan import Plan

MEMORY = {
    "weights": "weights and buffers of towers and objective",
    "optimizer": "what the optimizer keeps of each weight that learns",
    "average": "the average of the towers (training.ema)",
    "passes": "forward and backward pass",
    "sharing": "gradients once more, as processes share them",
    "objective": "vectors of the whole batch, and what the objective makes of them",
    "batches": "batches: two ahead, the one in use, its copy on the device",
    "total": "together",
}


def in_words(plan: Plan) -> str:
    """What `mmcl train --dry-run` prints."""
    return "\n".join([*_towers(plan), "", *_length(plan), "", *_memory(plan)])


def _towers(plan: Plan) -> Iterator[str]:
    yield f"{'tower':<12} {'parameters':>14} {'trained':>14}   forward a row   of a sample in training"
    for modality, tower in plan.towers.items():
        yield (
            f"{modality:<12} {tower.parameters:>14,} {tower.trained:>14,}   {operations(tower.forward):>13}"
            f"   {operations(tower.training)}"
        )
    yield f"a step: {operations(plan.step_operations)} on all processes (a multiply-add is two; the objective aside)"


def _length(plan: Plan) -> Iterator[str]:
    epochs = "epochs unknown before shards are read" if plan.epochs is None else f"{plan.epochs:.2f} epochs"
    yield f"{plan.steps:,} steps of {plan.batch:,} samples: {plan.samples:,} samples, {epochs}"
    chunk = f", {plan.chunk:,} through the towers at once" if plan.chunk else ""
    yield f"{plan.processes} process{'es' if plan.processes > 1 else ''}: {plan.rows:,} rows of a batch each{chunk}"
    kept = f", of which {min(plan.kept, plan.checkpoints)} stay" if plan.checkpoints > plan.kept else ""
    yield f"{plan.checkpoints:,} checkpoints of {size(plan.checkpoint)}{kept}; {plan.evaluations:,} evaluations"
    if plan.validation is not None:
        batches = plan.validation // plan.batch
        yield f"validation: {plan.validation:,} samples in {batches:,} batches with each evaluation"


def _memory(plan: Plan) -> Iterator[str]:
    yield "memory of one process, estimated (without Python, libraries and what kernels need while they compute):"
    for name, count in plan.memory.items():
        if count:
            yield f"  {size(count):>9}  {MEMORY[name]}{_of_passes(plan) if name == 'passes' else ''}"


def _of_passes(plan: Plan) -> str:
    return (
        f" at its worst: {size(plan.activations)} of activations when the backward pass begins, then up to "
        f"{size(plan.gradients)} of gradients"
    )


def size(count: float) -> str:
    """Bytes.

    >>> size(999), size(151_277_312), size(1.5e9)
    ('999 B', '151 MB', '1.5 GB')
    """
    return _scaled(count, ("B", "kB", "MB", "GB", "TB", "PB"))


def operations(count: float) -> str:
    """Floating-point operations.

    >>> operations(8_817_623_040)
    '8.8 GFLOP'
    """
    return _scaled(count, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"))


def _scaled(count: float, units: tuple[str, ...]) -> str:
    place = 0
    while count >= 999.5 and place < len(units) - 1:
        count, place = count / 1000, place + 1
    return f"{count:.1f} {units[place]}" if place and count < 99.95 else f"{count:.0f} {units[place]}"
