"""What a recipe says of its data, and what is taken from a sample for it."""

import contextlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from mmcl.errors import AbsentError, BadSampleError, MmclError, did_you_mean
from mmcl.media import Picture, Sound
from mmcl.registry import Spec

IMAGES = {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "jp2", "avif"}
SOUNDS = {"wav", "flac", "ogg", "oga", "opus", "mp3", "aiff", "aif", "au", "w64", "caf"}
TEXTS = {"txt", "text", "caption", "cls", "transcript"}
PARSED = 10  # times in a row, see `_load`
PICKLED = {"pyd", "pickle", "pkl", "pth", "pt", "npz", "ten", "joblib"}


class SampleWindow(Spec):
    """A window that is counted in samples."""

    samples: Annotated[int, Field(ge=1)]
    """Shards are taken until they hold as many."""


Window = Annotated[int, Field(ge=1)] | SampleWindow


class Source(Spec):
    """Shards, and where the modalities lie in their samples."""

    shards: str | list[str]
    """Files, folders, URLs; braces and globs."""
    modalities: dict[str, str]
    """Modality -> members (`jpg;png`, the first that a sample has), a field of a JSON member (`json:caption`,
    `json:captions.fr`), the lines of a text (`txt:lines`) or one number of an array, as a text (`npy:0`). A name with a
    dot (`text.wrong`) is another value of a modality, which goes through its tower."""
    extras: dict[str, str] = {}
    """Name -> where numbers lie that are known of a sample, one or a vector: a member (`npy`, `json`) or a field
    (`json:score`). A sample may lack them."""
    identity: str | None = None
    """A field whose equal values mean that samples show the same thing; the sample's key unless told."""
    captions: Literal["first", "random", "all"] = "random"
    """Of several texts of one sample: the first, one that is drawn every time, or all of them."""
    optional: list[str] = []
    """Modalities that a sample may lack (no member, no such field, no text in it) without being counted as bad."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Share of the samples that come from here, where there are several sources; in proportion to their sizes unless
    told."""
    window: Window = 16
    """Shards whose samples are shuffled together, or `{samples: N}`."""

    @model_validator(mode="after")
    def _means_something(self) -> "Source":
        if not self.modalities:
            raise MmclError("modalities: say at least one, as in image: jpg;png.")
        for modality in self.optional:
            if modality not in self.modalities:
                raise MmclError(f"optional: {modality} is none of the modalities: {', '.join(self.modalities)}.")
        for name in self.extras:
            if name.partition(".")[0] == "ema":
                raise MmclError(f"extras: {name}: names that begin with `ema.` are those of `training.ema`.")
        return self

    def fixed(self, **more: str) -> "Source":
        """The same for measuring: nothing is drawn, and further fields are read, which a sample may lack; no extras."""
        captions = "first" if self.captions == "random" else self.captions
        changed = {"modalities": {**self.modalities, **more}, "optional": [*self.optional, *more], "extras": {}}
        return self.model_copy(update={"captions": captions, **changed})


def said_places(said: Sequence[str], option: str) -> dict[str, str]:
    """Where modalities lie, as a person says it on the command line.

    Args:
        said: ``image=jpg;png``, or several of them with commas between.
        option: behind which it was said.

    Raises:
        MmclError: it is not of this form.

    >>> said_places(["image=jpg;png,text=txt"], "--modalities")
    {'image': 'jpg;png', 'text': 'txt'}
    """
    pairs = [[part.strip() for part in pair.partition("=")] for one in said for pair in one.split(",")]
    if not all(name and where for name, _, where in pairs):
        raise MmclError(f"{option} is NAME=WHERE, as in image=jpg;png, with commas between; got {' '.join(said)}.")
    return {name: where for name, _, where in pairs}


