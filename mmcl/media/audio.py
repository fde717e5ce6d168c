"""Sounds: a header first, then the samples of a stretch at the rate that is asked for."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from mmcl.errors import BadSampleError

LOUDEST = 2.0**31  # of floats that nobody scaled; beyond, spectra overflow
MAX_SAMPLES = 1 << 28  # read at once, over all channels: a gigabyte in float32
RATES = (1_000, 1_000_000)  # a header outside this is damaged
CHANNELS = 64  # at most, of samples: of more the axes are the other way round
INTEGERS = ("int8", "uint8", "int16", "int32")  # kinds of samples whose full scale is known


class Sound:
    """An encoded or decoded sound, seen as one channel (the mean of all) of float32 in [-1, 1].

    Read by libsndfile: wav, flac, ogg (vorbis, opus), mp3, aiff and more, from the stretch that is asked for on.
    Resampled by soxr at its high quality.

    Args:
        data: bytes of a file in any format that libsndfile reads, or where it lies: then no more of it is read than is
            used.

    Raises:
        BadSampleError: they are no sound, or one without samples.
    """

    def __init__(self, data: bytes | Path) -> None:
        if not (data.stat().st_size if isinstance(data, Path) else data):
            raise BadSampleError("empty audio")
        self._samples: NDArray[Any] | None = None
        try:
            self._file = soundfile.SoundFile(data if isinstance(data, Path) else io.BytesIO(data))
        except Exception as error:
            raise BadSampleError(f"audio cannot be decoded ({_said(error)})") from None
        self.rate, self.frames, self.channels = self._file.samplerate, self._file.frames, self._file.channels
        self._check()

    @classmethod
    def of(cls, samples: NDArray[Any], rate: int) -> "Sound":
        """A sound that is decoded already.

        Args:
            samples: (frames,) or (frames, channels); integers of 8, 16 or 32 bits are brought to [-1, 1] as libsndfile
                does it.
            rate: frames per second.

        Raises:
            BadSampleError: they are of another shape or kind, or there are none.
        """
        if samples.ndim not in (1, 2):
            raise BadSampleError(f"audio of shape {samples.shape}; (frames,) or (frames, channels) is expected")
        if samples.dtype.kind != "f" and samples.dtype.name not in INTEGERS:
            raise BadSampleError(f"audio of {samples.dtype}; floats in [-1, 1], or {', '.join(INTEGERS)}, are expected")
        sound = cls.__new__(cls)
        wide = samples if samples.ndim == 2 else samples[:, None]
        if wide.size and wide.shape[1] > min(wide.shape[0], CHANNELS):
            raise BadSampleError(
                f"audio of {wide.shape[1]:,} channels and {wide.shape[0]:,} frames; (frames, channels) is expected, at "
                f"most {CHANNELS} channels: transpose what is (channels, frames)"
            )
        sound._samples = wide
        sound.rate, (sound.frames, sound.channels) = rate, wide.shape
        sound._check()
        return sound

    @property
    def seconds(self) -> float:
        """Length."""
        return self.frames / self.rate

    @property
    def format(self) -> str:
        """Container and coding, as libsndfile names them; nothing where it was decoded already."""
        return f"{self._file.format} {self._file.subtype}" if self._samples is None else ""

    def read(self, rate: int | None = None, start: float = 0.0, seconds: float | None = None) -> NDArray[np.float32]:
        """Samples of a stretch: (frames,).

        Args:
            rate: frames per second; the sound's own unless told.
            start: in seconds.
            seconds: up to the end unless told; fewer samples come where the sound ends before.

        Raises:
            BadSampleError: the bytes cannot be decoded, or hold numbers that are not finite.
        """
        first = min(round(start * self.rate), self.frames)
        count = self.frames - first if seconds is None else min(round(seconds * self.rate), self.frames - first)
        if count * self.channels > MAX_SAMPLES:
            raise BadSampleError(f"audio of more than {MAX_SAMPLES:,} samples")
        samples = self._read(first, count)
        if not len(samples):
            raise BadSampleError("audio without samples")
        if not np.isfinite(samples).all():
            raise BadSampleError("audio is not finite")
        if (peak := float(np.abs(samples).max())) > LOUDEST:
            raise BadSampleError(f"audio of samples up to {peak:.2g}, where 1 is as loud as can be")
        mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
        if rate is None or rate == self.rate:
            return np.ascontiguousarray(mono)
        return soxr.resample(np.ascontiguousarray(mono), self.rate, rate, quality="HQ")

    def _read(self, first: int, count: int) -> NDArray[np.float32]:
        if self._samples is not None:
            return _full_scale(self._samples[first : first + count])
        try:
            self._file.seek(first)
            return np.asarray(self._file.read(count, dtype="float32", always_2d=True), np.float32)
        except Exception as error:
            raise BadSampleError(f"audio cannot be decoded ({_said(error)})") from None

    def _check(self) -> None:
        if self.frames < 1 or self.channels < 1:
            raise BadSampleError("audio without samples")
        if not RATES[0] <= self.rate <= RATES[1]:
            raise BadSampleError(f"audio of {self.rate} Hz")


def _full_scale(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Floats as they are, and integers brought to [-1, 1]."""
    if samples.dtype.kind == "f":
        return np.asarray(samples, np.float32)
    half = 2.0 ** (8 * samples.dtype.itemsize - 1)
    middle = half if samples.dtype.kind == "u" else 0.0
    return ((samples.astype(np.float64) - middle) / half).astype(np.float32)


def _said(error: Exception) -> str:
    """Libsndfile's words, or the kind of the error."""
    return str(getattr(error, "error_string", "")).rstrip(".") or type(error).__name__
