"""Tiny models of transformers and their tokenizers, with random weights, in folders."""

from pathlib import Path

import torch
import transformers as tf
from tokenizers import ByteLevelBPETokenizer, Tokenizer, models, pre_tokenizers, processors

WORDS = ["a", "photo", "of", "cat", "dog", "two", "red", "boats", "on", "the", "sea", "query", "passage", ":", "!"]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
TEXTS = ["a cat", "a photo of two red boats on the sea", "dog", "the unknown of the sea !"]


def tokenizer(*special: str, before: str | None, after: str | None, **named: object) -> tf.PreTrainedTokenizerFast:
    """One of words, whose numbers begin with those of the special tokens."""
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=str(named["unk_token"])))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    around = " ".join(filter(None, (before, "$A", after)))
    if before or after:
        words.post_processor = processors.TemplateProcessing(
            single=around, special_tokens=[(t, vocabulary[t]) for t in (before, after) if t]
        )
    return tf.PreTrainedTokenizerFast(tokenizer_object=words, **named)


def bert_like(model_max_length: int = 24) -> tf.PreTrainedTokenizerFast:
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return tokenizer(*names.values(), before="[CLS]", after="[SEP]", model_max_length=model_max_length, **names)


def roberta_like() -> tf.PreTrainedTokenizerFast:
    names = {"cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    more = {"bos_token": "<s>", "sep_token": "</s>", "model_max_length": 24}
    return tokenizer(*names.values(), before="<s>", after="</s>", **names, **more)


def clip_like() -> tf.PreTrainedTokenizerFast:
    names = {"unk_token": "?", "bos_token": "<s>", "eos_token": "<e>"}
    return tokenizer("?", "<s>", "<p>", "<e>", before="<s>", after="<e>", model_max_length=24, pad_token="<e>", **names)


def siglip_like() -> tf.PreTrainedTokenizerFast:
    names = {"unk_token": "?", "eos_token": "<e>", "pad_token": "<e>"}
    more = {"model_input_names": ["input_ids"], "model_max_length": 24}
    return tokenizer("?", "<e>", before=None, after="<e>", **names, **more)


def gpt_like() -> tf.PreTrainedTokenizerFast:
    return tokenizer("?", "<e>", before=None, after=None, unk_token="?", eos_token="<e>", bos_token="<e>")


def bytes_like() -> tf.PreTrainedTokenizerFast:
    """Byte-level pairs, as Qwen2's own class wants them."""
    pairs = ByteLevelBPETokenizer()
    pairs.train_from_iterator(TEXTS, vocab_size=280, min_frequency=2, special_tokens=["<e>"], show_progress=False)
    return tf.PreTrainedTokenizerFast(tokenizer_object=pairs._tokenizer, unk_token="<e>", eos_token="<e>")


def save(folder: Path, config: tf.PreTrainedConfig, words: tf.PreTrainedTokenizerFast, cls: type | None = None) -> str:
    """A folder of a model with random weights, none of them zero."""
    torch.manual_seed(0)
    model = (cls or tf.MODEL_MAPPING[type(config)])(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


def folders(root: Path) -> dict[str, str]:
    """One of each kind."""
    size = {**SMALL, "vocab_size": 24, "max_position_embeddings": 24}
    images = {**SMALL, "image_size": 8, "patch_size": 4}
    sounds = {"spec_size": 64, "num_mel_bins": 16, "depths": [1, 1], "num_attention_heads": [1, 2], "hidden_size": 32}
    sounds |= {"patch_embeds_hidden_size": 16, "projection_dim": 20, "window_size": 4, "enable_fusion": False}
    ends = {"bos_token_id": 1, "eos_token_id": 3}
    clip = tf.CLIPConfig(text_config={**size, **ends}, vision_config=images, projection_dim=20)
    siglip = tf.SiglipConfig(text_config={**size, **ends, "projection_size": 20}, vision_config=images)
    clap = tf.ClapConfig(
        text_config={**size, "max_position_embeddings": 26, "pad_token_id": 1, "projection_dim": 20},
        audio_config=sounds,
        projection_dim=20,
    )
    roberta = {**size, "max_position_embeddings": 26, "pad_token_id": 1}
    decoder = {**size, "num_key_value_heads": 1, "vocab_size": 280, "max_position_embeddings": 64}
    gpt = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 24, "vocab_size": 24, "bos_token_id": 1}
    t5 = {"vocab_size": 24, "d_model": 32, "d_kv": 16, "d_ff": 48, "decoder_start_token_id": 0}
    return {
        "clip": save(root / "clip", clip, clip_like()),
        "siglip": save(root / "siglip", siglip, siglip_like()),
        "clap": save(root / "clap", clap, roberta_like()),
        "bert": save(root / "bert", tf.BertConfig(**size), bert_like(), tf.BertForMaskedLM),
        "roberta": save(root / "roberta", tf.RobertaConfig(**roberta), roberta_like()),
        "gpt2": save(root / "gpt2", tf.GPT2Config(**gpt, eos_token_id=1), gpt_like(), tf.GPT2LMHeadModel),
        "qwen2": save(root / "qwen2", tf.Qwen2Config(**decoder), bytes_like()),
        "t5": save(
            root / "t5",
            tf.T5Config(**t5, num_layers=2, num_heads=2),
            roberta_like(),
        ),
    }
