"""What makes the rows of a tower, in plain words and numbers: for manifests, and for programs without mmcl."""

from dataclasses import asdict, is_dataclass
from typing import Any

from mmcl.towers.base import Backbone
from mmcl.towers.hearing import Hearing
from mmcl.towers.pictures import ImageBackbone
from mmcl.types import Transform

SPECIAL = ("vocab_size", *(f"{name}_id" for name in ("pad", "bos", "eos")))
SPECIAL_OF_LIBRARIES = tuple(f"{name}_token_id" for name in ("pad", "bos", "eos", "cls", "sep", "sot", "eot"))
"""What tokenizers of mmcl, and of libraries, say of themselves."""

AROUND = ("prefix", "suffix")
"""What a backbone says of every text."""


def preparation(transform: Transform, backbone: Backbone) -> dict[str, Any]:
    """The transform's name and arguments, and what its backbone says of its input.

    Args:
        transform: of the backbone.
        backbone: with mean and standard deviation of its pixels (``normalize``), the spectrogram that it hears
            (``mel``), or a tokenizer: these lie in the backbone, beside its weights.
    """
    own = {key: _plain(value) for key, value in vars(transform).items() if not key.startswith("_")}
    said = {"transform": type(transform).__name__} | {key: v for key, v in own.items() if not callable(v)}
    if isinstance(backbone, ImageBackbone):
        said["normalize"] = {"mean": list(backbone.preprocessing.mean), "std": list(backbone.preprocessing.std)}
    if isinstance(backbone, Hearing):
        said["mel"] = backbone.logmel.mel.model_dump(mode="json")
    around = {key: text for key in AROUND if (text := getattr(backbone, key, ""))}
    tokenizer = getattr(backbone, "tokenizer", None)
    numbers = {key: getattr(tokenizer, key) for key in SPECIAL + SPECIAL_OF_LIBRARIES if hasattr(tokenizer, key)}
    return said | around | ({"tokenizer": numbers} if numbers else {})


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
