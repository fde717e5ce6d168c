"""Encoders: one family a file. A tower turns a batch of one modality into vectors of the shared width."""

from mmcl.towers.base import TOWERS, Asset, Backbone, ModelFolder, Tower, TowerPart, TowerSpec, asset, model_folder
from mmcl.towers.heads import HEADS
from mmcl.towers.lora import merged, merged_state
from mmcl.towers.policies import POLICIES
from mmcl.towers.spectrogram_vit import SpectrogramVit
from mmcl.towers.text_transformer import TextTransformer
from mmcl.towers.tokenizers import TOKENIZERS, SentencePiece, Tokenizer, train_sentencepiece
from mmcl.towers.vector import Vector
from mmcl.towers.vit import Vit
from mmcl.towers.weights import Loaded

__all__ = [
    "HEADS",
    "POLICIES",
    "TOKENIZERS",
    "TOWERS",
    "Asset",
    "Backbone",
    "Loaded",
    "ModelFolder",
    "SentencePiece",
    "SpectrogramVit",
    "TextTransformer",
    "Tokenizer",
    "Tower",
    "TowerPart",
    "TowerSpec",
    "Vector",
    "Vit",
    "asset",
    "merged",
    "merged_state",
    "model_folder",
    "train_sentencepiece",
]
