"""Runs whose towers are models of libraries: the library opens the export, and finds the same vectors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
import transformers as tf

import mmcl
from mmcl.errors import MmclError
from mmcl.exports import open_export
from mmcl.model import Encoder
from mmcl.towers import train_sentencepiece
from tests.exports.conftest import DIM, PICTURES, WORDS, Make, foreign
from tests.towers import libraries, tiny_texts

TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A CLIP of open_clip in a folder, as `model`."""
    folder = tmp_path_factory.mktemp("clip")
    config = {"embed_dim": DIM, "vision_cfg": libraries.VIT, "text_cfg": TEXT, "quick_gelu": True}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"interpolation": "bilinear"}})
    )
    torch.save(libraries.stirred(open_clip.CLIP(**config)).state_dict(), folder / "open_clip_model.pth")
    return f"local-dir:{folder}"


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(F.normalize(found, dim=-1), expected, atol=1e-5, rtol=0)


def pixels(ours: Encoder, count: int = 3) -> torch.Tensor:
    backbone: Any = ours.model.tower("image").backbone
    return backbone.normalize(ours.rows("image", PICTURES[:count]))


@torch.no_grad()
def opens_in_open_clip(folder: Path, ours: Encoder, words: list[str] = WORDS) -> Any:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    close(model.encode_image(pixels(ours)), ours.embed("image", PICTURES))
    torch.testing.assert_close(torch.stack([preprocess(p) for p in PICTURES]), pixels(ours), atol=0.05, rtol=0)
    close(model.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(words)), ours.embed("text", words))
    return model


def comes_back(folder: Path, ours: Encoder) -> None:
    """Through the manifest, and as a folder of the library."""
    for again in (open_export(folder, "cpu"), mmcl.load(foreign(folder, folder.with_suffix(".foreign")), "cpu")):
        close(again.embed("text", WORDS), ours.embed("text", WORDS))
        close(again.embed("image", PICTURES), ours.embed("image", PICTURES))


