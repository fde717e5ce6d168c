"""The tasks on data that mmcl builds, measured in miniature by a model of random weights."""

import gzip
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mmcl import bundled
from mmcl.data import write_shards
from mmcl.evaluators import Evaluator
from mmcl.model import Encoder, MultiTower
from mmcl.recipe import check, read_yaml
from mmcl.tasks import Task, TaskSpec, VectorStore, load_task
from mmcl.tasks.task import Measured
from tests.conftest import Glyphs
from tests.layouts.files import put
from tests.small_model import DIM, towers

SHELF = bundled.shelf("eval") / "tasks"
NAMES = bundled.names(SHELF, ".yaml")
GLYPHS = [name for name in NAMES if name.startswith("glyphs/") and "three_way" not in name]
STAMPS = [name for name in NAMES if name.startswith("stamps/")]
LONG = ("glyphs/robustness", "glyphs/transfer", "glyphs/few_shot")
LANGUAGES = ("en", "fr", "es", "ca", "ro", "ru")
CATEGORIES = ("animals", "food", "symbols", "town")


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """Towers of pictures, texts and sounds."""
    torch.manual_seed(0)
    parts = zip(("image", "text", "audio"), towers(tmp_path_factory.mktemp("towers")).values(), strict=True)
    return Encoder(MultiTower(dict(parts), DIM).eval(), torch.device("cpu"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> VectorStore:
    """What tasks share."""
    return VectorStore(tmp_path_factory.mktemp("vectors"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, glyphs: Glyphs) -> Path:
    """The folder data/: a piece of glyphs, and 24 stamps."""
    root = tmp_path_factory.mktemp("data")
    (root / "glyphs").symlink_to(glyphs.root)
    write_shards(map(stamp, range(24)), root / "stamps/test")
    return root


def stamp(number: int) -> dict[str, Any]:
    """As the data tool makes them: the first lacks recordings and the Romanian caption; a few have effects."""
    rng = np.random.default_rng(number)
    Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(png := io.BytesIO(), "PNG")
    soundfile.write(ogg := io.BytesIO(), rng.normal(size=8000) / 9, 8000, format="OGG")
    spoken = ["ca", "es", "fr", "ro", "ru"] if number else []
    captions = {language: f"{language} {number}" for language in LANGUAGES if number or language != "ro"}
    meta = {"category": CATEGORIES[number % 4], "caption_id": f"thing {number // 2}", "captions": captions}
    sounds = [*spoken, *(["effect"] if number % 5 == 1 else [])]
    return {"__key__": f"s{number}", "png": png.getvalue(), "json": meta} | {f"{s}.ogg": ogg.getvalue() for s in sounds}


def small(name: str, data: Path) -> Task:
    """The task as it ships, but that it learns from all of the small training data."""
    content = read_yaml(SHELF / f"{name}.yaml")
    if "train" in content:
        content["train"]["shards"] = "data/glyphs/train"
    return Task(name, check(TaskSpec, content, name).below(str(data)), SHELF / f"{name}.yaml")


def sane(found: Measured, evaluator: Evaluator) -> None:
    """Everything that is promised is there, and every share is one."""
    numbers = {name: value for name, value in found.result.items() if name not in ("n", "skipped")}
    left_out = set(evaluator.metrics()) - set(numbers)
    assert left_out <= {"acc5"}  # where there are fewer classes
    assert set(numbers) <= set(evaluator.metrics())
    shares = ("recall", "acc", "mrr", "map", "ndcg", "mca", "clean", "corruption", "separability", "orphans", "ece")
    for name, value in numbers.items():
        assert np.isfinite(value), name
        if name.split("/")[-1].startswith(shares):
            assert 0 <= value <= 1, name


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in GLYPHS]
)
def test_glyphs(name: str, data: Path, random_model: Encoder, store: VectorStore) -> None:
    if name == "glyphs/robustness":
        pytest.importorskip("imagecorruptions")
    task = small(name, data)
    found = task.measure(random_model, store)
    sane(found, task.evaluator)
    assert found.result["n"] == 500
    assert "skipped" not in found.result
    if name in ("glyphs/retrieval", "glyphs/hubs"):
        assert found.result[task.headline] < 0.1  # chance is 10 of 500
    if name in ("glyphs/knn", "glyphs/probe"):
        assert found.result["acc1"] > 121 / 500  # the largest class: pictures say more than nothing, even so


@pytest.mark.parametrize("name", STAMPS)
def test_stamps(name: str, data: Path, random_model: Encoder, store: VectorStore) -> None:
    task = load_task(name, str(data))
    found = task.measure(random_model, store)
    sane(found, task.evaluator)
    whole = "audio" not in name and "joint" not in name and name != "stamps/text_image_ro"
    assert (found.result["n"], found.result.get("skipped", 0)) == ((24, 0) if whole else (23, 1))
    if name == "stamps/effect_image":
        assert found.result.about["counts"][task.headline] == 5


def test_fashion_mnist(tmp_path: Path, random_model: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built from a miniature of the package, and measured."""
    monkeypatch.syspath_prepend(str(bundled.shelf("data_tools")))
    import fashion_mnist

    rng = np.random.default_rng(0)
    labels = {"train": [*range(10)] * 4, "t10k": [9, 0, 3]}
    for stem, own in labels.items():
        pixels = rng.integers(0, 256, (len(own), 28, 28), np.uint8).tobytes()
        header = struct.pack(">HBB3I", 0, 8, 3, len(own), 28, 28)
        put(tmp_path / "package", f"{stem}-images-idx3-ubyte.gz", gzip.compress(header + pixels))
        put(tmp_path / "package", f"{stem}-labels-idx1-ubyte", struct.pack(">HBBI", 0, 8, 1, len(own)) + bytes(own))
    out = tmp_path / "data/fashion_mnist"
    fashion_mnist.build(out, tmp_path / "package")
    assert json.loads((out / "manifest.json").read_text()) == {"train": 40, "test": 3}
    by_prompts = load_task("fashion_mnist/zeroshot", str(tmp_path / "data"))
    assert by_prompts.items[0].one("label") == ["9", "0", "3"]
    classes = read_yaml(SHELF / "fashion_mnist/zeroshot.yaml")["evaluator"]["classes"]
    assert classes == list(fashion_mnist.KINDS)
    probe = load_task("fashion_mnist/probe", str(tmp_path / "data"))
    assert probe.items[0].one("label") == ["ankle boot", "t-shirt", "dress"]
    for task in (by_prompts, probe):
        sane(task.measure(random_model), task.evaluator)
