"""What decides on the bytes of an export: its plan, which is also the first half of its manifest."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from mmcl.data.remote import is_remote
from mmcl.embed.samples import Samples
from mmcl.errors import MmclError
from mmcl.model import Encoder, hash_tensors
from mmcl.towers.preparation import preparation

FORMAT = 2
DTYPES = {"fp32": np.float32, "fp16": np.float16}
Dtype = Literal["fp32", "fp16"]
Layout = Literal["clip_retrieval", "parquet"]
Precision = Literal["fp32", "bf16", "fp16"]
FREE = ("opened", "recipe", "source")  # names of what the digests of model and shards already tell apart


@dataclass(frozen=True)
class Options:
    """What a person chooses of an export; all of it decides on its bytes."""

    part_size: int = 10_000
    """Rows of a part; each part is a file, or three or more, of the same number."""
    batch_size: int = 256
    """Rows that are embedded at once."""
    dtype: Dtype = "fp32"
    """Of the vectors in the files."""
    layout: Layout = "clip_retrieval"
    """``NAME_emb/*.npy`` beside ``metadata/*.parquet``, or ``embeddings/*.parquet`` with columns of vectors."""
    dims: int | None = None
    """First coordinates that are kept and normalised again (Matryoshka); all of them unless told."""
    precision: Precision = "fp32"
    """In which the towers compute; lower ones by autocast."""


class Part(NamedTuple):
    """Samples of a fixed range in the order of the shards: made alone, whoever makes it."""

    number: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """What an export is made of, and how.

    Args:
        said: the same as JSON.
        samples: of all shards.
    """

    said: Mapping[str, Any]
    samples: int

    @property
    def options(self) -> Options:
        """What was chosen."""
        return Options(**{name: self.said[name] for name in Options.__dataclass_fields__})

    @property
    def count(self) -> int:
        """How many parts there are."""
        return -(-self.samples // self.said["part_size"])

    def part(self, number: int) -> Part:
        """One of them."""
        size = self.said["part_size"]
        return Part(number, number * size, min((number + 1) * size, self.samples))

    def name(self, number: int) -> str:
        """Of a part, in the names of its files: as many digits for all, so that names sort as numbers do."""
        return f"{number:0{max(4, len(str(self.count - 1)))}d}"

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """What another plan has otherwise, in words."""
        keys = [key for key in self.said if key not in FREE]
        told = [_told(key, other.get(key), self.said[key]) for key in keys if other.get(key) != self.said[key]]
        ours, theirs = self.said["source"], other.get("source") or {}
        lies = [key for key in ours if key != "shards" and ours[key] != theirs.get(key)]
        return told + [_told(key, theirs.get(key), ours[key]) for key in lies]


def make_plan(encoder: Encoder, samples: Samples, options: Options, about: Mapping[str, Any]) -> Plan:
    """The plan of an export.

    Args:
        encoder: what embeds.
        samples: that are embedded.
        options: what was chosen.
        about: where the model was opened (``opened``), and its recipe, for who reads the manifest.

    Raises:
        MmclError: the model has fewer coordinates than are asked for, or an option is none.
    """
    _check(options, encoder)
    said = {
        "format": FORMAT,
        "model": weights_digest(encoder),
        "opened": about.get("opened"),
        "recipe": about.get("recipe"),
        "preparation": {m: _plain(_prepared(encoder, m)) for m in samples.modalities},
        "modalities": samples.modalities,
        "dim": options.dims or encoder.dim,
        **asdict(options),
        "shards": samples.stream.shards.described(),
        "source": {**samples.source.model_dump(mode="json"), "shards": _absolute(samples.source.shards)},
    }
    return Plan(said, samples.stream.samples)


def weights_digest(encoder: Encoder) -> str:
    """A hash of the model's tensors: names, types, shapes and contents, in the order of the names."""
    digest = hashlib.blake2b(digest_size=16)
    hash_tensors(digest, encoder.model.state_dict())
    return digest.hexdigest()


def _check(options: Options, encoder: Encoder) -> None:
    known = {"dtype": Dtype, "layout": Layout, "precision": Precision}
    for name, choices in known.items():
        if (value := getattr(options, name)) not in get_args(choices):
            raise MmclError(f"{name} must be one of {', '.join(get_args(choices))}; got {value!r}.")
    for name in ("part_size", "batch_size"):
        if (value := getattr(options, name)) < 1:
            raise MmclError(f"{name} must be 1 or more; got {value}.")
    if options.dims is not None and not 1 <= options.dims <= encoder.dim:
        raise MmclError(
            f"dims: the model has {encoder.dim} coordinates, of which 1 or more can be kept; got {options.dims}."
        )
    if options.precision == "fp16" and encoder.device.type == "cpu":
        raise MmclError("precision: fp16 needs a GPU; use bf16 or fp32.")


def _prepared(encoder: Encoder, modality: str) -> dict[str, Any]:
    """What makes rows of the values."""
    return preparation(encoder.transforms[modality], encoder.model.tower(modality).backbone)


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _absolute(patterns: str | Sequence[str]) -> str | list[str]:
    """Where shards lie, for who reads the manifest from another folder."""
    if not isinstance(patterns, str):
        return [str(_absolute(one)) for one in patterns]
    return patterns if is_remote(patterns) else os.path.join(os.getcwd(), os.path.expanduser(patterns))


def _told(key: str, before: Any, now: Any) -> str:
    """A difference in words: what is long is only named."""
    short = all(isinstance(value, str | int | float | None) for value in (before, now))
    return f"{key} ({before} before, {now} now)" if short else key
