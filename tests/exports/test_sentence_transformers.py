"""sentence-transformers opens an export by its own modules where they can hold the towers, with the same vectors."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import nn

import mmcl
from mmcl.errors import MmclError
from mmcl.exports import open_export
from mmcl.towers.heads import HEADS, Head
from tests.exports.conftest import DIM, PICTURES, WORDS, Make
from tests.towers import libraries, tiny_texts

MODULE = "mmcl.adapters.sentence_transformers.MmclModule"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Texts by their kind, and pictures."""
    root = tmp_path_factory.mktemp("models")
    made = tiny_texts.folders(root)
    for kind in ("clip", "siglip", "vit", "dinov2"):
        libraries.of_transformers(kind, root / f"seen_{kind}")
        made[f"seen_{kind}"] = str(root / f"seen_{kind}")
    return made


def text(model: str, **more: Any) -> dict[str, Any]:
    return {"name": "transformers_text", "model": model, "weights": "pretrained", **more}


def image(model: str, **more: Any) -> dict[str, Any]:
    return {"name": "transformers_image", "model": model, "weights": "pretrained", **more}


def types(folder: Path) -> list[str]:
    """Of all modules of an export."""
    routes = folder / "router_config.json"
    found = [module["type"] for module in json.loads((folder / "modules.json").read_text())]
    return found + (list(json.loads(routes.read_text())["types"].values()) if routes.exists() else [])


def opens_without_mmcl(run: Path, out: Path, by_task: bool = False) -> Any:
    """Exported, opened by sentence-transformers, and by mmcl again."""
    mmcl.export(run, "sentence_transformers", out)
    assert all(kind.startswith("sentence_transformers.") for kind in types(out))
    model, ours, again = SentenceTransformer(str(out), device="cpu"), mmcl.load(run, "cpu"), open_export(out, "cpu")
    for m in ours.modalities:
        values: Any = PICTURES if ours.takes(m) == "image" else [*WORDS, "a " * 500]
        told = {"task": m} if by_task and ours.takes(m) == "text" else {}
        expected = ours.embed(m, values).numpy()
        found = model.encode(values, **told)
        if ours.takes(m) == "image":  # resized by other code, by a grey level otherwise
            assert (found * expected).sum(1).min() > 1 - 1e-5
        else:
            np.testing.assert_allclose(found, expected, atol=1e-5)
            if not by_task:
                np.testing.assert_allclose(model.encode_query(values), expected, atol=1e-5)
        np.testing.assert_allclose(again.embed(m, values).numpy(), expected, atol=1e-6)
    card = (out / "README.md").read_text()
    assert 'SentenceTransformer("DIR")' in card
    assert "opens this folder without mmcl" in card
    assert "suffix" not in card  # which is empty
    return model


@pytest.mark.parametrize(
    ("shown", "read"),
    [
        (
            ("dinov2", {"policy": "frozen", "head": "mlp"}),
            ("bert", {"pool": "mean", "prefix": "query: ", "policy": {"name": "lora", "rank": 2}}),
        ),
        (("vit", {"head": "norm_linear", "pool": "cls"}), ("roberta", {"pool": "cls"})),
        (("clip", {}), ("t5", {"pool": "mean", "head": {"name": "linear", "bias": True}})),
        (("siglip", {"head": "linear"}), ("qwen2", {"pool": "last", "context_length": 9})),
        pytest.param(("siglip", {"pool": "mean"}), ("gpt2", {"pool": "last"}), marks=pytest.mark.slow),
        pytest.param(("vit", {}), ("roberta", {"pool": "eos"}), marks=pytest.mark.slow),
        pytest.param(("vit", {}), ("clip", {"head": "linear"}), marks=pytest.mark.slow),
    ],
)
def test_a_route_a_tower(shown: Any, read: Any, models: dict[str, str], made: Make, tmp_path: Path) -> None:
    (seen, more), (kind, others) = shown, read
    run = made(image=image(models[f"seen_{seen}"], **more), text=text(models[kind], **others))
    model = opens_without_mmcl(run, tmp_path / "out")
    assert model.get_embedding_dimension() == DIM
    assert (tmp_path / "out" / "router_config.json").exists()


