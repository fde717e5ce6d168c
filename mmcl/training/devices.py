"""accelerate, told what a run needs of it; and what accelerate was told of sharded weights (FSDP2)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from mmcl import distributed
from mmcl.errors import MmclError

ASKS = "ACCELERATE_USE_FSDP"
WITHOUT = {  # settings of accelerate's FSDP that mean nothing else here: name -> (what goes, what to do instead)
    "FSDP_OFFLOAD_PARAMS": (("", "false"), "weights on the CPU are not supported; leave it out"),
    "FSDP_AUTO_WRAP_POLICY": (
        ("", "none", "transformer_based_wrap"),
        "the blocks of each tower are units, and the rest of it is one; leave it out",
    ),
    "FSDP_TRANSFORMER_CLS_TO_WRAP": (("",), "the blocks of each tower are found by themselves; leave it out"),
    "FSDP_ACTIVATION_CHECKPOINTING": (("", "false"), "say towers.NAME.gradient_checkpointing=true in the recipe"),
    "FSDP_FORWARD_PREFETCH": (("", "false"), "FSDP2 has none; leave it out"),
    "FSDP_IGNORED_MODULES": (("", "none"), "all of a tower is sharded; leave it out"),
    "FSDP_SHARDING_STRATEGY": (("", "1", "full_shard"), "FSDP2 has fsdp_reshard_after_forward: true or false"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": (("", "false"), "only whole sharding is supported; leave it out"),
}


@dataclass(frozen=True)
class Sharding:
    """What accelerate was told of sharded weights."""

    reshard: bool
    """Let go of a unit's whole weights after its forward pass, and gather them again for the backward pass."""


def asks() -> bool:
    """Whether accelerate's configuration asks for sharded weights."""
    return os.environ.get(ASKS, "false").lower() == "true"


def sharding() -> Sharding | None:
    """What accelerate's configuration says of sharded weights; None where it does not ask for them.

    `accelerate launch --use_fsdp --fsdp_version 2`, and a file of `accelerate config`, say it by the environment. On
    CPUs accelerate would ignore it. On one process there is nothing to share, and weights are whole.

    Raises:
        MmclError: it asks for what does not exist here, or would have no effect.
    """
    if not asks():
        return None
    if (version := os.environ.get("FSDP_VERSION", "1")) != "2":
        raise MmclError(
            f"accelerate asks for FSDP version {version}; only version 2 is supported: --fsdp_version 2, or "
            "fsdp_version: 2 in its configuration, or FSDP_VERSION=2."
        )
    for name, (fine, advice) in WITHOUT.items():
        said = os.environ.get(name, "")
        if said.lower() not in fine:
            raise MmclError(f"{name}={said} in accelerate's configuration would have no effect: {advice}.")
    said = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower()
    if said not in ("true", "false"):
        raise MmclError(f"FSDP_RESHARD_AFTER_FORWARD={said} in accelerate's configuration must be true or false.")
    return Sharding(said == "true") if distributed.world_size() > 1 else None


@contextmanager
def unsharded_environment() -> Iterator[None]:
    """Without what asks for sharded weights, which are our own.

    accelerate would wrap the towers as well, and transformers would read weights on the first process only.
    """
    said = os.environ.pop(ASKS, None)
    try:
        yield
    finally:
        if said is not None:
            os.environ[ASKS] = said


def make_accelerator(precision: str) -> Accelerator:
    """What wraps the towers and scales their gradients.

    Args:
        precision: ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        MmclError: processes would not share gradients, or the device cannot compute so.
    """
    if (dynamo := os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")).lower() != "no":
        raise MmclError(
            f"ACCELERATE_DYNAMO_BACKEND={dynamo}: accelerate would compile what it wraps; say training.compile=true in "
            "the recipe instead, and leave dynamo out of accelerate's configuration."
        )
    AcceleratorState._reset_state()  # or a second run in this process could not have another precision
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # without it, processes on CPUs would not know of one another
        mixed_precision={"fp32": "no"}.get(precision, precision),
        # modalities may be absent from one process's rows; and with this, three processes resume bit for bit
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if accelerator.num_processes != distributed.world_size():
        raise MmclError(
            f"accelerate sees {accelerator.num_processes} processes where there are "
            f"{distributed.world_size()}, so gradients would not be shared. On CPUs set ACCELERATE_USE_CPU=true."
        )
    check_precision(precision, accelerator.device.type)
    return accelerator


def check_precision(precision: str, device: str) -> None:
    """Refuse numbers that a kind of device does not train in."""
    if precision == "fp16" and device == "cpu":
        raise MmclError("training.precision: fp16 needs a GPU, a CPU has no scaling for it; use bf16 or fp32.")
