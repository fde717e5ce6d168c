"""Log-mel spectrograms: the libraries' numbers, and each sound's own however long the others are."""

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from transformers import ASTFeatureExtractor, ClapFeatureExtractor, WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from mmcl.errors import MmclError
from mmcl.media.logmel import CACHED, MELS, LogMel, Mel, MelPart

RNG = np.random.default_rng(0)


def sounds(seconds: float, rate: int, rows: int = 2) -> np.ndarray:
    """Sweeps in noise; the first falls silent."""
    time = np.arange(round(seconds * rate)) / rate
    sweep = 0.4 * np.sin(2 * np.pi * (200 + 900 * time) * time) + 0.05 * RNG.standard_normal((rows, len(time)))
    sweep[0, -len(time) // 5 :] = 0
    return sweep.astype(np.float32)


def made(name: str, waves: np.ndarray) -> torch.Tensor:
    return LogMel(MELS[name])(torch.from_numpy(waves))


@pytest.mark.parametrize(("name", "truncation"), [("clap", "rand_trunc"), ("clap_fused", "fusion")])
def test_clap_is_the_extractors(name: str, truncation: str) -> None:
    waves = sounds(10.0, 48_000)
    extractor = ClapFeatureExtractor(frequency_min=50, truncation=truncation)
    theirs = extractor(list(waves), sampling_rate=48_000, return_tensors="pt")["input_features"][:, 0]
    torch.testing.assert_close(made(name, waves), theirs, rtol=0, atol=1e-3)  # dB


@pytest.mark.parametrize(("name", "mels"), [("whisper", 80), ("whisper_128", 128)])
def test_whisper_is_the_extractors(name: str, mels: int) -> None:
    waves = sounds(30.0, 16_000)
    extractor = WhisperFeatureExtractor(feature_size=mels)
    theirs = extractor(list(waves), sampling_rate=16_000, return_tensors="pt")["input_features"]
    torch.testing.assert_close(made(name, waves), theirs.mT, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:At least one mel filter")  # of the extractor
def test_ast_is_the_extractors_blank_frames_as_well() -> None:
    waves = sounds(6.0, 16_000)
    theirs = ASTFeatureExtractor()(list(waves), sampling_rate=16_000, return_tensors="pt")["input_values"]
    rows = np.full((2, 160 * 1023 + 400), np.nan, np.float32)
    rows[:, : waves.shape[1]] = waves
    ours, there = LogMel(MELS["ast"]).masked(torch.from_numpy(rows))
    assert there.sum(1).tolist() == [598, 598]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)  # theirs are of 64 bits; faint bands differ most
    assert (ours - theirs).abs().mean() < 1e-6


def test_imagebind_is_asts_otherwise_normalised() -> None:
    waves = sounds(2.0, 16_000)
    logs = made("ast", waves) * (2 * 4.5689974) - 4.2677393
    torch.testing.assert_close(made("imagebind", waves), (logs + 4.268) / 9.138)


def test_msclap_is_the_librarys_spectrogram() -> None:
    (wave,) = sounds(3.0, 44_100, rows=1)
    bank = mel_filter_bank(513, 64, 50, 14_000, 44_100, norm="slaney", mel_scale="slaney")
    theirs = spectrogram(wave, window_function(1024), 1024, 320, power=2.0, mel_filters=bank, log_mel="dB")
    torch.testing.assert_close(made("msclap", wave[None])[0], torch.from_numpy(theirs).T, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", MELS)
def test_a_sound_is_its_own_whatever_stands_beside_it(name: str) -> None:
    mel = LogMel(MELS[name])
    waves = torch.from_numpy(sounds(3.0, 16_000, rows=3))
    for samples in (20_000, 20_480, 1, mel.mel.frame - 1, mel.mel.frame // 2):
        rows = waves.clone()
        rows[1, samples:] = torch.nan
        together, there = mel.masked(rows)
        alone, own = mel.masked(rows[1:2, :21_000])
        count = int(there[1].sum())
        assert count == int(own.sum()) == mel.mel.frames(samples)
        torch.testing.assert_close(together[1, : alone.shape[1]], alone[0], rtol=0, atol=1e-6)
        assert together.isfinite().all()
        if samples > mel.mel.frame:
            torch.testing.assert_close(together[1, :count], mel(waves[1:2, :samples])[0], rtol=0, atol=1e-6)


def test_blocks_of_long_batches_make_no_difference() -> None:
    mel = LogMel(MELS["plain"])
    waves = torch.from_numpy(sounds(CACHED / 16_000 * 0.6, 16_000, rows=3))
    together = mel(waves)
    for start in (0, 1000, 1700):  # frames away from the ends, in any block
        piece = mel(waves[:, start * 160 : (start + 100) * 160])
        loudest = together.amax((1, 2), keepdim=True)
        torch.testing.assert_close(together[:, start + 2 : start + 98], torch.maximum(piece[:, 2:98], loudest - 2))


def test_half_precision_around_it_changes_nothing() -> None:
    waves = torch.from_numpy(sounds(1.0, 16_000))
    mel = LogMel(MELS["plain"])
    with torch.autocast("cpu", torch.bfloat16):
        inside, there = mel.masked(waves)
    assert inside.dtype == torch.float32
    assert there.all()
    torch.testing.assert_close(inside, mel(waves))


def test_a_recipe_names_one_or_says_what_is_different() -> None:
    check = TypeAdapter(MelPart).validate_python
    assert check("whisper") == MELS["whisper"]
    assert check({"preset": "whisper", "mels": 64}) == MELS["whisper"].model_copy(update={"mels": 64})
    assert check({"rate": 8_000}).highest == 4_000
    assert check(check({"hop": 80}).model_dump()) == Mel(hop=80)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("wisper", "did you mean 'whisper'"),
        ({"preset": "clap", "fmax": 30_000}, "not above half of the rate"),
        ({"window": 500}, "does not fit into n_fft 400"),
        ({"hopp": 80}, "did you mean 'hop'"),
        ({"emphasis": 0.9}, "not centred"),
    ],
)
def test_what_cannot_be_is_refused(said: object, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        TypeAdapter(MelPart).validate_python(said)


def test_bands_that_would_hear_nothing_are_refused() -> None:
    with pytest.raises(MmclError, match="n_fft 64 has too few frequencies for 64 bands"):
        LogMel(Mel(n_fft=64))
