"""Image towers of libraries: their numbers, from their pictures."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mmcl.errors import MmclError
from mmcl.model import Encoder, MultiTower
from mmcl.towers import TOWERS, Tower
from tests.towers.libraries import MODELS, OPEN_CLIP, Library, of_open_clip, of_timm, of_transformers, scene

TIMM: dict[str, dict[str, Any]] = {
    "test_vit": {"size": 64},
    "test_vit3": {"size": 64, "global_pool": "map"},
    "test_convnext": {"size": 64},
    "test_efficientnet": {"size": 160},
    "mobilenetv3_small_050": {"size": 64},
}
CASES = [*(f"open_clip {k}" for k in OPEN_CLIP), *(f"timm {k}" for k in TIMM), *(f"transformers {k}" for k in MODELS)]
FEW = ("open_clip vit", "timm test_vit", "transformers clip")
EQUAL = (
    *FEW,
    "open_clip resnet",
    "open_clip siglip",
    "timm test_convnext",
    *(f"transformers {kind}" for kind in MODELS),
)


def some(*without: str, few: tuple[str, ...] = FEW) -> list[Any]:
    """All cases, of which the default suite runs a few."""
    slow = {case: pytest.param(case, marks=pytest.mark.slow) for case in CASES if case not in few}
    return [slow.get(case, case) for case in CASES if case not in without]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Library]:
    made: dict[str, Library] = {}

    def get(case: str) -> Library:
        if case not in made:
            torch.manual_seed(0)
            family, kind = case.split()
            folder = tmp_path_factory.mktemp(kind)
            makers = {"open_clip": of_open_clip, "transformers": of_transformers}
            made[case] = of_timm(kind, **TIMM[kind]) if family == "timm" else makers[family](kind, folder)
        return made[case]

    return get


def build(spec: dict[str, Any], dim: int, **more: Any) -> Tower:
    torch.manual_seed(1)
    return TOWERS.check({**spec, **more}).build(dim=dim, load=False).eval()


def like(lib: Library, **more: Any) -> Tower:
    """The tower with the library's weights."""
    head = {} if lib.dim else {"head": "none"}
    with torch.no_grad():
        width = lib.embed(torch.zeros(1, 3, *lib.prepare(Image.new("RGB", (9, 9))).shape[1:])).shape[1]
    tower = build(lib.spec, width, **head, **more)
    load(tower, lib.model.state_dict())
    return tower


def load(tower: Tower, state: dict[str, torch.Tensor]) -> None:
    """The backbone's own weights, all of them, out of whatever a checkpoint holds."""
    translated, own = tower.backbone.translated(state), tower.backbone.state_dict()
    tower.backbone.load_state_dict({key: translated[key] for key in own})


def _rows(tower: Tower, pictures: tuple[np.ndarray, ...]) -> torch.Tensor:
    from mmcl.media import Picture

    transform = tower.transform(train=False)
    rows = transform.empty(len(pictures))
    for picture, row in zip(pictures, rows, strict=True):
        transform(Picture.of(picture), np.random.default_rng, row)
    return rows


@pytest.mark.parametrize("case", some(few=EQUAL))
def test_vectors_are_the_librarys_own(case: str, library: Callable[[str], Library]) -> None:
    lib = library(case)
    tower = like(lib)
    size = tower.transform(train=False).size  # type: ignore[attr-defined]
    pixels = torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8)
    with torch.no_grad():
        ours, theirs = tower(pixels), lib.embed(lib.normalized(pixels))
        alone = torch.cat([tower(row[None]) for row in pixels])
    assert theirs.std(0).max() > 1e-3  # pictures differ, so equality says something
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", some())
@pytest.mark.parametrize("shape", [(150, 211), (97, 40)])
def test_pictures_are_prepared_as_the_library_does_it(
    case: str, shape: tuple[int, int], library: Callable[[str], Library]
) -> None:
    lib = library(case)
    tower = like(lib)
    picture = Image.fromarray(scene(*shape))
    theirs = lib.prepare(picture)
    ours = _rows(tower, (np.asarray(picture),))[0]
    difference = (lib.normalized(ours.float()) - theirs).abs() * torch.tensor(lib.std)[:, None, None] * 255
    assert difference.mean() < 0.3
    assert difference.max() <= 3.01
    encoder = Encoder(MultiTower({"image": tower}, lib.dim or tower.backbone.width))
    with torch.no_grad():
        expected = F.normalize(lib.embed(theirs[None]), dim=-1)
    assert F.cosine_similarity(encoder.embed("image", [picture]), expected).item() > 0.9999


@pytest.mark.parametrize("case", some("open_clip resnet"))
def test_activations_computed_again_give_the_same_gradients(case: str, library: Callable[[str], Library]) -> None:
    lib = library(case)
    kept, again = (like(lib, gradient_checkpointing=on) for on in (False, True))
    rows = _rows(kept, (scene(60, 50), scene(50, 60, 1)))
    for tower in (kept, again):
        tower.train()
        for module in tower.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        tower(rows).square().sum().backward()
    gradients = {key: p.grad for key, p in kept.named_parameters() if p.grad is not None}
    assert len(gradients) > 5
    for key, p in again.named_parameters():
        if key in gradients:
            torch.testing.assert_close(p.grad, gradients[key], rtol=1e-4, atol=1e-5)