def columns(sources: Sequence[Source], copies: Mapping[str, int]) -> dict[str, list[str]]:
    """Names of all copies of each modality of some sources: ``image``, ``image.2``, ...

    Args:
        sources: of the data.
        copies: how many there are of a modality; one unless told.

    Raises:
        MmclError: there cannot be as many, or two things have one name.
    """
    modalities = list(dict.fromkeys(m for source in sources for m in source.modalities))
    for modality in copies:
        if modality not in modalities:
            raise MmclError(
                f"copies: {modality!r} is none of the modalities{did_you_mean(modality, modalities)} "
                f"They are: {', '.join(modalities)}."
            )
    names = {m: [m, *(f"{m}.{number}" for number in range(2, copies.get(m, 1) + 1))] for m in modalities}
    every = [name for several in names.values() for name in several]
    every += dict.fromkeys(name for source in sources for name in source.extras)
    if twice := [name for name in every if every.count(name) > 1]:
        raise MmclError(
            f"copies: two things are called {twice[0]!r}: a modality, a copy of one, or an extra. Rename one."
        )
    for source in sources:
        for modality, said in source.modalities.items():
            if copies.get(modality, 1) > 1 and source.captions != "all" and Selector.parse(said, modality).is_text:
                raise MmclError(
                    f"copies: those of {modality} are further captions of its sample, which takes `captions: all`; the "
                    "same text again would only be the same vector."
                )
    return names


