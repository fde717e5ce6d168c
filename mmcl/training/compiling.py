"""Towers whose blocks are compiled (torch.compile)."""

import torch

from mmcl.errors import MmclError
from mmcl.model import MultiTower
from mmcl.towers.depth import block_modules

LIMIT = 64  # of kernels for one block: towers, training and evaluation, with and without gradients, sizes that vary


def compile_(model: MultiTower) -> None:
    """Let the blocks of each tower be compiled when they are first used; a backbone without blocks as a whole.

    Names of weights stay. Blocks of the same shape share what is compiled. The first size of a batch is compiled as it
    is, and with the second one the number of rows, or tokens, becomes a variable; one row alone is a size of its own.
    Random numbers are those that the blocks draw otherwise, so that the second pass of a batch in parts draws what the
    first one drew.

    Args:
        model: towers on the device where they compute, wrapped or not.

    Raises:
        MmclError: nothing can be compiled on this machine.
    """
    device = next(model.parameters()).device
    try:
        torch.compile(torch.sin)(torch.zeros(2, device=device))
    except Exception as error:  # whatever a compiler, its absence, or a device that is too old comes to
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MmclError(f"training.compile: torch cannot compile on this machine: {reason}") from None
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, LIMIT)
    for modality in model.modalities:
        backbone = model.tower(modality).backbone
        if next(backbone.parameters(), None) is not None:
            for block in list(block_modules(backbone).values()) or [backbone]:
                block.forward = torch.compile(block.forward, options={"fallback_random": True})
