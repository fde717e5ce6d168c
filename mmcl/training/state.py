"""What of a run a checkpoint holds: taken from what trains, and given back to it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmcl import distributed
from mmcl.checkpoints import Checkpoint
from mmcl.errors import MmclError
from mmcl.training.learner import Learner
from mmcl.training.optimizer_state import remembered, restore
from mmcl.training.sharding import load_, local, whole

Files = dict[str, dict[str, Tensor]]


def taken(learner: Learner) -> tuple[Files, dict[str, Any]]:
    """Tensors of a checkpoint's files, and what is no tensor, of what learns; a collective.

    Sharded ones are gathered on the first process alone, which writes them.

    Raises:
        MmclError: weights are broken, which would take the place of good ones.
    """
    check_weights(learner)
    generators = distributed.collect(_random_state())
    weights = {f"model.{k}": t for k, t in learner.model.state_dict().items()}
    weights |= {f"objective.{k}": t for k, t in learner.objective.state_dict().items()}
    weights |= {f"ema.{k}": t for k, t in learner.average.state().items()} if learner.average is not None else {}
    optimizer, numbers = remembered(learner.optimizer, learner.settings)
    rng = {f"{rank}.{name}": t for rank, state in enumerate(generators) for name, t in state.items()}
    scaler = learner.accelerator.scaler
    known = {
        "step": learner.step,
        "optimizer": numbers,
        "scaler": None if scaler is None else scaler.state_dict(),
    }
    return {"weights": whole(weights), "optimizer": whole(optimizer), "rng": rng}, known


def give(learner: Learner, checkpoint: Checkpoint) -> list[str]:
    """Go on from a checkpoint; returns what a person should know of it."""
    checkpoint.check_format()
    notes = []
    weights = checkpoint.tensors("weights")
    for name, module in (("model.", learner.model), ("objective.", learner.objective)):
        load_(module, {k.removeprefix(name): t for k, t in weights.items() if k.startswith(name)})
    averaged = {k.removeprefix("ema."): t for k, t in weights.items() if k.startswith("ema.")}
    if learner.average is not None and not learner.average.restore(averaged, learner.model):
        notes.append("training.ema: the run had no average before; it begins with the weights of now")
    restore(learner.optimizer, checkpoint.tensors("optimizer"), checkpoint.state["optimizer"])
    scaler, kept = learner.accelerator.scaler, checkpoint.state["scaler"]
    if scaler is not None and kept is not None:  # or the precision has changed
        scaler.load_state_dict(kept)
    _restore_random_state(checkpoint.tensors("rng"), distributed.rank())
    learner.step = checkpoint.state["step"]
    return [*notes, f"resumed from {checkpoint.path} at step {learner.step}"]


def check_weights(learner: Learner) -> None:
    """Refuse to keep broken weights.

    Raises:
        MmclError: some are not finite.
    """
    named = [*learner.model.named_parameters(), *learner.buffers.items(), *learner.objective.named_parameters()]
    broken = torch.stack([~local(tensor.detach()).isfinite().all() for _, tensor in named])
    broken = distributed.total(broken.float())  # each process may have a part of its own
    if broken.any():
        name = named[int(broken.nonzero()[0, 0])][0]
        raise MmclError(
            f"step {learner.step}: {name} is not finite, so no checkpoint was written. The newest one is from before; "
            "lower optimizer.lr or set training.clip_norm, and resume."
        )


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_random_state(tensors: Mapping[str, Tensor], rank: int) -> None:
    """This process's generators; on more processes than there were, a new one keeps its own seed."""
    if f"{rank}.cpu" in tensors:
        torch.set_rng_state(tensors[f"{rank}.cpu"])
    if f"{rank}.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors[f"{rank}.cuda"])