def carried(source: Source, names: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Modalities, and copies of them, that samples of a source can have.

    Args:
        source: of the data.
        names: of all copies of each modality, as `columns` gives them.
    """
    return frozenset(name for modality in source.modalities for name in names[modality])


@dataclass(frozen=True)
class Choice:
    """One place where a modality may lie: a member, or a field in it."""

    extension: str
    field: str | None

    @property
    def kind(self) -> str:
        """Last part of the extension, by which it is decoded."""
        return self.extension.rpartition(".")[2]

    def decode(self, data: bytes) -> "Picture | Sound | Tensor | list[str]":
        """Value of the member: a list where it is text.

        Raises:
            BadSampleError: it cannot be decoded.
        """
        if self.kind in IMAGES:
            return Picture(data)
        if self.kind in SOUNDS:
            return Sound(data)
        if self.kind == "npy":
            return array(data) if self.field is None else [entry(data, int(self.field))]
        if self.kind == "json" and self.field is not None:
            return json_field(data, self.field)
        return lines(data) if self.field == "lines" else [text(data)]


@dataclass(frozen=True)
class Selector:
    """Where a modality lies in a sample, from what a recipe says: the first of some choices that a sample has."""

    choices: tuple[Choice, ...]

    @classmethod
    def parse(cls, said: str, where: str) -> "Selector":
        """Read ``jpg;png``, ``json:caption``, ``txt:lines`` or ``txt;json:caption``.

        Raises:
            MmclError: it is neither, or mmcl has no decoder for it.
        """
        choices = []
        for part in said.split(";"):
            extension, colon, field = part.strip().partition(":")
            choice = Choice(extension.lstrip(".").lower(), field or None)
            if choice.kind in PICKLED:
                raise MmclError(f"{where}: a .{choice.kind} member would run code when it is read; use npy or json.")
            known = choice.kind in IMAGES | SOUNDS | TEXTS | {"json", "npy"}
            if not known or (colon and not _has_field(choice.kind, field)):
                raise MmclError(
                    f"{where}: {said!r} does not say where a modality lies. Write members, as in `jpg;png` "
                    f"({', '.join(sorted(IMAGES | SOUNDS | TEXTS | {'npy'}))}), a field of a JSON member, as in "
                    "`json:caption`, the lines of a text, as in `txt:lines`, or a number of an array, as in `npy:0`."
                )
            choices.append(choice)
        return cls(tuple(choices))

    @property
    def is_text(self) -> bool:
        """Whether texts lie there."""
        return all(c.kind == "json" or c.kind in TEXTS or (c.kind == "npy" and c.field) for c in self.choices)

    @property
    def extensions(self) -> list[str]:
        """Of all choices."""
        return [choice.extension for choice in self.choices]

    def find(self, members: Iterable[str]) -> Choice | None:
        """The first choice that a sample with these members has."""
        return next((choice for choice in self.choices if choice.extension in members), None)


def _has_field(kind: str, field: str) -> bool:
    """Whether a member of a kind has such a field."""
    return kind == "json" or (field == "lines" and kind in TEXTS) or (kind == "npy" and field.isdecimal())


def chosen(texts: list[str], policy: str, draw: Callable[[], np.random.Generator], most: int = 1) -> list[str]:
    """The text of a sample that a policy takes; of all of them, as many as are asked for, in an order that is drawn."""
    if policy == "first" or len(texts) == 1:
        return texts[:1]
    if policy == "random":
        return [texts[int(draw().integers(len(texts)))]]
    return [texts[place] for place in draw().permutation(len(texts))[:most].tolist()]


def plain(value: Any) -> Any:
    """A decoded value for who has no transform: (3, height, width) uint8, or (samples, rate), or what it is."""
    if isinstance(value, Picture):
        return torch.from_numpy(value.array()).permute(2, 0, 1)
    if isinstance(value, Sound):
        return torch.from_numpy(value.read()), value.rate
    return value


def text(data: bytes) -> str:
    """Text from UTF-8."""
    try:
        value = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise BadSampleError("text is not UTF-8") from None
    if not value:
        raise AbsentError("empty text")
    return value


def lines(data: bytes) -> list[str]:
    """Lines of a text that are not empty."""
    return [line.strip() for line in text(data).split("\n") if line.strip()]


def json_field(data: bytes, field: str) -> list[str]:
    """A field of a JSON object, as texts: one, or those of a list. Dots lead into objects within it."""
    value = parsed(data, field)
    found = value if isinstance(value, list) else [value]
    texts = [str(v).strip() for v in found if _is_text(v)]
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:  # which no tokenizer could take
        raise BadSampleError(f"JSON field {field!r} holds half a character (a lone surrogate)") from None
    if not any(texts):
        absent = all(one is None or isinstance(one, str) for one in found)
        raise (AbsentError if absent else BadSampleError)(f"no text in JSON field {field!r}")
    return [t for t in texts if t]


def parsed(data: bytes, field: str | None) -> Any:
    """Content of a JSON member, or of a field in it; None where there is no such field."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        raise BadSampleError("JSON cannot be read") from None
    return record if field is None else _lookup(record, field)


def _is_text(value: Any) -> bool:
    """Whether this is a text, or a number that stands for one."""
    return isinstance(value, str) or (isinstance(value, int | float) and value == value and not isinstance(value, bool))


def _lookup(record: Any, field: str) -> Any:
    if isinstance(record, dict) and field in record:
        return record[field]
    first, dot, rest = field.partition(".")
    return _lookup(record[first], rest) if dot and isinstance(record, dict) and first in record else None


def entry(data: bytes, place: int) -> str:
    """One number of an .npy file of one axis, as a text: ``3`` whether it was written as 3 or 3.0."""
    try:
        values = np.asarray(_load(data)).astype(np.float64)
    except Exception as error:  # numpy's reader raises whatever it meets
        raise BadSampleError(f"array cannot be read ({type(error).__name__})") from None
    if values.ndim != 1 or place >= len(values):
        raise BadSampleError(f"an array of shape {values.shape} has no number {place}")
    if not np.isfinite(values[place]):
        raise AbsentError("no number in the array")
    return f"{values[place]:.17g}"


def array(data: bytes) -> Tensor:
    """Numbers of an .npy file, as float32."""
    try:
        values = _load(data)
        tensor = torch.from_numpy(np.asarray(values).astype(np.float32))
    except Exception as error:  # numpy's reader raises whatever it meets
        raise BadSampleError(f"array cannot be read ({type(error).__name__})") from None
    if not tensor.isfinite().all():
        raise BadSampleError("array is not finite")
    return tensor


def _load(data: bytes) -> Any:
    """Content of an .npy file, whose header numpy parses as Python.

    CPython's parser (3.11.7) raises SystemError now and then where two threads use it at once ("AST constructor
    recursion depth mismatch"). The file is not to blame.
    """
    for _ in range(PARSED):
        with contextlib.suppress(SystemError):
            return np.load(io.BytesIO(data), allow_pickle=False)
    return np.load(io.BytesIO(data), allow_pickle=False)
