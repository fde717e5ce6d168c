"""Weights of towers: what is loaded is the library's, and what is not loaded is said or refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.model import CLIP, resize_pos_embed, resize_text_pos_embed
from safetensors.torch import save_file
from torch import Tensor, nn

from mmcl.errors import MmclError
from mmcl.towers import TOWERS, Backbone, Tower
from mmcl.towers.tokenizers import END, TOKENIZERS
from mmcl.types import Transform

IMAGE = {"name": "vit", "image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "heads": 2}
TEXT = {"name": "text_transformer", "context_length": 12, "width": 32, "layers": 2, "heads": 2}
PIXELS = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.tensor([[7, 8, 9, END, 0, 0, 0, 0, 0, 0, 0, 0], [5, END, *[0] * 10]])


class Letters:
    """A tokenizer of so many numbers."""

    vocab_size, pad_id, eos_id = 40, 0, END

    def encode(self, text: str) -> list[int]:
        return [ord(c) % 36 + 4 for c in text]


class Plain(Backbone):
    """A model that a library knows by name."""

    takes, named = "vector", True

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(size, 3), nn.BatchNorm1d(3)
        self.again = self.one  # as transformers ties embeddings
        self.width = 3

    def pretrained(self, tag: str | None) -> dict[str, Tensor]:
        if tag not in (None, "big"):
            raise MmclError(f"Plain has the tags big; got {tag!r}.")
        return {k: torch.full_like(t, 2 if tag else 1) for k, t in self.state_dict().items()}

    def transform(self, train: bool) -> Transform:
        raise NotImplementedError

    def forward(self, rows: Tensor) -> Tensor:
        return self.two(self.one(rows))


@pytest.fixture(scope="module", autouse=True)
def families() -> Iterator[None]:
    TOWERS.register("plain")(Plain)
    TOKENIZERS.register("letters")(Letters)
    yield
    for registry, name in ((TOWERS, "plain"), (TOKENIZERS, "letters")):
        del registry.classes[name], registry._specs[name]


@pytest.fixture(scope="module")
def clip() -> CLIP:
    torch.manual_seed(1)
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    text = {"context_length": 12, "vocab_size": 40, "width": 32, "layers": 2, "heads": 2}
    return CLIP(16, vision, {**text, "pool_type": "eos", "eos_id": END}).eval()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def clip_file(clip: CLIP, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.safetensors"
    save_file(clip.state_dict(), path)
    return path


def image(weights: object, **more: object) -> Tower:
    return TOWERS.check({**IMAGE, "weights": weights, **more}).build(dim=16, modality="image").eval()


def text(weights: object, **more: object) -> Tower:
    made = TOWERS.check({**TEXT, "tokenizer": "letters", "weights": weights, **more})
    return made.build(dim=16, modality="text").eval()


def plain(weights: object = None, **more: object) -> Tower:
    return TOWERS.check({"name": "plain", "weights": weights, **more}).build(dim=2, modality="vector")


def file(path: Path, state: dict[str, Tensor]) -> str:
    save_file({name: t.clone() for name, t in state.items()}, path)
    return str(path)


def test_a_clip_of_open_clip_gives_its_own_vectors(clip: CLIP, clip_file: Path) -> None:
    towers = image(str(clip_file)), text(str(clip_file))
    normal = towers[0].backbone.normalize(PIXELS)  # type: ignore[operator]
    torch.testing.assert_close(towers[0](PIXELS), clip.encode_image(normal), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(towers[1](TOKENS), clip.encode_text(TOKENS), atol=1e-5, rtol=1e-5)
    for tower in towers:
        assert tower.loaded is not None
        assert not tower.loaded.missing
        assert set(tower.loaded.loaded) == set(tower.backbone.state_dict())
        assert "logit_scale" in tower.loaded.unexpected


@pytest.mark.parametrize("form", ["nested", "wrapped", "compiled", "custom text", "one tower"])
def test_forms_in_which_checkpoints_are_saved(clip: CLIP, tmp_path: Path, form: str) -> None:
    state, prefix = clip.state_dict(), None
    own = {k: t for k, t in state.items() if not k.startswith(("visual.", "logit"))}
    content: dict[str, Any] = {
        "nested": {"epoch": 3, "name": "x", "state_dict": state, "optimizer": {"state": {}}},
        "wrapped": {"state_dict": {f"module.{k}": t for k, t in state.items()}},
        "compiled": {f"_orig_mod.{k}": t for k, t in state.items()},
        "custom text": {f"text.{k}" if k in own else k: t for k, t in state.items()},
        "one tower": own,
    }[form]
    torch.save(content, tmp_path / "c.pt")
    tower = text({"from": str(tmp_path / "c.pt"), "prefix": prefix})
    torch.testing.assert_close(tower(TOKENS), clip.encode_text(TOKENS), atol=1e-5, rtol=1e-5)


def test_a_prefix_picks_one_part(clip: CLIP, clip_file: Path) -> None:
    tower = image({"from": str(clip_file), "prefix": "visual."})
    assert tower.loaded is not None
    assert not tower.loaded.unexpected
    torch.testing.assert_close(tower.backbone.state_dict()["transformer.proj"], clip.visual.proj.data)
    with pytest.raises(MmclError, match=r"called vision\.\*; names begin with .*visual\."):
        image({"from": str(clip_file), "prefix": "vision."})


def test_positions_are_resized_as_open_clip_does(clip: CLIP, clip_file: Path) -> None:
    grown = image(str(clip_file), image_size=64), text(str(clip_file), context_length=20)
    assert [tower.loaded.resized for tower in grown if tower.loaded] == [["transformer.positional_embedding"]] * 2
    assert "1 resized" in str(grown[0].loaded)
    bigger = CLIP(16, {"image_size": 64, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
                  {"context_length": 20, "vocab_size": 40, "width": 32, "layers": 1, "heads": 2})  # type: ignore[arg-type]  # fmt: skip
    state = dict(clip.state_dict())
    resize_pos_embed(state, bigger)
    resize_text_pos_embed(state, bigger)
    for tower, name in zip(grown, ("visual.positional_embedding", "positional_embedding"), strict=True):
        torch.testing.assert_close(tower.backbone.state_dict()["transformer.positional_embedding"], state[name])


def test_another_width_is_refused_with_names_and_sizes(clip_file: Path) -> None:
    with pytest.raises(MmclError, match=r"towers.image.weights: .* other shapes: .* \(32,\) instead of \(64,\)"):
        image(str(clip_file), width=64)
    with pytest.raises(MmclError, match=r"towers.text.weights: .* other shapes: .*\(40, 32\)"):
        text(str(clip_file), width=64)


def test_fewer_layers_in_the_file_are_refused_or_said(clip: CLIP, clip_file: Path) -> None:
    with pytest.raises(MmclError, match=r"32 of the 44 .* lacks 12: \S+resblocks\.2.* and 7 more.*partial: true"):
        image(str(clip_file), layers=3)
    torch.manual_seed(5)
    tower = image({"from": str(clip_file), "partial": True}, layers=3)
    torch.manual_seed(5)
    before = image("random", layers=3).backbone.state_dict()
    assert tower.loaded is not None
    assert len(tower.loaded.missing) == 12
    assert "32 of 44 tensors" in str(tower.loaded)
    assert "random, since it lacks them: transformer.transformer.resblocks.2" in str(tower.loaded)
    for name, t in tower.backbone.state_dict().items():
        if name in tower.loaded.missing:
            assert torch.equal(t, before[name])
    torch.testing.assert_close(tower.backbone.state_dict()["transformer.proj"], clip.visual.proj.data)


def test_what_has_another_shape_is_said_in_a_partial_load(tmp_path: Path) -> None:
    source = file(tmp_path / "a.safetensors", {"one.weight": torch.ones(3, 9), "one.bias": torch.full((3,), 7.0)})
    tower = plain({"from": source, "partial": True})
    assert tower.loaded is not None
    assert tower.loaded.misshapen == {name: "(3, 9) instead of (3, 4)" for name in ("one.weight",)}
    assert "its shapes differ: one.weight (3, 9) instead of (3, 4)" in str(tower.loaded)
    assert tower.backbone.one.bias.tolist() == [7, 7, 7]  # type: ignore[union-attr]


def test_a_head_that_does_not_fit_is_refused_or_said(tmp_path: Path) -> None:
    source = file(tmp_path / "a.safetensors", plain("random").state_dict())
    fits = plain(source).loaded
    assert fits is not None
    assert fits.head
    for head, told in (("mlp", "instead of 0.weight (2, 3)"), ("norm_linear", "instead of 0.weight (3,)")):
        with pytest.raises(MmclError, match=r"weights: .* Its head has other shapes: weight \(2, 3\) instead of"):
            plain(source, head=head)
        loaded = plain({"from": source, "partial": True}, head=head).loaded
        assert f"; the head is random, since its shapes differ (weight (2, 3) {told}" in str(loaded)
    wider = TOWERS.check({"name": "plain", "weights": source})
    with pytest.raises(MmclError, match=r"other shapes: weight \(2, 3\) instead of weight \(5, 3\)"):
        wider.build(dim=5, modality="vector")


def test_a_head_more_or_less_than_the_source_has_is_no_misfit(tmp_path: Path) -> None:
    source = file(tmp_path / "a.safetensors", plain("random").state_dict())
    without = TOWERS.check({"name": "plain", "weights": source, "head": "none"}).build(dim=3).loaded
    assert without is not None
    assert without.unexpected == ["head.weight"]
    backbone = {f"backbone.{k}": t for k, t in Plain().state_dict().items()}
    new = plain(file(tmp_path / "b.safetensors", backbone)).loaded
    assert new is not None
    assert not new.head
    assert new.misfit is None


def test_nothing_loaded_is_always_an_error(tmp_path: Path) -> None:
    source = file(tmp_path / "a.safetensors", {"else.weight": torch.ones(3)})
    for weights in (source, {"from": source, "partial": True}):
        with pytest.raises(MmclError, match=r"nothing of .*a.safetensors fits plain: it has else.weight"):
            plain(weights)


def test_a_model_with_a_name_has_its_librarys_weights_unless_random_ones_are_asked_for() -> None:
    for weights, value in ((None, 1), ("pretrained", 1), ("big", 2)):
        tower = plain(weights)
        assert tower.backbone.one.weight.unique().tolist() == [value]  # type: ignore[union-attr]
        assert tower.loaded is not None
        assert tower.loaded.source == ("plain (big)" if value == 2 else "plain (its own)")
    assert plain("random").loaded is None
    assert image(None).loaded is None
    with pytest.raises(MmclError, match="tags big; got 'bigger'"):
        plain("bigger")
    with pytest.raises(MmclError, match=r"image.weights: Vit is no model that has weights of its own; name a file"):
        image("pretrained")
    with pytest.raises(MmclError, match="no file or folder 'laion2b'"):
        image("laion2b")
    with pytest.raises(MmclError, match="no file or folder '/gone/model'"):  # and no tag of the library
        plain("/gone/model")


def test_a_checkpoint_brings_the_weights_where_none_are_loaded() -> None:
    tower = TOWERS.check({"name": "plain", "weights": "nowhere.pt"}).build(dim=2, load=False)
    assert tower.loaded is None


def test_loading_leaves_the_draws_of_other_towers_as_they_were(clip_file: Path) -> None:
    torch.manual_seed(3)
    image(None)
    expected = torch.rand(1)
    torch.manual_seed(3)
    image(str(clip_file))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("name", ["nothing.pt", "nothing.safetensors", "damaged.safetensors", "damaged.pt", "a.txt",
                                  "gone.pt", "pickle.pt", "numbers.pt", "script.pt"])  # fmt: skip
def test_files_that_hold_no_weights(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    kind = name.partition(".")[0]
    if kind == "nothing":
        path.touch()
    elif kind in ("damaged", "a"):
        path.write_bytes(b"x" * 100)
    elif kind == "pickle":
        torch.save({"state_dict": {"one.weight": torch.ones(3, 4)}, "config": Path("x")}, path)
    elif kind == "numbers":
        torch.save({"state_dict": {"a": 1}}, path)
    elif kind == "script":
        path.write_bytes(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.")
    otherwise = "cannot be read as tensors alone|is damaged|is no file of weights"
    said = {"nothing": "is empty", "a": "read from .safetensors, .pt", "gone": "no file or folder",
            "numbers": "holds no tensors"}.get(kind, otherwise)  # fmt: skip
    with pytest.raises(MmclError, match=rf"towers.vector.weights: .*({said})"):
        plain(str(path))


def test_a_folder_of_shards(tmp_path: Path) -> None:
    state = {k: torch.full_like(t, 3) for k, t in Plain().state_dict().items() if not k.startswith("again")}
    names = sorted(state)
    where = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(names)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    for shard in set(where.values()):
        save_file({name: state[name] for name in names if where[name] == shard}, tmp_path / shard)
    tower = plain(str(tmp_path))
    assert tower.loaded is not None
    assert "again.weight" in tower.loaded.loaded  # tied: the file has one of both names
    assert tower.backbone.one.bias.tolist() == [3, 3, 3]  # type: ignore[union-attr]
    assert [len(one["sha256"]) for one in tower.loaded.files] == [64, 64]
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(MmclError, match="model-00002-of-00002.safetensors is not there"):
        plain(str(tmp_path))
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(MmclError, match="does not say which tensors"):
        plain(str(tmp_path))


def test_a_folder_must_hold_one_model(tmp_path: Path) -> None:
    with pytest.raises(MmclError, match="There is none"):
        plain(str(tmp_path))
    for name in ("a", "b"):
        save_file({"x": torch.ones(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(MmclError, match=r"several \(a.safetensors, b.safetensors\)"):
        plain(str(tmp_path))


@pytest.mark.parametrize("kind", ["onnx", "sentence_transformers"])
def test_an_export_that_a_tower_cannot_read_is_told(kind: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": kind}))
    if kind != "onnx":
        file(tmp_path / "model.safetensors", {"image.backbone.one.weight": torch.zeros(3, 4)})
    with pytest.raises(MmclError, match=f"This is an export as {kind}; take one .* --format safetensors"):
        plain(str(tmp_path))


def test_what_a_recipe_says_is_checked_and_kept() -> None:
    said = TOWERS.check({"name": "plain", "weights": {"from": "x.pt", "prefix": "a."}})
    assert said.model_dump(mode="json")["weights"] == {"from": "x.pt", "partial": False, "prefix": "a."}
    assert TOWERS.check(said.model_dump(mode="json")) == said
    with pytest.raises(ValueError, match="say `random`, `pretrained`"):
        TOWERS.check({"name": "plain", "weights": True})
    with pytest.raises(ValueError, match="no such key; did you mean 'from'"):
        TOWERS.check({"name": "plain", "weights": {"form": "x.pt"}})
    with pytest.raises(MmclError, match="say nothing of random weights"):
        plain({"from": "random", "partial": True})


def test_weights_of_integers_and_broken_ones_are_refused(clip: CLIP, tmp_path: Path) -> None:
    state = dict(clip.state_dict())
    quantised = {name: t.int() if t.ndim == 2 else t for name, t in state.items()}
    with pytest.raises(MmclError, match=r"\(32, 16\) of integers instead of \(32, 16\)"):
        image(file(tmp_path / "int.safetensors", quantised))
    state["visual.proj"] = state["visual.proj"] * torch.nan
    with pytest.raises(MmclError, match=r"not finite: transformer\.proj"):
        image(file(tmp_path / "nan.safetensors", state))


def test_what_is_no_file_of_weights_is_told(tmp_path: Path) -> None:
    (tmp_path / "page.pt").write_text("hello world")
    with pytest.raises(MmclError, match="no file of weights: it begins with b'hello wo'"):
        image(str(tmp_path / "page.pt"))
    with pytest.raises(ValueError, match="say `random`"):
        image("")


def test_nobody_freezes_random_weights_without_saying_so() -> None:
    for policy in ("frozen", "lora"):
        with pytest.raises(MmclError, match=f"towers.image.weights: a backbone that is {policy} stays as it begins"):
            image(None, policy=policy)
        assert image("random", policy=policy).loaded is None
