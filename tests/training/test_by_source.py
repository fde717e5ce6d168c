"""Runs over sources that carry different modalities, in whole batches of one source each."""

import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mmcl import workflow
from mmcl.data import write_shards
from mmcl.errors import MmclError
from mmcl.recipe import Recipe, dump_yaml
from tests.conftest import Glyphs

RATE, STEPS = 8_000, 8


def sound(number: int) -> bytes:
    wave = np.sin(np.arange(RATE // 2) * (0.05 + 0.02 * (number % 20)))
    soundfile.write(out := io.BytesIO(), 0.5 * wave, RATE, format="WAV", subtype="PCM_16")
    return out.getvalue()


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    write_shards(
        ({"__key__": f"s{i:03d}", "wav": sound(i), "txt": f"greek letter {i % 20}"} for i in range(60)), folder, 20
    )
    return folder


@pytest.fixture
def both(glyphs: Glyphs, sounds: Path, tiny: Callable[..., Recipe]) -> Callable[..., Recipe]:
    """Pictures with names, and sounds with names."""

    def make(run: Path, *more: str) -> Recipe:
        said = (
            f"data.train=[{{shards: '{glyphs.train}', modalities: {{image: png, text: txt}}, weight: 2}},"
            f" {{shards: '{sounds}', modalities: {{audio: wav, text: txt}}, weight: 1}}]",
            "towers.audio={name: spectrogram_vit, seconds: 0.5, crop: start, patch: [64, 6], width: 32, layers: 1,"
            " heads: 2}",
            "objective=[{pairs: [[image, text]], temperature: 0.1}, {pairs: [[audio, text]], temperature: 0.2}]",
            "data.batches=by_source",
            "data.batch_size=33",
            f"training.samples={33 * STEPS}",
            "optimizer.lr=1e-4",
        )
        return tiny(run, *said, *more)

    return make


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def terms(run: Path) -> list[dict[str, float]]:
    return [{name: x for name, x in row.items() if name.startswith("loss/")} for row in rows(run)]


def test_terms_without_their_modalities_count_nothing(tmp_path: Path, both: Callable[..., Recipe]) -> None:
    run = workflow.train(both(tmp_path / "run"))
    found = terms(run)
    assert len(found) == STEPS
    kinds = {"loss/cosine_softmax_0": {"image", "text"}, "loss/cosine_softmax_1": {"audio", "text"}}
    assert {name for row in found for name in row} == {*kinds}, "one source only"
    for row, parts in zip(rows(run), found, strict=True):
        ((name, value),) = parts.items()
        assert row["loss"] == pytest.approx(value)
        assert 0.5 * math.log(33) < row["loss"] < 3 * math.log(33)
        assert {name.split("/")[1] for name in row if name.endswith("/uniformity")} == kinds[name]


def test_means_of_several_steps_are_of_the_batches_that_a_term_is_about(
    tmp_path: Path, both: Callable[..., Recipe]
) -> None:
    each = terms(workflow.train(both(tmp_path / "each")))
    run = workflow.train(both(tmp_path / "all", f"training.log_every_steps={STEPS}"))
    (found,) = terms(run)
    for name, value in found.items():
        own = [row[name] for row in each if name in row]
        assert 1 <= len(own) < STEPS
        assert value == pytest.approx(sum(own) / len(own), rel=1e-5)


def test_another_kind_of_batches_is_another_run(tmp_path: Path, both: Callable[..., Recipe]) -> None:
    run = workflow.train(both(tmp_path / "run", "training.samples=33"))
    with pytest.raises(MmclError, match="made with another recipe: data.batches differ"):
        workflow.train(both(run, "training.samples=33", "data.batches=mixed"), resume=True)


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path, both: Callable[..., Recipe]) -> None:
    one = workflow.train(both(tmp_path / "one"))
    path, two = tmp_path / "two.yaml", tmp_path / "two"
    recipe = both(two, "training.processes=2")
    path.write_text(dump_yaml(recipe.model_dump(mode="json")))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mmcl", "train", str(path)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    for mine, theirs in zip(terms(two), terms(one), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-9)
