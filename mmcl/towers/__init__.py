"""Encoders: one family a file. A tower turns a batch of one modality into vectors of the shared width."""

from mmcl.towers.base import TOWERS, Asset, Backbone, ModelFolder, Tower, TowerPart, TowerSpec, asset, model_folder
from mmcl.towers.heads import HEADS
from mmcl.towers.policies import POLICIES
from mmcl.towers.spectrogram_vit import SpectrogramVit
from mmcl.towers.text_transformer import TextTransformer
from mmcl.towers.timm_audio import TimmAudio
from mmcl.towers.tokenizers import TOKENIZERS, SentencePiece, Tokenizer, train_sentencepiece
from mmcl.towers.transformers_audio import TransformersAudio
from mmcl.towers.vector import Vector
from mmcl.towers.vit import Vit

__all__ = [
    "HEADS",
    "POLICIES",
    "TOKENIZERS",
    "TOWERS",
    "Asset",
    "Backbone",
    "ModelFolder",
    "SentencePiece",
    "SpectrogramVit",
    "TextTransformer",
    "TimmAudio",
    "Tokenizer",
    "Tower",
    "TowerPart",
    "TowerSpec",
    "TransformersAudio",
    "Vector",
    "Vit",
    "asset",
    "model_folder",
    "train_sentencepiece",
]
