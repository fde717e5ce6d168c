"""accelerate, told what a run needs of it."""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from mmcl import distributed
from mmcl.errors import MmclError


def make_accelerator(precision: str) -> Accelerator:
    """What wraps the towers and scales their gradients.

    Args:
        precision: ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        MmclError: processes would not share gradients, or the device cannot compute so.
    """
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
