"""Sounds: the samples of libsndfile and soxr, only of the stretch that is used."""

import io
from functools import partial

import numpy as np
import pytest
import soundfile
import soxr
import torch

from mmcl.errors import BadSampleError, MmclError
from mmcl.media import AudioTransform, Sound


def tone(seconds: float = 2.0, rate: int = 16_000, channels: int = 1) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    sweep = 0.5 * np.sin(2 * np.pi * (200 + 150 * time) * time)
    return np.stack([sweep / (1 + c) for c in range(channels)], axis=1).astype(np.float32)


def encoded(samples: np.ndarray, rate: int = 16_000, kind: str = "WAV", subtype: str | None = None) -> bytes:
    soundfile.write(out := io.BytesIO(), samples, rate, format=kind, subtype=subtype)
    return out.getvalue()


def row(transform: AudioTransform, sound: Sound, seed: int = 0) -> np.ndarray:
    (out,) = transform.empty(1)
    transform(sound, partial(np.random.default_rng, seed), out)
    return out.numpy()


@pytest.mark.parametrize(
    ("kind", "subtype", "error"),
    [("WAV", "PCM_16", 1e-4), ("FLAC", None, 1e-4), ("OGG", "VORBIS", 0.05), ("OGG", "OPUS", 0.1), ("MP3", None, 0.05)],
)
def test_formats(kind: str, subtype: str | None, error: float) -> None:
    sound = Sound(encoded(tone(), kind=kind, subtype=subtype))
    samples = sound.read(16_000)
    assert abs(sound.seconds - 2.0) < 0.1
    middle = slice(8_000, 24_000)
    assert np.abs(samples[middle] - tone()[middle, 0]).max() < error


def test_channels_are_averaged_and_rates_are_soxrs_high_quality() -> None:
    stereo = tone(channels=2, rate=44_100)
    sound = Sound(encoded(stereo, 44_100, subtype="FLOAT"))
    expected = soxr.resample(stereo.mean(axis=1), 44_100, 16_000, quality="HQ")
    np.testing.assert_allclose(sound.read(16_000), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_a_stretch_is_that_of_the_whole(kind: str) -> None:
    data = encoded(tone(4.0), kind=kind)
    whole = Sound(data).read()
    stretch = Sound(data).read(start=1.5, seconds=1.0)
    np.testing.assert_allclose(stretch, whole[24_000:40_000], atol=1e-4)


def test_short_sounds_are_filled_up_as_is_said() -> None:
    sound = Sound.of(np.arange(1, 5, dtype=np.float32), 4_000)
    rows = {
        short: row(AudioTransform(4_000, 10 / 4_000, short=short), sound) for short in ("pad", "repeat", "repeat_pad")
    }
    assert rows["pad"].tolist() == [1, 2, 3, 4, 0, 0, 0, 0, 0, 0]
    assert rows["repeat"].tolist() == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]
    assert rows["repeat_pad"].tolist() == [1, 2, 3, 4, 1, 2, 3, 4, 0, 0]


def test_masked_sounds_end_in_nan_and_batches_as_the_longest_does() -> None:
    transform = AudioTransform(4_000, 10 / 4_000, short="mask", multiple=3)
    rows = transform.empty(3)
    for out, samples in zip(rows, (4, 2, 9), strict=True):
        transform(Sound.of(np.arange(1, samples + 1, dtype=np.float32), 4_000), np.random.default_rng, out)
    present = torch.tensor([True, True, False])
    batch = transform.finish(rows.clone(), present)
    assert batch.shape == (3, 6)
    np.testing.assert_array_equal(batch[:2], [[1, 2, 3, 4, np.nan, np.nan], [1, 2, *[np.nan] * 4]])
    assert (batch[2] == 0).all()
    assert transform.finish(rows, torch.ones(3, dtype=torch.bool)).shape == (3, 9)
    transform(Sound.of(np.arange(20, dtype=np.float32), 4_000), np.random.default_rng, rows[0])
    assert transform.finish(rows, torch.ones(3, dtype=torch.bool)).shape == (3, 10)  # never more than the seconds


