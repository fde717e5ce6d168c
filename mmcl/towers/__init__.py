"""Encoders: one family a file. A tower turns a batch of one modality into vectors of the shared width."""

from mmcl.towers.base import TOWERS, Asset, Tower, TowerPart, asset
from mmcl.towers.open_clip_image import OpenClipImage
from mmcl.towers.open_clip_text import OpenClipText
from mmcl.towers.tokenizers import TOKENIZERS, SentencePiece, Tokenizer, train_sentencepiece

__all__ = [
    "TOKENIZERS",
    "TOWERS",
    "Asset",
    "OpenClipImage",
    "OpenClipText",
    "SentencePiece",
    "Tokenizer",
    "Tower",
    "TowerPart",
    "asset",
    "train_sentencepiece",
]
