"""Encoded pictures and sounds: opened by their headers, decoded as far as they are used."""

from mmcl.media.audio import Sound
from mmcl.media.image import Box, Picture
from mmcl.media.logmel import MELS, LogMel, Mel, MelPart
from mmcl.media.normalize import Normalize
from mmcl.media.transforms import AudioTransform, ImageTransform

__all__ = [
    "MELS",
    "AudioTransform",
    "Box",
    "ImageTransform",
    "LogMel",
    "Mel",
    "MelPart",
    "Normalize",
    "Picture",
    "Sound",
]
