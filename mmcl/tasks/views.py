"""Another look at the pictures of a task, before they are prepared for a tower."""

from typing import Any

from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators import View
from mmcl.media import Picture
from mmcl.types import Draw, Transform


class Viewed(Transform):
    """Does something to decoded pictures, and then what a tower's transform does.

    Args:
        own: the tower's.
        view: (height, width, 3) uint8 in and out, with draws that are the sample's own, so the same each time.
    """

    def __init__(self, own: Transform, view: View) -> None:
        self.own, self.view = own, view

    def empty(self, rows: int) -> Tensor:
        """Room for a batch."""
        return self.own.empty(rows)

    def __call__(self, value: Any, draw: Draw, out: Tensor) -> None:
        """Fill one row."""
        if not isinstance(value, Picture):
            raise MmclError(f"a view is of pictures; got {type(value).__name__}.")
        self.own(Picture.of(self.view(value.array(), draw())), draw, out)

    def finish(self, rows: Tensor, present: Tensor) -> Tensor:
        """The batch, once all present rows are filled."""
        return self.own.finish(rows, present)