def test_long_sounds_are_cut_where_is_said_and_draw_from_what_they_are_given() -> None:
    sound = Sound.of(np.arange(8_000, dtype=np.float32), 4_000)
    cut = {crop: row(AudioTransform(4_000, 0.5, crop=crop), sound) for crop in ("start", "middle", "random")}
    assert cut["start"][0] == 0
    assert cut["middle"][0] == 3_000
    assert (np.diff(cut["random"]) == 1).all()
    again = [row(AudioTransform(4_000, 0.5), sound, seed)[0] for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]


def test_every_length_and_rate_fills_its_row() -> None:
    for rate in (8_000, 11_025, 22_050, 44_100, 48_000):
        for seconds in (0.01, 0.5, 0.999, 1.0, 1.001, 3.0):
            out = row(AudioTransform(16_000, 1.0, short="repeat"), Sound.of(tone(seconds, rate), rate))
            assert out.shape == (16_000,)
            assert np.isfinite(out).all()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty audio"),
        (b"RIFF....WAVE", "audio cannot be decoded"),
        (b"hello" * 100, "audio cannot be decoded"),
        (encoded(np.zeros((0, 1), np.float32)), "audio without samples"),
        (encoded(np.full((100, 1), np.nan, np.float32), subtype="FLOAT"), "audio is not finite"),
        (encoded(np.full((100, 1), np.inf, np.float32), subtype="FLOAT"), "audio is not finite"),
        (encoded(tone(0.1), 100), "audio of 100 Hz"),
        (encoded(tone(), kind="FLAC")[:60], "audio"),
    ],
)
def test_what_cannot_be_used_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(BadSampleError, match=reason):
        row(AudioTransform(16_000, 1.0), Sound(data))


def test_rows_are_float32_on_any_default() -> None:
    assert AudioTransform(16_000, 0.1).empty(2).dtype == torch.float32


@pytest.mark.parametrize("wrong", [{"rate": 0}, {"seconds": 0.0}, {"seconds": 1e-9}])
def test_what_no_sound_can_have_is_told(wrong: dict[str, object]) -> None:
    with pytest.raises(MmclError, match="AudioTransform: rate"):
        AudioTransform(**{"rate": 8_000, "seconds": 1.0, **wrong})  # type: ignore[arg-type]


def test_reasons_are_words() -> None:
    with pytest.raises(BadSampleError, match=r"audio cannot be decoded \(Format not recognised\)"):
        Sound(b"noise" * 100)


def test_a_sound_that_is_far_too_loud_is_told() -> None:
    with pytest.raises(BadSampleError, match=r"samples up to 1e\+19, where 1 is as loud as can be"):
        Sound.of(np.full(100, 1e19, np.float32), 8000).read()


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "int32"])
def test_integers_are_scaled_as_libsndfile_does_it(kind: str) -> None:
    limits = np.iinfo(kind)
    samples = np.random.default_rng(0).integers(limits.min, limits.max, (500, 2), kind, endpoint=True)
    samples[:2] = [[limits.min, limits.max], [limits.max, limits.min]]
    if kind.endswith("8"):  # which soundfile does not write
        expected = (samples.astype(np.float64) - (128 if kind == "uint8" else 0)) / 128
    else:
        data = encoded(samples, subtype="PCM_16" if kind == "int16" else "PCM_32")
        expected = soundfile.read(io.BytesIO(data), dtype="float32")[0]
    np.testing.assert_allclose(Sound.of(samples, 16_000).read(), expected.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros((1, 16_000)), r"audio of 16,000 channels and 1 frames; \(frames, channels\) is expected"),
        (np.zeros((2, 16_000), np.int16), r"16,000 channels and 2 frames; \(frames, channels\) is expected"),
        (np.zeros((200, 65)), r"65 channels and 200 frames.* at most 64 channels"),
        (np.zeros((2, 3, 4)), r"audio of shape \(2, 3, 4\); \(frames,\) or \(frames, channels\) is expected"),
        (np.float32(3), r"audio of shape \(\)"),
        (np.zeros(10, np.int64), r"audio of int64; floats in \[-1, 1\], or int8, uint8, int16, int32, are expected"),
        (np.zeros(10, bool), "audio of bool"),
        (np.zeros(10, complex), "audio of complex128"),
        (np.zeros(0), "audio without samples"),
        (np.zeros((0, 2)), "audio without samples"),
    ],
)
def test_samples_of_other_shapes_and_kinds_are_told(samples: np.ndarray, reason: str) -> None:
    with pytest.raises(BadSampleError, match=reason):
        Sound.of(np.asarray(samples), 16_000)
