"""Runs to export, trained once, and what is compared."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers as tf
from PIL import Image

import mmcl
from mmcl import checkpoints, workflow
from mmcl.data import Source, Stream
from mmcl.losses import Objective
from mmcl.model import Encoder
from mmcl.recipe import Recipe, load_recipe
from mmcl.runs import Run, build_model, create
from tests.towers import libraries, tiny_texts
from tests.towers.test_transformers_audio import EXTRACTOR, HTSAT

AS_CLIP = (
    "towers.image.pool=tok",
    "towers.image.activation=gelu",
    "towers.text.activation=gelu",
    "towers.text.causal=true",
)
TEXTS = ["cat", "LATIN SMALL LETTER A WITH GRAVE", "  two  spaces ", "", "日本語のテキスト", "</s> <pad>", "x" * 300]

DIM = 24
WORDS = ["a cat", "two red boats on the sea", "dog", "the unknown of the sea"]
SIZES = ((40, 60, 3), (20, 30, 3), (60, 40, 3))  # of which no half pixel is left over, which libraries cut differently
PICTURES = [Image.fromarray(np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)) for size in SIZES]
Make = Callable[..., Path]


class Seen(NamedTuple):
    """Pictures of the test set with their labels, and the classes."""

    pictures: list[Image.Image]
    rows: torch.Tensor
    labels: list[int]
    prompts: list[str]


@pytest.fixture(scope="session")
def clip_recipe(tiny: Callable[..., Recipe]) -> Callable[..., Recipe]:
    """A tiny CLIP: what every format can express."""

    def make(run: Path, *overrides: str) -> Recipe:
        return tiny(run, *AS_CLIP, *overrides)

    return make


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, clip_recipe: Callable[..., Recipe], task: Path) -> Path:
    return workflow.train(clip_recipe(tmp_path_factory.mktemp("exports") / "tiny_clip", f"tasks=[{task}]"))


@pytest.fixture(scope="session")
def encoder(run: Path) -> Encoder:
    return mmcl.load(run, "cpu")


@pytest.fixture(scope="session")
def seen(glyphs: Path, encoder: Encoder) -> Seen:
    """All of the test set as a zero-shot task: which script is it?"""
    fields = {"image": "png", "script": "json:script"}
    source = Source(shards=str(glyphs.test), modalities=fields).fixed(script="json:script")
    stream = Stream(source, batch_size=500, shuffle=False, transforms={"image": encoder.transforms["image"]})
    batch = next(iter(stream))
    scripts = sorted(set(batch["script"]))
    rows = batch["image"]
    pictures = [Image.fromarray(np.ascontiguousarray(row.permute(1, 2, 0).numpy())) for row in rows]
    return Seen(pictures, rows, [scripts.index(s) for s in batch["script"]], [f"a {s} letter" for s in scripts])


def stored(recipe: Recipe) -> Path:
    """A run whose checkpoint holds the weights that its towers begin with, a little stirred."""
    run, model = Run(Path(recipe.run)), build_model(recipe)
    create(run, recipe, model, begins=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    weights = {f"model.{k}": t for k, t in model.state_dict().items()}
    objective = Objective(recipe.objective, recipe.dim).state_dict()
    weights |= {f"objective.{k}": t for k, t in objective.items()}
    state = {"step": 3, "data": {"samples_seen": 96}, "bad": {"counts": {}}}
    checkpoints.write(run.checkpoints, 3, {"weights": weights}, state, keep=1)
    return run.path


def foreign(folder: Path, into: Path) -> Path:
    """An export without what mmcl put beside the library's files."""
    shutil.copytree(folder, into / "copy", ignore=shutil.ignore_patterns("manifest.json", "recipe.yaml", "assets"))
    return into / "copy"


def begun(folder: Path, recipe: Callable[..., Recipe], into: Path) -> Encoder:
    """Towers of a run whose weights are those of an export."""
    towers = [f"towers.{m}.weights={folder}" for m in ("image", "text")]
    return Encoder(build_model(recipe(into / "run", *towers)).eval(), torch.device("cpu"))


def accuracy(images: torch.Tensor, classes: torch.Tensor, labels: list[int]) -> float:
    """Of the nearest class."""
    found = (images @ classes.T).argmax(1)
    return (found == torch.tensor(labels)).float().mean().item()


def compare(again: Encoder, encoder: Encoder, seen: Seen, exactly: bool = False) -> None:
    """Hold what was opened again to the run's vectors of texts and pictures."""
    for modality, values in (("text", TEXTS), ("image", seen.pictures[:8])):
        theirs, ours = (one.embed(modality, values) for one in (again, encoder))
        torch.testing.assert_close(theirs, ours, atol=0 if exactly else 1e-5, rtol=0)


@pytest.fixture
def made(tmp_path: Path) -> Make:
    """A run of such towers."""

    def make(dim: int = DIM, objective: Any = "clip", **towers: Any) -> Path:
        content = {
            "run": str(tmp_path / "run"),
            "dim": dim,
            "towers": towers,
            "objective": objective,
            "data": {
                "train": {"shards": str(tmp_path), "modalities": {m: "txt" for m in towers}},
                "batch_size": 8,
            },
            "schedule": "cosine",
            "optimizer": {"name": "adamw", "lr": 1e-3},
            "training": {"samples": 32},
        }
        (tmp_path / "recipe.yaml").write_text(json.dumps(content))
        return stored(load_recipe(tmp_path / "recipe.yaml"))

    return make


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A CLIP, a SigLIP and a CLAP of transformers."""
    root = tmp_path_factory.mktemp("pairs")
    size = {**tiny_texts.SMALL, "vocab_size": 24, "max_position_embeddings": 24, "bos_token_id": 1, "eos_token_id": 3}
    clip = tf.CLIPConfig(text_config=size, vision_config=libraries.HF, projection_dim=20)
    siglip = tf.SiglipConfig(text_config={**size, "projection_size": 32}, vision_config=libraries.HF)
    clap = tf.ClapConfig(
        text_config={**size, "max_position_embeddings": 26, "pad_token_id": 1}, audio_config=HTSAT, projection_dim=20
    )
    made = {}
    for name, config, words, cls in (
        ("clip", clip, tiny_texts.clip_like(), tf.CLIPModel),
        ("siglip", siglip, tiny_texts.siglip_like(), tf.SiglipModel),
        ("clap", clap, tiny_texts.roberta_like(), tf.ClapModel),
    ):
        torch.manual_seed(0)
        libraries.stirred(cls(config)).save_pretrained(root / name)
        words.save_pretrained(root / name)
        made[name] = str(root / name)
    libraries.PROCESSORS["clip"]().save_pretrained(root / "clip")
    libraries.PROCESSORS["siglip"]().save_pretrained(root / "siglip")
    tf.ClapFeatureExtractor(**EXTRACTOR, truncation="rand_trunc").save_pretrained(root / "clap")
    return made
