"""Encoders: one family a file. A tower turns a batch of one modality into vectors of the shared width."""

from mmcl.towers.base import TOWERS, Asset, Backbone, ModelFolder, Tower, TowerPart, TowerSpec, asset, model_folder
from mmcl.towers.heads import HEADS
from mmcl.towers.open_clip_image import OpenClipImage
from mmcl.towers.policies import POLICIES
from mmcl.towers.text_transformer import TextTransformer
from mmcl.towers.timm_image import TimmImage
from mmcl.towers.tokenizers import TOKENIZERS, SentencePiece, Tokenizer, train_sentencepiece
from mmcl.towers.transformers_image import TransformersImage
from mmcl.towers.vit import Vit

__all__ = [
    "HEADS",
    "POLICIES",
    "TOKENIZERS",
    "TOWERS",
    "Asset",
    "Backbone",
    "ModelFolder",
    "OpenClipImage",
    "SentencePiece",
    "TextTransformer",
    "TimmImage",
    "Tokenizer",
    "Tower",
    "TowerPart",
    "TowerSpec",
    "TransformersImage",
    "Vit",
    "asset",
    "model_folder",
    "train_sentencepiece",
]
