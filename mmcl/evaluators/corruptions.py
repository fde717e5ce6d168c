"""The 15 common corruptions of pictures at 5 severities, as other looks at a picture.

They are those of the package imagecorruptions-imaug (``pip install 'mmcl[robustness]'``), a kept fork of Michaelis et
al.'s generalisation of ImageNet-C's code to any size of picture. It is not ImageNet-C to the letter: motion blur and
snow do without ImageMagick, and the displacement of the elastic transform is in parts of the picture's size.
"""

from dataclasses import dataclass
from threading import Lock
from types import ModuleType
from typing import Literal, get_args

import numpy as np
from PIL import Image

from mmcl.errors import MmclError

Name = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
]
NAMES: tuple[Name, ...] = get_args(Name)
SEVERITIES = (1, 2, 3, 4, 5)
LEAST = 32  # pixels of the shorter side that the package takes
SEEDED = ("glass_blur", "impulse_noise")  # draw from a seed of their own, the others from numpy's global state

_global_state = Lock()


@dataclass(frozen=True)
class Corruption:
    """A picture, corrupted.

    The same draws give the same picture, as long as no other thread draws from numpy's global state meanwhile, as the
    package does (one corruption at a time is under way in a process).

    How strong a corruption is goes by the pixel, so pictures are first brought to one size. ImageNet-C's are 224 x 224,
    cut out of the middle; here nothing is cut off, so that corrupted and clean pictures show the same.

    Args:
        name: of the corruption.
        severity: from 1 to 5.
        size: of the shorter side in pixels, to which a picture is resized first (bicubic, up or down); None leaves it
            as it is.

    Reference:
        Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR
        2019, section 3 (https://arxiv.org/abs/1903.12261); Michaelis et al., "Benchmarking Robustness in Object
        Detection", 2019 (https://arxiv.org/abs/1907.07484), for any size.
    """

    name: Name
    severity: int
    size: int | None = 224

    def __call__(self, picture: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Another picture, of the same height and width unless it is resized.

        Args:
            picture: (height, width, 3) in uint8.
            generator: of the draws; it is advanced by one.

        Raises:
            MmclError: the picture is too small, or the package is not there.
        """
        if self.size is not None:
            picture = resized(picture, self.size)
        if min(picture.shape[:2]) < LEAST:
            height, width = picture.shape[:2]
            raise MmclError(
                f"{self.name}: a picture of {width} x {height} pixels; {LEAST} are the least. Set size to bring "
                "pictures to one size first."
            )
        corrupt = package().corrupt
        seed = int(generator.integers(2**32))
        own = {"seed": seed} if self.name in SEEDED else {}
        with _global_state:
            before = np.random.get_state()
            np.random.seed(seed)
            try:
                return corrupt(picture, severity=self.severity, corruption_name=self.name, **own)
            finally:
                np.random.set_state(before)


def resized(picture: np.ndarray, size: int) -> np.ndarray:
    """A picture whose shorter side has a size, in its proportions."""
    height, width = picture.shape[:2]
    shorter = min(height, width)
    if shorter == size:
        return picture
    to = (round(width * size / shorter), round(height * size / shorter))
    return np.asarray(Image.fromarray(picture).resize(to, Image.Resampling.BICUBIC))


def package() -> ModuleType:
    """The package that corrupts.

    Raises:
        MmclError: it is not installed, or OpenCV finds no libGL.
    """
    try:
        import imagecorruptions
    except ImportError as error:
        raise MmclError(
            f"corruptions need the package imagecorruptions-imaug ({error}): pip install 'mmcl[robustness]'. Where the "
            "system has no libGL, then also: pip uninstall opencv-python; pip install opencv-python-headless."
        ) from None
    return imagecorruptions
