"""What is looked for: texts, pictures, sounds, alone or together, as one vector."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mmcl import opening
from mmcl.data.source import array
from mmcl.embed import weights_digest
from mmcl.errors import BadSampleError, MmclError, did_you_mean
from mmcl.media import Picture, Sound
from mmcl.model import Encoder

DECODED: dict[str, Callable[[bytes], Any]] = {"image": Picture, "audio": Sound, "vector": array}
"""Bytes of a file to what the transform of a tower takes, by what the tower takes."""


class Part(NamedTuple):
    """One thing that is looked for; several together are one query."""

    modality: str
    """One that the model has a tower for."""
    value: str | bytes | Path
    """A text for a tower of texts; for others the content of a file, or where it lies."""
    weight: float = 1.0
    """Of its unit vector in the sum; a negative one leads away."""


class Questions:
    """Makes vectors of what is looked for, by the model that made the export, which is opened when it is first needed.

    Args:
        manifest: of the export, if it has one.
        folder: of the export, for messages.
        model: where the model lies now, if not where the manifest says.
        weights: of a model of a library, if others than the manifest says.
        device: where to compute.
    """

    def __init__(
        self,
        manifest: dict[str, Any] | None,
        folder: Path,
        model: str | Path | None = None,
        weights: str | Path | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        self._manifest, self._folder, self._device = manifest or {}, folder, device
        opened = self._manifest.get("opened") or {}
        self._model = model or opened.get("model")
        self._dim: int | None = self._manifest.get("dim")  # fewer numbers than the model makes (mmcl embed --dims)
        self._weights = weights if model or weights else opened.get("weights")
        self._encoder: Encoder | None = None
        self._one = threading.RLock()  # servers ask from many threads

    @property
    def known(self) -> bool:
        """Whether anything says which model made the export."""
        return self._model is not None

    @property
    def model(self) -> str | None:
        """What is opened."""
        return None if self._model is None else str(self._model)

    @property
    def encoder(self) -> Encoder:
        """The model, opened.

        Raises:
            MmclError: nothing says which, it is not there, or it is another one.
        """
        with self._one:
            if self._encoder is None:
                self._encoder = self._open()
            return self._encoder

    def _open(self) -> Encoder:
        if self._model is None:
            raise MmclError(f"{self._folder}: nothing here says which model made these vectors; say it: --model MODEL.")
        try:
            encoder = opening.load(self._model, self._device, self._weights)
        except MmclError as error:
            if self._model != (self._manifest.get("opened") or {}).get("model"):
                raise
            raise MmclError(
                f"{self._folder} was made by {self._model}, which cannot be opened: {error} If it lies elsewhere now, "
                "say where: --model MODEL."
            ) from None
        made_by = self._manifest.get("model")
        if made_by is not None and (digest := weights_digest(encoder)) != made_by:
            raise MmclError(
                f"{self._folder} was not made by {self._model}: its tensors have the digest {digest}, those of the "
                f"export's model {made_by}. Vectors of two models cannot be compared; say which made it (--model, "
                "--weights), or embed the shards again."
            )
        return encoder

    def vector(self, parts: Sequence[Part], ready: Sequence[tuple[np.ndarray, float]] = ()) -> np.ndarray:
        """One unit vector of one or several parts: the sum of their unit vectors, each times its weight.

        Args:
            parts: what the model embeds; without any it is not opened.
            ready: vectors that are there already, and their weights.

        Raises:
            MmclError: there is no part, no such modality, a value cannot be used, or the parts cancel out.
        """
        if not parts and not ready:
            raise MmclError("nothing to look for: give a text, a picture, a sound or a sample.")
        return joined([*((self._embed(part), part.weight) for part in parts), *ready])

    def _embed(self, part: Part) -> np.ndarray:
        encoder, modality = self.encoder, part.modality
        if modality not in encoder.modalities:
            raise MmclError(
                f"the model has no tower for {modality!r}{did_you_mean(modality, encoder.modalities)} It has: "
                f"{', '.join(encoder.modalities)}."
            )
        takes, transform = encoder.takes(modality), encoder.transforms[modality]
        with self._one:
            rows = transform.empty(1)
            try:
                transform(_decoded(takes, part.value), np.random.default_rng, rows[0])
            except BadSampleError as error:
                named = f" {part.value}" if isinstance(part.value, Path) else ""
                raise MmclError(f"the {modality} of the query{named} cannot be used: {error}.") from None
            rows = transform.finish(rows, torch.ones(1, dtype=torch.bool))
            return encoder.embed_rows(modality, rows).cpu().numpy()[0][: self._dim]


def joined(vectors: Sequence[tuple[np.ndarray, float]]) -> np.ndarray:
    """Vectors, each brought to length 1 and times its weight, summed and brought to length 1: (dim,) float32.

    Raises:
        MmclError: nothing is left of them, or a weight or a vector is not finite.
    """
    total = sum(weight * unit(vector) for vector, weight in vectors)
    length = float(np.linalg.norm(total))
    if not np.isfinite(length):
        raise MmclError("the query is not finite: its weights, or what the model makes of its parts.")
    if length < 1e-6:
        raise MmclError("the parts of the query cancel each other out; give them other weights.")
    return unit(np.asarray(total))


def unit(vector: np.ndarray) -> np.ndarray:
    """The vector at length 1, in float32; one of zeros stays."""
    vector = vector.astype(np.float64)
    length = float(np.linalg.norm(vector))
    return (vector / (length or 1.0)).astype(np.float32)


def _decoded(takes: str, value: str | bytes | Path) -> Any:
    """What a transform takes.

    Raises:
        BadSampleError: it cannot be that.
    """
    if takes == "text":
        if not isinstance(value, str) or not value.strip():
            raise BadSampleError("a text is looked for, and there is none")
        return value
    if isinstance(value, bytes):
        return DECODED[takes](value)
    path = Path(value)
    try:
        return DECODED[takes](path.read_bytes())
    except OSError as error:
        raise BadSampleError(f"the file cannot be read ({error.strerror or type(error).__name__})") from None