def test_a_resnet_of_open_clip_refuses_to_compute_again(library: Callable[[str], Library]) -> None:
    with pytest.raises(MmclError, match="gradient_checkpointing: open_clip cannot"):
        build(library("open_clip resnet").spec, 24, gradient_checkpointing=True)


@pytest.mark.parametrize("case", some(*(case for case in CASES if case.startswith("timm"))))
def test_weights_come_from_the_librarys_own_place(case: str, library: Callable[[str], Library]) -> None:
    lib = library(case)
    own = like(lib).backbone.state_dict()
    tower = build(lib.spec, lib.dim or 24, **({} if lib.dim else {"head": "linear"}))
    found = tower.backbone.pretrained(None)
    for key, tensor in own.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("case", some())
def test_a_head_takes_the_place_of_the_projection(case: str, library: Callable[[str], Library]) -> None:
    lib = library(case)
    tower = build(lib.spec, 10, head="norm_linear")
    assert isinstance(tower.head, torch.nn.Sequential)
    rows = _rows(tower, (scene(40, 40),))
    assert tower(rows).shape == (1, 10)
    assert tower.backbone(rows).shape[1] == tower.backbone.width
    if tower.patchy:
        with torch.no_grad():
            patches = tower.patches(rows)
        assert patches.shape[0] == 1
        assert patches.shape[3] == 10


@pytest.mark.parametrize("case", some())
def test_any_width_of_the_shared_space_is_reached(case: str, library: Callable[[str], Library]) -> None:
    tower = build(library(case).spec, 16)
    assert tower(_rows(tower, (scene(40, 40),))).shape == (1, 16)


@pytest.mark.parametrize("case", some())
def test_towers_build_without_memory(case: str, library: Callable[[str], Library]) -> None:
    spec = TOWERS.check(library(case).spec)
    with torch.device("meta"):
        tower = spec.build(dim=16, load=False)
    assert {p.device.type for p in tower.parameters()} == {"meta"}


def bytes_of(picture: Image.Image, kind: str, **more: Any) -> bytes:
    picture.save(out := io.BytesIO(), kind, **more)
    return out.getvalue()


def odd_pictures() -> dict[str, bytes]:
    rgb = Image.fromarray(scene(40, 50))
    grey16 = Image.fromarray((np.arange(2000, dtype=np.uint32).reshape(40, 50) * 32).astype(np.uint16))
    frames = [Image.fromarray(scene(40, 50, seed)) for seed in (1, 2)]
    return {
        "grey.jpg": bytes_of(rgb.convert("L"), "JPEG"),
        "cmyk.jpg": bytes_of(rgb.convert("CMYK"), "JPEG"),
        "palette.png": bytes_of(rgb.convert("P"), "PNG"),
        "sixteen.png": bytes_of(grey16, "PNG"),
        "animated.gif": bytes_of(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated.webp": bytes_of(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True),
        "alpha.png": bytes_of(rgb.convert("RGBA"), "PNG"),
        "one.png": bytes_of(Image.new("RGB", (1, 1), "red"), "PNG"),
        "line.png": bytes_of(Image.new("RGB", (3000, 1), "red"), "PNG"),
        "bits.png": bytes_of(rgb.convert("1"), "PNG"),
    }


@pytest.mark.parametrize("case", ["open_clip vit", pytest.param("open_clip coca", marks=pytest.mark.slow)])
def test_odd_pictures_have_vectors(case: str, library: Callable[[str], Library], tmp_path: Path) -> None:
    tower = like(library(case))
    encoder = Encoder(MultiTower({"image": tower}, tower.backbone.width))
    pictures = odd_pictures()
    for name, data in pictures.items():
        (tmp_path / name).write_bytes(data)
    vectors = encoder.embed("image", [tmp_path / name for name in pictures])
    assert torch.isfinite(vectors).all()
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(pictures)))
    opened = {name: Image.open(io.BytesIO(data)) for name, data in pictures.items()}
    again = encoder.embed("image", [opened[name] for name in pictures])
    assert F.cosine_similarity(vectors, again).min() > 0.999
    first = encoder.embed("image", [scene(40, 50, 1)])[0]
    assert F.cosine_similarity(vectors[list(pictures).index("animated.webp")], first, dim=0) > 0.9999
    for data, told in ((b"", "empty image"), (b"\x89PNG\r\n\x1a\n" + b"x" * 30, "image cannot be decoded")):
        (tmp_path / "broken.png").write_bytes(data)
        with pytest.raises(MmclError, match=f"value 0: .*broken.png: {told}"):
            encoder.embed("image", [tmp_path / "broken.png"])
