"""What transformers' feature extractors do to sounds, as spectrograms of ours."""

from typing import Any, NamedTuple

from transformers import FeatureExtractionMixin

from mmcl.errors import MmclError
from mmcl.media import MELS, Mel
from mmcl.media.transforms import Short

CLAP, AST, WHISPER = "clap_audio_model", "audio-spectrogram-transformer", "whisper"
FILLED: dict[str, Short] = {"repeatpad": "repeat_pad", "repeat": "repeat", "pad": "pad"}


class Extracted(NamedTuple):
    """How a model's sounds are prepared."""

    mel: Mel
    seconds: float
    """That it hears at once."""
    short: Short
    """What follows shorter sounds."""


def extraction_of(model: str, config: Any) -> Extracted:
    """What a model's folder says of its sounds (preprocessor_config.json), or what models of its type expect.

    Args:
        model: the folder, or name on the hub.
        config: of the encoder.

    Raises:
        MmclError: its extractor does what mmcl's spectrograms do not.
    """
    try:
        said, _ = FeatureExtractionMixin.get_feature_extractor_dict(model)
    except OSError:
        said = {}
    try:
        return {CLAP: of_clap, AST: of_ast, WHISPER: of_whisper}[config.model_type](said, config)
    except ValueError as error:
        raise MmclError(f"model: the feature extractor of {model} cannot be followed: {error}") from None


def of_clap(said: dict[str, Any], config: Any) -> Extracted:
    """Of CLAP; models that fuse long sounds were trained with another bank of filters."""
    if said.get("top_db") is not None:
        raise ValueError("it limits decibels (top_db)")
    fuses = said.get("truncation", "fusion" if config.enable_fusion else "rand_trunc") == "fusion"
    mel = _but(
        MELS["clap_fused" if fuses else "clap"],
        rate=said.get("sampling_rate"),
        n_fft=said.get("fft_window_size"),
        hop=said.get("hop_length"),
        mels=said.get("feature_size", config.num_mel_bins),
        fmin=said.get("frequency_min"),
        fmax=said.get("frequency_max"),
    )
    seconds, longest = said.get("max_length_s", 10), config.spec_size * (config.spec_size // config.num_mel_bins)
    if mel.mels != config.num_mel_bins or mel.frames(round(seconds * mel.rate)) > longest:
        raise ValueError(
            f"{seconds} s of {mel.mels} bands are no picture for a model of {longest} frames of {config.num_mel_bins} "
            "bands"
        )
    return Extracted(mel, seconds, FILLED[said.get("padding", "repeatpad")])


def of_ast(said: dict[str, Any], config: Any) -> Extracted:
    """Of AST: as many frames as the model sees."""
    normal = said.get("do_normalize", True)
    mel = _but(
        MELS["ast"],
        rate=said.get("sampling_rate"),
        mels=config.num_mel_bins,
        mean=said.get("mean") if normal else 0.0,
        std=(2 * said["std"] if "std" in said else None) if normal else 1.0,
    )
    return Extracted(mel, mel.samples(config.max_length) / mel.rate, "mask")


def of_whisper(said: dict[str, Any], config: Any) -> Extracted:
    """Of Whisper: twice as many frames as the encoder has positions."""
    if said.get("dither"):
        raise ValueError("it adds noise (dither)")
    mel = _but(
        MELS["whisper"],
        rate=said.get("sampling_rate"),
        n_fft=said.get("n_fft"),
        hop=said.get("hop_length"),
        mels=config.num_mel_bins,
    )
    return Extracted(mel, mel.samples(2 * config.max_source_positions) / mel.rate, "mask")


def _but(mel: Mel, **said: Any) -> Mel:
    """The same with what is said."""
    return Mel.model_validate({**mel.model_dump(), **{key: value for key, value in said.items() if value is not None}})
