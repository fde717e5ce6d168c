"""What the tests share: a small piece of the glyphs data set, and a small recipe over it."""

import itertools
import os
import runpy
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # device-agnostic code, but CI's figures are the CPU's

from mmcl import bundled
from mmcl.data import write_shards
from mmcl.recipe import Recipe, load_recipe
from mmcl.towers import train_sentencepiece

TRAIN, SHARD = 2000, 250
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="session", autouse=True)
def _cache_of_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is written to the user's cache, nor found there."""
    os.environ["MMCL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@dataclass(frozen=True)
class Glyphs:
    """Where a piece of the data set lies."""

    root: Path

    @property
    def train(self) -> Path:
        return self.root / "train"

    @property
    def test(self) -> Path:
        return self.root / "test"

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer.model"


@pytest.fixture(scope="session")
def script() -> SimpleNamespace:
    """The data tool itself."""
    return SimpleNamespace(**runpy.run_path(str(bundled.shelf("data_tools") / "glyphs.py")))


@pytest.fixture(scope="session")
def glyphs(tmp_path_factory: pytest.TempPathFactory, script: SimpleNamespace) -> Glyphs:
    """2,000 training samples in shards of 250, and the whole test set."""
    made = Glyphs(tmp_path_factory.mktemp("glyphs"))
    samples = list(itertools.islice(script.train_samples(), TRAIN))
    write_shards(samples, made.train, SHARD)
    write_shards(script.test_samples(), made.test, SHARD)
    train_sentencepiece((sample["txt"] for sample in samples), made.tokenizer, vocab_size=1000)
    return made


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory, glyphs: Glyphs) -> Path:
    """The file of a task: retrieval over the test set."""
    path = tmp_path_factory.mktemp("task") / "found.yaml"
    path.write_text(
        f"title: found\nkey: retrieval\nevaluator: {{name: retrieval, modalities: [text, image]}}\n"
        f"data: {{shards: '{glyphs.test}', modalities: {{image: png, text: txt}}}}\n"
    )
    return path


@pytest.fixture(scope="session")
def whole(glyphs: Glyphs) -> Callable[..., Recipe]:
    """The recipe glyphs/clip_tiny as it ships, over the small data, without tasks."""

    def make(run: Path, *overrides: str) -> Recipe:
        return load_recipe(
            "glyphs/clip_tiny",
            [
                f"run={run}",
                f"data.train.shards={glyphs.train}",
                f"towers.text.tokenizer.model={glyphs.tokenizer}",
                "tasks=[]",
                *overrides,
            ],
        )

    return make


@pytest.fixture(scope="session")
def tiny(whole: Callable[..., Recipe]) -> Callable[..., Recipe]:
    """The same with very small towers, and 8 steps of 32."""

    def make(run: Path, *overrides: str) -> Recipe:
        small = [f"towers.{tower}.{key}" for tower in ("image", "text") for key in ("width=32", "layers=1", "heads=2")]
        length = ["data.batch_size=32", "training.samples=256", "training.log_every_steps=1", "dim=16"]
        return whole(run, *small, *length, *overrides)

    return make


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; without one the tests are skipped, but not where they are asked for (MMCL_BROWSER=1, as CI does)."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None and not os.environ.get("MMCL_BROWSER"):
        pytest.skip("no chromium here")
    assert path is not None, "MMCL_BROWSER is set, and there is no chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield started
        started.close()
