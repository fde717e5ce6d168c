"""What backbones of pictures share: how pictures come to them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

from pydantic import Field

from mmcl.errors import MmclError
from mmcl.media import Fit, ImageTransform, Normalize
from mmcl.media.fit import Resize
from mmcl.media.image import Interpolation
from mmcl.towers.base import Backbone
from mmcl.towers.dropout import dropout_in

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Colour = tuple[float, float, float]
CLIP_MEAN: Colour = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Colour = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocessing:
    """What a model expects of pictures.

    Args:
        size: side of the square, in pixels.
        mean: of the pixels per channel, in [0, 1].
        std: of the pixels per channel.
        fit: how a whole picture becomes the square.
    """

    size: int = 224
    mean: Colour = CLIP_MEAN
    std: Colour = CLIP_STD
    fit: Fit = field(default_factory=Fit)

    def but(
        self,
        size: int | None = None,
        mean: Colour | None = None,
        std: Colour | None = None,
        resize: Resize | None = None,
        interpolation: Interpolation | None = None,
    ) -> "Preprocessing":
        """The same, but for what is told; what is cut away stays the same share of the square."""
        side, fit = size or self.size, self.fit
        if fit.resized is not None:
            fit = replace(fit, resized=int(fit.resized * side / self.size))
        fit = replace(fit, resize=resize or fit.resize, interpolation=interpolation or fit.interpolation)
        return Preprocessing(side, mean or self.mean, std or self.std, fit)


class ImageBackbone(Backbone):
    """A backbone that takes pictures.

    Args:
        preprocessing: what it expects of them.
        crop: smallest and largest share of the area that training cuts out.
        shift: share of the side by which training moves the picture.
        exact_decode: decode JPEGs as in evaluation also in training.
    """

    takes = "image"
    drops: bool = False
    """Whether patches or layers are left out at random in training."""

    def __init__(self, preprocessing: Preprocessing, crop: Sequence[float], shift: float, exact_decode: bool) -> None:
        super().__init__()
        least, most = crop
        if not 0 < least <= most <= 1:
            raise MmclError(f"crop {list(crop)} is no pair of shares from 0 to 1, the smaller one first.")
        self.preprocessing, self.image_size, self.crop = preprocessing, preprocessing.size, (least, most)
        self.shift, self.exact_decode = shift, exact_decode
        self.normalize = Normalize(preprocessing.mean, preprocessing.std)

    @property
    def varies(self) -> bool:
        """Whether anything is drawn in training."""
        return self.draws or self.drops or dropout_in(self)

    @property
    def draws(self) -> bool:
        """Whether the transform draws."""
        return self.crop != (1, 1) or bool(self.shift)

    def transform(self, train: bool) -> ImageTransform:
        """Crop and resize."""
        size, fit = self.preprocessing.size, self.preprocessing.fit
        if train:
            return ImageTransform(size, crop=self.crop, shift=self.shift, exact=self.exact_decode, fit=fit)
        return ImageTransform(size, fit=fit)


def square(size: object, of: str) -> int:
    """The side of a size that a library says as one number or two.

    Raises:
        MmclError: it is no square.
    """
    sides = list(size) if isinstance(size, Sequence) else [size, size]
    if len(sides) != 2 or sides[0] != sides[1] or not isinstance(sides[0], int):
        raise MmclError(f"{of}: mmcl's pictures are squares; it asks for {sides}. Say image_size.")
    return sides[0]


def interpolation(name: str, of: str) -> Interpolation:
    """One of those that there are.

    Raises:
        MmclError: it is none.
    """
    if name not in ("bicubic", "bilinear"):
        raise MmclError(f"{of}: pictures are to be resized by {name}; there are bicubic and bilinear. Say one of them.")
    return "bicubic" if name == "bicubic" else "bilinear"
