"""What a recipe may say of image towers, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from timm.layers.attention_pool import AttentionPoolLatent

from mmcl.errors import MmclError
from mmcl.media import Fit, ImageTransform
from mmcl.towers import TOWERS
from mmcl.towers.attention_pool import AttentionPool
from mmcl.towers.open_clip_image import described
from mmcl.towers.processors import of_processor
from tests.towers.libraries import HF, MODELS, of_open_clip, of_transformers

VIT = {"name": "timm_image", "model": "test_vit", "image_size": 32}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    root = tmp_path_factory.mktemp("models")
    made = {kind: of_transformers(kind, root / kind).spec for kind in MODELS}
    return {
        **made,
        "resnet": of_open_clip("resnet", root / "resnet").spec,
        "open": of_open_clip("vit", root / "v").spec,
    }


def backbone(spec: dict[str, Any], dim: int = 16, **more: Any) -> Any:
    return TOWERS.check({**spec, **more}).build(dim=dim, load=False).eval().backbone


def refused(spec: dict[str, Any], told: str) -> None:
    with pytest.raises(MmclError, match=told):
        backbone(spec)


def test_names_that_nobody_knows_are_told_with_the_nearest(tmp_path: Path) -> None:
    refused({"name": "timm_image", "model": "resnet5O"}, "timm has no model 'resnet5O'; did you mean 'resnet50'")
    refused({"name": "timm_image", "model": "resnet50.nothing"}, "cannot be built.*nothing")
    refused({"name": "open_clip_image", "model": "ViT-B-23"}, "open_clip has no model 'ViT-B-23'; did you mean 'ViT-B-")
    refused({"name": "open_clip_image", "model": f"local-dir:{tmp_path}"}, "cannot be read")
    (tmp_path / "config.json").write_text("{}")
    refused({"name": "open_clip_image", "model": f"{tmp_path}/config.json"}, "no configuration of open_clip")
    refused({"name": "transformers_image", "model": str(tmp_path)}, "the configuration cannot be read: the folder")


def test_models_that_take_no_pictures_are_refused(tmp_path: Path) -> None:
    transformers.BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2).save_pretrained(tmp_path)
    refused({"name": "transformers_image", "model": str(tmp_path)}, "is a bert, which does not take pictures")
    transformers.ResNetConfig().save_pretrained(tmp_path / "1")
    refused({"name": "transformers_image", "model": str(tmp_path / "1")}, "does not say how its pictures are prepared")
    transformers.Siglip2VisionConfig().save_pretrained(tmp_path / "2")
    refused({"name": "transformers_image", "model": str(tmp_path / "2")}, "lists of patches")


def test_weights_that_differ_in_their_pictures_have_to_be_named() -> None:
    with pytest.raises(MmclError, match="weights of ViT-L-14 in open_clip differ in mean and std .*tag:"):
        described("ViT-L-14", None, {}, 224, set())
    assert described("ViT-L-14", "laion2b_s32b_b82k", {}, 224, set()).mean == (0.5, 0.5, 0.5)
    assert described("ViT-L-14", None, {}, 224, {"mean", "std"}).fit.resize == "shortest"
    assert described("ViT-B-16-SigLIP", None, {}, 224, set()).fit == Fit("squash")
    with pytest.raises(MmclError, match="no weights 'openia' of ViT-L-14; did you mean 'openai'"):
        described("ViT-L-14", "openia", {}, 224, set())


def test_weights_that_there_are_not_are_told(
    folders: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tower = backbone(folders["open"])
    tower.name = "ViT-B-32"
    with pytest.raises(MmclError, match="open_clip has no weights 'opanai' of ViT-B-32; did you mean 'openai'"):
        tower.pretrained("opanai")
    tower.quick_gelu = False
    with pytest.raises(MmclError, match="openai of ViT-B-32 expect quick_gelu: true"):
        tower.pretrained("openai")
    with pytest.raises(MmclError, match="cannot be (had|built)"):
        backbone(VIT, model="test_byobnet", image_size=None).pretrained("none")


def test_settings_without_an_effect_are_refused(folders: dict[str, dict[str, Any]]) -> None:
    refused({**folders["resnet"], "patch_dropout": 0.5}, "a ResNet has no patches")
    refused({"name": "timm_image", "model": "test_convnext", "patch_dropout": 0.5}, "patch_dropout: 0.5: it has no")
    refused({**folders["siglip"], "pool": "cls"}, "no class token")


def test_patches_are_dropped_in_training_only(folders: dict[str, dict[str, Any]]) -> None:
    rows = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    for spec in (VIT, folders["open"], folders["clip"], folders["siglip"], folders["vit"]):
        whole = {"crop": (1.0, 1.0)}
        tower = backbone(spec, **whole, patch_dropout=0.5)
        torch.testing.assert_close(tower(rows), tower(rows))
        assert tower.varies
        tower.train()
        assert not torch.allclose(tower(rows), tower(rows))
        if spec is VIT or spec is folders["open"]:
            assert not backbone(spec, **whole).varies


@pytest.mark.parametrize("kind", ["clip", "siglip", "vit"])
def test_positions_are_resized_as_the_library_does_it(kind: str, folders: dict[str, dict[str, Any]]) -> None:
    tower = backbone(folders[kind], 24, image_size=48)
    found = tower.pretrained(None)
    tower.load_state_dict(found)
    rows = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    kinds = {"clip": transformers.CLIPModel, "siglip": transformers.SiglipVisionModel, "vit": transformers.ViTModel}
    library = kinds[kind].from_pretrained(folders[kind]["model"]).eval()
    given = {"pixel_values": tower.normalize(rows), "interpolate_pos_encoding": True}
    with torch.no_grad():
        seen = library.get_image_features(**given) if kind == "clip" else library(**given)
        ours = tower(rows)
    theirs = seen.last_hidden_state[:, 0] if kind == "vit" else seen.pooler_output
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    if kind == "clip":
        with pytest.raises(MmclError, match=r"visual_projection.weight: \(24, 32\), here \(8, 32\).*as dim"):
            backbone(folders[kind], 8).pretrained(None)


def test_positions_of_open_clip_and_timm_are_resized(folders: dict[str, dict[str, Any]]) -> None:
    for spec, key in ((folders["open"], "visual.positional_embedding"), (VIT, "model.pos_embed")):
        small, large = backbone(spec), backbone(spec, image_size=64)
        before, after = small.state_dict(), large.translated(small.state_dict())
        assert after[key].shape == large.state_dict()[key].shape != before[key].shape
        large.load_state_dict(after)
        again = small.translated(after)[key]  # and back, about the same
        assert F.cosine_similarity(again.flatten(), before[key].flatten(), dim=0) > 0.6


def test_what_is_not_for_the_tower_keeps_its_name_and_what_is_missing_is_missing(
    folders: dict[str, dict[str, Any]],
) -> None:
    whole = transformers.CLIPModel.from_pretrained(folders["clip"]["model"]).state_dict()
    del whole["vision_model.post_layernorm.bias"]
    tower = backbone(folders["clip"], 24)
    found = tower.translated(whole)
    assert set(tower.state_dict()) - set(found) == {"model.vision_model.post_layernorm.bias"}
    narrow = backbone(folders["clip"], 8)
    assert narrow.translated(whole)["model.visual_projection.weight"].shape == (24, 32)


@pytest.mark.parametrize("pool", ["own", "cls", "mean", "attention"])
def test_pools_of_transformers(pool: str, folders: dict[str, dict[str, Any]]) -> None:
    rows = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    tower = backbone(folders["clip"], 24, pool=pool)
    assert tower.patchy == (pool != "attention")
    with torch.no_grad():
        vectors = tower(rows)
        if pool == "mean":
            torch.testing.assert_close(vectors, tower.patches(rows).mean((1, 2)))
        if pool == "cls":
            torch.testing.assert_close(vectors, tower.model(pixel_values=tower.normalize(rows)).image_embeds)
    assert vectors.shape == (2, 24)


def test_attention_pooling_is_timms_and_sees_only_what_is_there() -> None:
    pool, tokens = AttentionPool(16, heads=2).eval(), torch.randn(3, 5, 16)
    other = AttentionPoolLatent(16, num_heads=2, norm_layer=torch.nn.LayerNorm).eval()
    other.load_state_dict(pool.pool.state_dict())
    torch.testing.assert_close(pool(tokens), other(tokens))
    mask = torch.tensor([[True] * 3 + [False] * 2] * 3)
    torch.testing.assert_close(pool(tokens, mask), pool(tokens[:, :3]))


def test_vit_pools_by_attention() -> None:
    spec = {"name": "vit", "image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "heads": 2, "pool": "attention"}
    tower = backbone(spec)
    assert tower(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 16)
    assert not tower.patchy


def test_folders_without_a_processor_have_their_authors_pictures(tmp_path: Path) -> None:
    config = transformers.Dinov2Config(**{**HF, "image_size": 56, "patch_size": 14})
    transformers.Dinov2Model(config).save_pretrained(tmp_path)
    seen = backbone({"name": "transformers_image", "model": str(tmp_path)}).preprocessing
    assert (seen.size, seen.mean, seen.fit) == (224, (0.485, 0.456, 0.406), Fit(resized=256, floor=True))
    smaller = backbone({"name": "transformers_image", "model": str(tmp_path), "image_size": 112, "mean": [0, 0, 0]})
    assert (smaller.preprocessing.size, smaller.preprocessing.fit.resized) == (112, 128)
    assert smaller.preprocessing.mean == (0, 0, 0)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"size": {"shortest_edge": 32}}, "does not cut out a square"),
        ({"size": {"height": 32, "width": 16}}, "are squares"),
        ({"size": {"longest_edge": 32}}, "are no squares"),
        ({"size": {"height": 32, "width": 32}, "resample": 1}, "lanczos"),
        ({"size": {"height": 32, "width": 32}, "do_resize": False}, "does not resize"),
        ({"size": {"height": 32, "width": 32}, "rescale_factor": 1.0}, "scale pixels"),
    ],
)
def test_processors_that_do_what_ours_do_not_are_refused(said: dict[str, Any], told: str) -> None:
    with pytest.raises(MmclError, match=told):
        of_processor({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, **said}, "m")


def test_training_crops_are_resized_the_models_way() -> None:
    transform = backbone(VIT, crop=(0.5, 1.0), interpolation="bilinear").transform(train=True)
    assert isinstance(transform, ImageTransform)
    assert transform.fit.interpolation == "bilinear"
    assert transform.crop == (0.5, 1.0)
