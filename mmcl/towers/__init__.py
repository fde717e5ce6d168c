"""Encoders: one family a file. A tower turns a batch of one modality into vectors of the shared width."""

from mmcl.towers.base import TOWERS, Asset, Backbone, Tower, TowerPart, TowerSpec, asset
from mmcl.towers.folders import ModelFolder, model_folder
from mmcl.towers.heads import HEADS
from mmcl.towers.library_tokenizers import OpenClipBpe, TransformersTokenizer
from mmcl.towers.lora import merged, merged_state
from mmcl.towers.open_clip_image import OpenClipImage
from mmcl.towers.open_clip_text import OpenClipText
from mmcl.towers.policies import POLICIES
from mmcl.towers.spectrogram_vit import SpectrogramVit
from mmcl.towers.text_transformer import TextTransformer
from mmcl.towers.timm_audio import TimmAudio
from mmcl.towers.timm_image import TimmImage
from mmcl.towers.tokenizers import TOKENIZERS, SentencePiece, Tokenizer, train_sentencepiece
from mmcl.towers.transformers_audio import TransformersAudio
from mmcl.towers.transformers_image import TransformersImage
from mmcl.towers.transformers_text import TransformersText
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
    "OpenClipBpe",
    "OpenClipImage",
    "OpenClipText",
    "SentencePiece",
    "SpectrogramVit",
    "TextTransformer",
    "TimmAudio",
    "TimmImage",
    "Tokenizer",
    "Tower",
    "TowerPart",
    "TowerSpec",
    "TransformersAudio",
    "TransformersImage",
    "TransformersText",
    "TransformersTokenizer",
    "Vector",
    "Vit",
    "asset",
    "merged",
    "merged_state",
    "model_folder",
    "train_sentencepiece",
]
