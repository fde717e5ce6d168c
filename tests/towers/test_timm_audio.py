"""Models of timm over spectrograms: timm's own vectors."""

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F

from mmcl.errors import MmclError
from mmcl.model import Encoder, MultiTower
from mmcl.towers import TOWERS, TimmAudio, Tower
from tests.towers.libraries import of_open_clip

RNG = np.random.default_rng(0)
NAME = "test_vit"


def backbone(model: str = NAME, **more: Any) -> TimmAudio:
    said = {"name": "timm_audio", "model": model, "seconds": 1.5, "mel": {"mels": 64}, **more}
    made = TOWERS.check(said).made()
    assert isinstance(made, TimmAudio)
    return made.eval()


def sound(seconds: float) -> np.ndarray:
    time = np.arange(round(seconds * 16_000)) / 16_000
    return (0.3 * np.sin(2 * np.pi * 500 * time * time) + 0.02 * RNG.standard_normal(len(time))).astype(np.float32)


@pytest.mark.parametrize("model", [NAME, "test_vit2"])
def test_vectors_are_timms(model: str) -> None:
    made = backbone(model)
    other = timm.create_model(model, in_chans=1, img_size=(64, 160), num_classes=0).eval()
    other.load_state_dict(made.model.state_dict())
    wave = torch.from_numpy(np.pad(sound(1.5), (0, 1_600)))
    picture = made.logmel(wave[None]).mT[:, None]
    torch.testing.assert_close(made(wave[None, :24_000]), other(picture), rtol=1e-5, atol=1e-5)
    assert made.width == other.num_features


def test_a_sound_has_one_vector_alone_and_in_company() -> None:
    for more in ({}, {"windows": 2}, {"short": "pad"}):
        made = backbone(**more)
        model = Encoder(MultiTower({"voice": Tower(made)}, dim=made.width))
        values = [(sound(s), 16_000) for s in (0.4, 1.5, 4.0, 0.001)]
        alone = torch.cat([model.embed("voice", [value]) for value in values])
        torch.testing.assert_close(model.embed("voice", values), alone, rtol=0, atol=1e-5)


def test_weights_of_pictures_are_adapted() -> None:
    made = backbone()
    pictures = timm.create_model(NAME, num_classes=5)
    state = made.translated(pictures.state_dict())
    own = made.state_dict()
    assert all(state[key].shape == t.shape for key, t in own.items())
    key = "model.patch_embed.proj.weight"
    torch.testing.assert_close(state[key], pictures.state_dict()[key[6:]].sum(1, keepdim=True))
    assert all(torch.equal(own[key], t) for key, t in made.translated(own).items())


def test_weights_of_a_trunk_of_open_clip(tmp_path: Path) -> None:
    pictures = of_open_clip("siglip", tmp_path).model.visual.trunk.state_dict()
    said = {"name": "timm_audio", "model": "test_vit2", "mel": {"mels": 160, "n_fft": 4096}, "seconds": 1.6}
    tower = TOWERS.check({**said, "weights": str(tmp_path / "open_clip_model.pth")}).build(dim=16)
    assert isinstance(tower, Tower)
    assert tower.loaded is not None
    assert not tower.loaded.missing
    own = tower.backbone.state_dict()
    assert torch.equal(own["model.blocks.0.norm1.weight"], pictures["blocks.0.norm1.weight"])
    key = "patch_embed.proj.weight"
    torch.testing.assert_close(own[f"model.{key}"], pictures[key].sum(1, keepdim=True))


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [2.24, 1.28])
def test_weights_of_a_vision_transformer_of_open_clip(seconds: float, tmp_path: Path) -> None:
    side = {"image_size": 224, "patch_size": 32, "width": 768, "layers": 12}
    words = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}
    clip = open_clip.CLIP(embed_dim=16, vision_cfg=side, text_cfg=words).eval()
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    said = {"model": "vit_base_patch32_clip_224", "mel": {"mels": 224, "n_fft": 4096}, "seconds": seconds}
    tower = TOWERS.check({"name": "timm_audio", "weights": str(tmp_path / "clip.pt"), **said}).build(dim=16)
    assert isinstance(tower, Tower)
    assert tower.loaded is not None
    assert not tower.loaded.missing
    if seconds == 1.28:
        assert "model.pos_embed" in tower.loaded.resized
        return
    made: Any = tower.backbone.eval()
    clip.visual.proj = None
    pictures = torch.randn(2, 1, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(made.model(pictures), clip.visual(pictures.expand(-1, 3, -1, -1)), atol=1e-5, rtol=0)


def test_dropout_and_recomputation() -> None:
    made = backbone(token_dropout=0.5, crop="start").train()
    rows = torch.from_numpy(np.stack([sound(1.5), sound(1.5)]))
    assert not torch.equal(made(rows), made(rows))
    assert made.varies
    assert not backbone(crop="start").varies
    made.eval()
    before = made(rows)
    made.recompute_()
    torch.testing.assert_close(F.normalize(made(rows)), F.normalize(before))
    with torch.device("meta"):
        assert all(p.is_meta for p in backbone().parameters())


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"model": "vit_smal"}, "timm has no model 'vit_smal'; did you mean"),
        ({"model": "test_resnet"}, "cannot be built with"),
        ({"mel": {"mels": 40}}, "40 bands are no multiple of 32; take 64"),
    ],
)
def test_what_cannot_be_is_refused(more: dict[str, Any], told: str) -> None:
    with pytest.raises(MmclError, match=told):
        backbone(**more)