@pytest.mark.parametrize(("kind", "dim"), [("clip", 20), ("siglip", 32)])
def test_one_model_of_transformers(kind: str, dim: int, folders: dict[str, str], made: Make, tmp_path: Path) -> None:
    run = made(dim, image=image(folders[kind]), text=text(folders[kind], prefix="a photo of "))
    opens_without_mmcl(run, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == kind  # and a folder of transformers


def test_towers_of_ones_own_sizes_as_a_clip(run: Path, tmp_path: Path) -> None:
    mmcl.export(run, "sentence_transformers", tmp_path / "out")
    model, ours = SentenceTransformer(str(tmp_path / "out"), device="cpu"), mmcl.load(run, "cpu")
    np.testing.assert_allclose(model.encode(WORDS), ours.embed("text", WORDS).numpy(), atol=1e-5)
    again = open_export(tmp_path / "out", "cpu")
    np.testing.assert_allclose(again.embed("image", PICTURES), ours.embed("image", PICTURES), atol=1e-6)


@pytest.mark.parametrize("names", [("title", "body"), ("text", "title")])
def test_several_texts_are_told_apart_by_the_task(
    names: tuple[str, str], models: dict[str, str], made: Make, tmp_path: Path
) -> None:
    one, two = text(models["bert"], pool="mean"), text(models["roberta"], pool="mean")
    run = made(**{names[0]: one, names[1]: two}, image=image(models["seen_vit"]))
    model = opens_without_mmcl(run, tmp_path / "out", by_task=True)
    for task in (None, "titel"):
        with pytest.raises(ValueError, match=r"Could not determine route|No route found"):
            model.encode(WORDS, task=task)
    assert f'task="{names[0]}")' in (tmp_path / "out" / "README.md").read_text()


@HEADS.register("of_another_activation")
class OfAnotherActivation(Head):
    """Of which sentence-transformers keeps the activation's class alone."""

    def between(self, width: int, dim: int) -> nn.Module:
        first, last = nn.Linear(width, 8), nn.Linear(8, dim, bias=False)
        with torch.no_grad():
            first.weight.mul_(0.2), first.bias.fill_(-2.5)
        return nn.Sequential(first, nn.GELU(approximate="tanh"), last)


@pytest.mark.parametrize(
    ("shown", "read", "said"),
    [
        ({"pool": "attention", "weights": "random"}, {"pool": "mean"}, "cannot make the vector of a vit, attention"),
        ({"pool": "mean"}, {"pool": "mean"}, "cannot make the vector of a vit, mean"),
        ({}, {"pool": "mean", "suffix": " !"}, "prompts before texts only"),
        ({}, {"pool": "mean", "head": "of_another_activation"}, "own modules find other vectors"),
    ],
)
def test_what_its_modules_cannot_hold_is_opened_by_mmcls(
    shown: Any, read: Any, said: str, models: dict[str, str], made: Make, tmp_path: Path
) -> None:
    run = made(image=image(models["seen_vit"], **shown), text=text(models["bert"], **read))
    mmcl.export(run, "sentence_transformers", tmp_path / "out")
    assert types(tmp_path / "out") == [MODULE]
    card = (tmp_path / "out" / "README.md").read_text()
    assert said in card
    assert 'SentenceTransformer("DIR", trust_remote_code=True)' in card


def test_texts_that_transformers_does_not_mend_are_left_to_mmcl(made: Make, tmp_path: Path) -> None:
    small = {"width": 32, "layers": 1, "heads": 2, "activation": "gelu"}
    run = made(
        image={"name": "vit", "image_size": 32, "patch_size": 8, "pool": "tok", **small},
        text={"name": "text_transformer", "tokenizer": "open_clip_bpe", "context_length": 16, **small},
    )
    mmcl.export(run, "sentence_transformers", tmp_path / "out")
    assert types(tmp_path / "out") == [MODULE]


@pytest.mark.slow
def test_what_sentence_transformers_saves_again(
    folders: dict[str, str], models: dict[str, str], made: Make, tmp_path: Path
) -> None:
    run = made(20, image=image(folders["clip"]), text=text(folders["clip"], prefix="a photo of "))
    opens_without_mmcl(run, tmp_path / "out").save(str(tmp_path / "again"), create_model_card=False)
    again = mmcl.load(tmp_path / "again", "cpu")
    np.testing.assert_allclose(again.embed("text", WORDS), mmcl.load(run, "cpu").embed("text", WORDS), atol=1e-5)
    (tmp_path / "out" / "README.md").write_text("mine")
    with pytest.raises(MmclError, match=r"holds README.md, which is not as it was exported"):
        mmcl.export(run, "sentence_transformers", tmp_path / "out")
    run = made(image=image(models["seen_vit"]), text=text(models["bert"], pool="mean"))
    opens_without_mmcl(run, tmp_path / "two").save(str(tmp_path / "router"), create_model_card=False)
    with pytest.raises(MmclError, match="was saved by sentence-transformers, which alone opens it again"):
        mmcl.load(tmp_path / "router")


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes(models: dict[str, str], made: Make, tmp_path: Path) -> None:
    run = made(image=image(models["seen_vit"]), text=text(models["bert"], pool="mean"))
    one, two = (mmcl.export(run, "sentence_transformers", tmp_path / name)["files"] for name in ("one", "two"))
    assert one == two


def test_it_says_what_to_install(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MmclError, match=r"pip install 'mmcl\[sentence-transformers\]'"):
        mmcl.export(run, "sentence_transformers", tmp_path / "out")
