"""`mmcl.load` of models of libraries: the library's own vectors, and no weights that nobody chose."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

import mmcl
from mmcl.errors import MmclError
from mmcl.media import Picture
from mmcl.opening import FORMS
from mmcl.towers import TOWERS

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
TEXTS = ["a small dog", "the letter alpha"]
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "layers": 1, "heads": 2},
}


def needs(*families: str) -> pytest.MarkDecorator:
    missing = [name for name in families if name not in TOWERS.classes]
    return pytest.mark.skipif(bool(missing), reason=f"no family {missing}")


def normal(mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    pixels = torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, open_clip.CLIP]:
    """A model of open_clip as the hub keeps one: a configuration and weights in a folder."""
    folder = tmp_path_factory.mktemp("small")
    torch.manual_seed(0)
    clip = open_clip.CLIP(**CONFIG).eval()
    (folder / "small.json").write_text(json.dumps(CONFIG))
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG}))
    save_file(clip.state_dict(), folder / "open_clip_model.safetensors")
    return folder, clip


@needs("open_clip_image", "open_clip_text")
@pytest.mark.parametrize("form", ["config and file", "folder", "folder without its scheme", "a training's file"])
def test_a_model_of_open_clip_gives_its_own_vectors(small: Any, tmp_path: Path, form: str) -> None:
    folder, clip = small
    torch.save({"epoch": 1, "state_dict": clip.state_dict()}, tmp_path / "epoch_1.pt")
    what, weights = {
        "config and file": (f"open_clip:{folder / 'small.json'}", folder / "open_clip_model.safetensors"),
        "folder": (f"open_clip:{folder}", None),
        "folder without its scheme": (folder, None),
        "a training's file": (f"open_clip:{folder / 'small.json'}", tmp_path / "epoch_1.pt"),
    }[form]
    encoder = mmcl.load(what, "cpu", weights=weights)
    pixels = normal(open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    tokens = open_clip.tokenizer.SimpleTokenizer(context_length=12)(TEXTS)
    with torch.no_grad():
        image, text = F.normalize(clip.encode_image(pixels), dim=-1), F.normalize(clip.encode_text(tokens), dim=-1)
    torch.testing.assert_close(encoder.embed("image", list(PIXELS)), image, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoder.embed("text", TEXTS), text, atol=1e-5, rtol=1e-5)


@needs("open_clip_image", "open_clip_text")
def test_weights_of_a_model_of_open_clip_must_be_chosen_and_fit(small: Any, tmp_path: Path) -> None:
    config = f"open_clip:{small[0] / 'small.json'}"
    with pytest.raises(MmclError, match=r"say weights: .*`random`.*Its tags: none"):
        mmcl.load(config)
    with pytest.raises(MmclError, match=r"Its tags: openai, laion"):
        mmcl.load("open_clip:ViT-B-32")
    assert mmcl.load(config, weights="random").dim == 16
    wider = {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], "width": 64}}  # type: ignore[dict-item]
    (tmp_path / "wider.json").write_text(json.dumps(wider))
    with pytest.raises(MmclError, match=r"towers.image.weights: .* other shapes: .* instead of \(64"):
        mmcl.load(f"open_clip:{tmp_path / 'wider.json'}", weights=small[0] / "open_clip_model.safetensors")


@needs("open_clip_image", "open_clip_text")
def test_the_command_line_takes_models_of_libraries(small: Any, tmp_path: Path, glyphs: Any) -> None:
    from mmcl.cli.embed import embed

    folder, _ = small
    model, weights = f"open_clip:{folder / 'small.json'}", str(folder / "open_clip_model.safetensors")
    with pytest.raises(MmclError, match="has no recipe .* --modalities image=jpg,text=txt"):
        embed(model, shards=str(glyphs.test), out=tmp_path / "out", weights=weights)
    embed(model, shards=str(glyphs.test), out=tmp_path / "out", weights=weights, modalities="image=png,text=txt")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["dim"] == 16


def of_transformers(folder: Path, kind: str) -> Any:
    """A small CLIP or SigLIP of transformers in a folder, with its tokenizer and its processor."""
    words = ["<pad>", "<start>", "a", "small", "dog", "the", "letter", "alpha", "<unk>", "<end>"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    made.post_processor = TemplateProcessing(  # type: ignore[assignment]
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 9)]
    )
    special = {"pad_token": "<pad>", "bos_token": "<start>", "eos_token": "<end>", "unk_token": "<unk>"}
    seen = ["input_ids", "attention_mask"] if kind == "clip" else ["input_ids"]  # SigLIP sees its padding
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=12, model_input_names=seen, **special
    )
    fast.save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    numbers = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 9, "vocab_size": 10, "max_position_embeddings": 12}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    if kind == "clip":
        config = transformers.CLIPConfig(text_config={**sizes, **numbers}, vision_config=vision, projection_dim=16)
        model = transformers.CLIPModel(config)
        size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
        transformers.CLIPImageProcessor(**size).save_pretrained(folder)
    else:
        text = {**sizes, **numbers, "projection_size": 32}
        model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))
        transformers.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    model.eval().save_pretrained(folder)
    return model


@needs("transformers_image", "transformers_text")
@pytest.mark.parametrize(("kind", "scheme"), [("clip", "transformers:"), ("clip", ""), ("siglip", "")])
def test_a_model_of_transformers_gives_its_own_vectors(tmp_path: Path, kind: str, scheme: str) -> None:
    model = of_transformers(tmp_path, kind)
    encoder = mmcl.load(f"{scheme}{tmp_path}", "cpu")
    clip = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    pixels = normal(*clip) if kind == "clip" else normal((0.5,) * 3, (0.5,) * 3)
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path)(TEXTS, padding="max_length", return_tensors="pt")
    with torch.no_grad():
        both = model(pixel_values=pixels, **tokens)
    torch.testing.assert_close(encoder.embed("image", list(PIXELS)), both.image_embeds, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoder.embed("text", TEXTS), both.text_embeds, atol=1e-5, rtol=1e-5)


@needs("timm_image")
def test_a_model_of_timm_is_one_tower() -> None:
    import timm

    with pytest.raises(MmclError, match="timm:test_vit: say weights"):
        mmcl.load("timm:test_vit")
    torch.manual_seed(3)
    encoder = mmcl.load("timm:test_vit", "cpu", weights="random")
    assert encoder.modalities == ("image",)
    own = timm.create_model("test_vit", num_classes=0).eval()
    assert encoder.dim == own.num_features
    own.load_state_dict(
        {k.removeprefix("model."): t for k, t in encoder.model.tower("image").backbone.state_dict().items()}
    )
    rows = encoder.transforms["image"].empty(1)
    encoder.transforms["image"](Picture.of(PIXELS[0]), np.random.default_rng, rows[0])
    pixels = encoder.model.tower("image").backbone.normalize(rows)  # type: ignore[operator]
    with torch.no_grad():
        expected = F.normalize(own(pixels), dim=-1)
    torch.testing.assert_close(encoder.embed("image", [PIXELS[0]]), expected, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(MmclError, match=r"is no run folder.*What can be opened: a run folder; .*; open_clip:NAME"):
        mmcl.load(tmp_path)
    with pytest.raises(MmclError, match="open_clip has no model 'ViT-Q-1'"):
        mmcl.load("open_clip:ViT-Q-1", weights="random")
    with pytest.raises(MmclError, match=r"there is no file 'nowhere.json'"):
        mmcl.load("open_clip:nowhere.json", weights="random")
    with pytest.raises(MmclError, match=rf"{tmp_path}: the configuration cannot be read: the folder"):
        mmcl.load(f"transformers:{tmp_path}")
    transformers.BertConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(MmclError, match=r"a bert is no model of two towers .* transformers_image, _text"):
        mmcl.load(tmp_path)
    (tmp_path / "recipe.yaml").write_text("{}")
    with pytest.raises(MmclError, match=r"is a run, which has its own weights"):
        mmcl.load(tmp_path, weights="random")
    assert len({form.about for form in FORMS}) == len(FORMS)
