"""Encoders: one family a file. A tower turns a batch of one modality into vectors of the shared width."""

from mmcl.towers.base import Asset, Tower, TowerPart, asset, towers
from mmcl.towers.open_clip_image import OpenClipImage
from mmcl.towers.open_clip_text import OpenClipText
from mmcl.towers.tokenizers import SentencePiece, Tokenizer, tokenizers, train_sentencepiece

__all__ = [
    "Asset",
    "OpenClipImage",
    "OpenClipText",
    "SentencePiece",
    "Tokenizer",
    "Tower",
    "TowerPart",
    "asset",
    "tokenizers",
    "towers",
    "train_sentencepiece",
]
