"""What is refused before a run begins, once towers and processes are known."""

from pathlib import Path

from mmcl import distributed
from mmcl.errors import MmclError
from mmcl.model import MultiTower
from mmcl.recipe import Recipe
from mmcl.training import mixing
from mmcl.training.devices import Sharding, asks
from mmcl.types import modality_of

ADVICE = "On CPUs start N processes with: ACCELERATE_USE_CPU=true torchrun --nproc-per-node N -m mmcl train ..."


def check_learning(model: MultiTower) -> None:
    """Refuse towers of which no weight learns, as they are built (a projection of its own is part of a backbone)."""
    towers = [model.tower(modality) for modality in model.modalities]
    if any(next(tower.learning_parameters(), None) is not None for tower in towers):
        return
    if any(parameter.requires_grad for tower in towers for parameter in tower.parameters()):
        raise MmclError("towers: no backbone learns at step 0 and none has a head, so that nothing would be trained.")
    raise MmclError(
        "towers: every backbone is frozen or has no weights, and none has a head, so that nothing would be trained."
    )


def check_copies(recipe: Recipe, model: MultiTower) -> None:
    """Refuse copies that would be the same vector again."""
    for modality, count in recipe.data.copies.items():
        base = modality_of(modality)
        tower = model.tower(base)
        if count > 1 and tower.takes != "text" and not tower.varies:
            raise MmclError(
                f"data.copies.{modality}: they would all be the same, since the tower of {base} draws nothing in "
                "training. Let it crop or shift, or leave them out."
            )


def check_mixing(recipe: Recipe, model: MultiTower, processes: int) -> None:
    """Refuse mixtures of what cannot be mixed, or across processes."""
    for name, spec in recipe.data.mix.items():
        takes = model.tower(modality_of(name)).takes
        if takes != "image" and (takes == "text" or spec.kind == "cutmix"):
            what = "pictures" if spec.kind == "cutmix" else "pictures or sounds"
            raise MmclError(f"data.mix.{name}: {spec.kind} mixes {what}, and this is {takes}.")
        if spec.by is not None and not model.tower(modality_of(name)).patchy:
            raise MmclError(f"data.mix.{name}.by: the tower of {modality_of(name)} has no vectors of patches.")
    mixing.check_blocks(recipe.data.mix, recipe.data.batch_size, processes)
    if recipe.data.mix and recipe.data.last_batch == "keep" and processes > 1:
        raise MmclError("data.mix: a smaller last batch has no whole groups; take another data.last_batch.")


def check_sharding(recipe: Recipe, sharding: Sharding | None) -> None:
    """Refuse what sharded weights cannot do."""
    if sharding is not None and recipe.training.precision == "fp16":
        raise MmclError("training.precision: sharded weights (FSDP2) have no scaling for fp16; use bf16 or fp32.")


def check_processes(recipe: Recipe) -> list[str]:
    """Refuse another number of processes than the recipe asks for; what else a person should know of them."""
    have = distributed.world_size()
    check_count(recipe, have)
    asked, notes = distributed.requested_processes(), []
    if asked is not None and asked > have:
        notes.append(f"the launcher was asked for {asked} processes, but this run has {have}. {ADVICE}")
    if asks() and have == 1:
        notes.append("accelerate asks for sharded weights (FSDP), but this run has one process: its weights are whole.")
    return notes


def check_agreed(run: Path, checkpoint: str | None) -> None:
    """Refuse to go on where processes found different checkpoints, as on machines that do not share the folder."""
    seen = distributed.collect(checkpoint)
    if len(set(seen)) > 1:
        said = ", ".join(f"{name or 'none'} ({seen.count(name)})" for name in sorted(set(seen), key=str))
        raise MmclError(
            f"{run.absolute()}: not all processes see the same newest whole checkpoint there: {said}. The run folder "
            "must lie where all machines of a run see it."
        )


def check_count(recipe: Recipe, have: int) -> None:
    """Refuse another number of processes than the recipe asks for."""
    wanted = recipe.training.processes
    if wanted is not None and wanted != have:
        raise MmclError(f"training.processes asks for {wanted}, but this run has {have}. {ADVICE}")
