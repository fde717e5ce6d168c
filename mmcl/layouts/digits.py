"""scikit-learn's digits: 1,797 handwritten digits of 8 by 8 pixels, which come with the library."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from mmcl.layouts.base import LAYOUTS, Later, Layout, Row
from mmcl.layouts.folder import Folder
from mmcl.layouts.mnist import png


@LAYOUTS.register("digits")
class Digits(Layout):
    """The digits of ``sklearn.datasets.load_digits``; there is no root.

    A sample has the picture (``png``, grey: 0 to 16 of ink become 0 to 255) and ``cls``, the digit.

    Reference:
        Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
        https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits
    """

    def holds(self) -> list[str]:
        """Nothing."""
        return []

    def rows(self, folder: Folder) -> Iterator[Row]:
        """A sample a digit, in scikit-learn's order."""
        from sklearn.datasets import load_digits

        ink, labels = load_digits(return_X_y=True)
        pictures = np.round(np.asarray(ink).reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        for number, (picture, label) in enumerate(zip(pictures, np.asarray(labels), strict=True)):
            yield {"__key__": f"digit_{number:04d}", "png": Later(partial(png, picture)), "cls": str(label)}
