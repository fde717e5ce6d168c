"""The numbers of the steps between two rows of metrics.jsonl."""

import time
from collections import Counter

from torch import Tensor

from mmcl.losses import LossOutput


class Window:
    """Sums over the steps since the last row, on the device."""

    def __init__(self, step: int) -> None:
        self.first, self.start = step, time.perf_counter()
        self.sums: dict[str, Tensor] = {}
        self.counts = Counter[str]()  # a term may be switched on within the window
        self.norm: Tensor | float = 0.0

    def add(self, out: LossOutput, norm: Tensor) -> None:
        """One step."""
        parts = {f"loss/{title}": value for title, value in out.parts.items()}
        for name, value in {"loss": out.total.detach(), **parts}.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] += 1
        self.norm = self.norm + norm