@pytest.mark.parametrize(
    ("image", "text"),
    [
        pytest.param({}, {}, marks=pytest.mark.slow),
        ({"policy": "frozen", "image_size": 48}, {"context_length": 8, "head": "linear"}),
        pytest.param(
            {"head": "linear", "mean": [0.5, 0.5, 0.5]},
            {"policy": {"name": "lora", "rank": 2}},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_clip_of_open_clip(image: Any, text: Any, clip: str, made: Make, tmp_path: Path) -> None:
    run = made(
        image={"name": "open_clip_image", "model": clip, "weights": "pretrained", **image},
        text={"name": "open_clip_text", "model": clip, "weights": "pretrained", **text},
    )
    ours = mmcl.load(run, "cpu")
    mmcl.export(run, "open_clip", tmp_path / "open_clip")
    opens_in_open_clip(tmp_path / "open_clip", ours)
    comes_back(tmp_path / "open_clip", ours)
    mmcl.export(run, "transformers", tmp_path / "transformers")
    opens_in_transformers(tmp_path / "transformers", ours, tf.CLIPModel)
    comes_back(tmp_path / "transformers", ours)


@torch.no_grad()
def opens_in_transformers(folder: Path, ours: Encoder, cls: Any) -> None:
    model, processor = cls.from_pretrained(folder).eval(), tf.AutoProcessor.from_pretrained(folder)
    assert isinstance(tf.AutoModel.from_pretrained(folder), cls)
    padding = "max_length" if cls is tf.SiglipModel else True
    tokens = processor.tokenizer(WORDS, return_tensors="pt", padding=padding, truncation=True)
    close(model.get_text_features(**tokens).pooler_output, ours.embed("text", WORDS))
    if cls is tf.ClapModel:
        return
    close(model.get_image_features(pixel_values=pixels(ours)).pooler_output, ours.embed("image", PICTURES))
    theirs = processor.image_processor(PICTURES, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(theirs, pixels(ours), atol=0.05, rtol=0)


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("mobile", "vit_avg")]


@pytest.mark.parametrize("kind", ["resnet", "siglip", *SLOW])
def test_other_sides_of_open_clip(kind: str, made: Make, tmp_path: Path) -> None:
    model = libraries.of_open_clip(kind, tmp_path / "model")
    words = [" ".join(np.random.default_rng(s).permutation(tiny_texts.WORDS)) for s in range(300)]
    tokenizer = {"name": "sentencepiece", "model": str(train_sentencepiece(words, tmp_path / "t.model", 290))}
    text = {"name": "open_clip_text", "model": model.spec["model"], "tokenizer": tokenizer, "weights": "random"}
    image = {"name": "open_clip_image", "model": model.spec["model"], "weights": "random"}
    run = made(dim=40, image=image, text=text)
    ours = mmcl.load(run, "cpu")
    mmcl.export(run, "open_clip", tmp_path / "out")
    opens_in_open_clip(tmp_path / "out", ours, [*WORDS, "日本語 </s>"])
    comes_back(tmp_path / "out", ours)
    with pytest.raises(MmclError, match=r"cannot be exported as transformers: towers.(image|text): "):
        mmcl.export(run, "transformers", tmp_path / "transformers")


@pytest.mark.parametrize(
    ("kind", "cls", "more"),
    [
        pytest.param("clip", tf.CLIPModel, {}, marks=pytest.mark.slow),
        ("clip", tf.CLIPModel, {"head": "linear", "policy": {"name": "lora", "rank": 2}}),
        ("siglip", tf.SiglipModel, {}),
    ],
)
def test_a_pair_of_transformers(
    kind: str, cls: Any, more: Any, folders: dict[str, str], made: Make, tmp_path: Path
) -> None:
    image = {"name": "transformers_image", "model": folders[kind], "image_size": 48, **more}
    text = {"name": "transformers_text", "model": folders[kind], **more}
    run = made(
        dim=32 if kind == "siglip" else 20, objective="siglip" if kind == "siglip" else "clip", image=image, text=text
    )
    ours = mmcl.load(run, "cpu")
    mmcl.export(run, "transformers", tmp_path / "out")
    opens_in_transformers(tmp_path / "out", ours, cls)
    if kind == "siglip":
        assert cls.from_pretrained(tmp_path / "out").logit_bias.item() == -10
    comes_back(tmp_path / "out", ours)


@torch.no_grad()
def test_a_clap(folders: dict[str, str], made: Make, tmp_path: Path) -> None:
    audio = {"name": "transformers_audio", "model": folders["clap"]}
    run = made(dim=20, audio=audio, text={"name": "transformers_text", "model": folders["clap"]})
    ours = mmcl.load(run, "cpu")
    mmcl.export(run, "transformers", tmp_path / "out")
    opens_in_transformers(tmp_path / "out", ours, tf.ClapModel)
    sound = np.random.default_rng(0).uniform(-1, 1, 16_000).astype(np.float32)  # as long as it hears
    model, processor = (
        tf.ClapModel.from_pretrained(tmp_path / "out"),
        tf.AutoProcessor.from_pretrained(tmp_path / "out"),
    )
    heard = processor.feature_extractor(sound, sampling_rate=8_000, return_tensors="pt")
    expected = ours.embed("audio", [(sound, 8_000)])
    close(model.eval().get_audio_features(**heard).pooler_output, expected)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "logits_per_audio" in card
    assert "draws where it cuts a longer sound" in card
    for again in (
        open_export(tmp_path / "out", "cpu"),
        mmcl.load(foreign(tmp_path / "out", tmp_path / "foreign"), "cpu"),
    ):
        close(again.embed("audio", [(sound, 8_000)]), expected)
        close(again.embed("text", WORDS), ours.embed("text", WORDS))


def test_what_is_no_pair_is_told(folders: dict[str, str], made: Make, tmp_path: Path) -> None:
    image = {"name": "transformers_image", "model": folders["siglip"]}
    text = {"name": "transformers_text", "model": folders["clip"]}
    for said, told in (
        (
            {"image": image, "text": text},
            "image: a siglip_vision_model is no side of the CLIPModel that towers.text is",
        ),
        (
            {"image": {**image, "model": folders["clip"]}, "text": {**text, "pool": "mean"}},
            "text: a clip_text_model wit",
        ),
        ({"image": {**image, "model": folders["clip"], "head": "mlp"}, "text": text}, "no place for mlp"),
    ):
        run = made(dim=20, **said)
        with pytest.raises(MmclError, match=told):
            mmcl.export(run, "transformers", tmp_path / "out")
        for path in sorted(run.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    assert not (tmp_path / "out").exists()


def test_a_third_tower_is_left_out_and_the_card_says_so(made: Make, tmp_path: Path) -> None:
    words = [" ".join(np.random.default_rng(s).permutation(tiny_texts.WORDS)) for s in range(300)]
    tokenizer = {"name": "sentencepiece", "model": str(train_sentencepiece(words, tmp_path / "t.model", 290))}
    small = {"width": 16, "layers": 1, "heads": 2}
    run = made(
        objective=[{"score": "cosine", "contrast": "softmax", "pairs": [["image", "text"], ["voice", "text"]]}],
        image={"name": "vit", "image_size": 16, "patch_size": 8, **small},
        text={"name": "text_transformer", "tokenizer": tokenizer, "context_length": 8, **small},
        voice={"name": "spectrogram_vit", "seconds": 1, **small},
    )
    assert mmcl.export(run, "open_clip", tmp_path / "out")["modalities"] == ["image", "text"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "The run's towers of voice are not in this export: the format has no place for them." in card
    assert "One embedding space for image, text:" in card
    assert "at most 8 tokens" in card
