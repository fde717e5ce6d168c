"""How to run: one readable loop over batches, on any number of processes."""

from mmcl.training.loop import Evaluate, Trainer

__all__ = ["Evaluate", "Trainer"]
