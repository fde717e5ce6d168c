"""The loss of samples that are held out: what it is, that it changes nothing, and what is refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import mmcl
from mmcl import workflow
from mmcl.data import read_samples, write_shards
from mmcl.errors import MmclError
from mmcl.recipe import Recipe
from mmcl.runs import Run
from tests.conftest import Glyphs
from tests.distributed_worker import run_processes
from tests.training.test_resume import rows, same

HELD, BATCH = 70, 32  # two batches; six samples do not fill one


@pytest.fixture(scope="module")
def held(glyphs: Glyphs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few samples of the test shards, one of which has no picture."""
    folder = tmp_path_factory.mktemp("held")
    shards = sorted(Path(glyphs.test).glob("*.tar"))
    samples = [sample for shard in shards for sample in read_samples(shard)][:HELD]
    write_shards(samples, folder / "whole", 30)
    broken = [{**sample, "png": b"no picture"} if i == 3 else sample for i, sample in enumerate(samples)]
    write_shards(broken, folder / "broken", 30)
    return folder


def measured(run: Path) -> list[dict[str, float]]:
    """Rows with a validation loss, and of them what is of it."""
    found = [{n: x for n, x in row.items() if n.startswith("validation/")} for row in rows(run)]
    return [row for row in found if row]


def test_it_is_the_objective_on_held_out_samples_as_in_evaluation(
    tmp_path: Path, held: Path, tiny: Callable[..., Recipe]
) -> None:
    """By hand, in float64, from what the newest checkpoint embeds."""
    said = ["objective=clip", "training.eval_every_steps=4", "training.log_every_steps=4"]
    run = workflow.train(tiny(tmp_path / "run", f"data.validation={held / 'whole'}", f"data.batch_size={HELD}", *said,
                              f"training.samples={8 * HELD}"))  # fmt: skip
    samples = [s for path in sorted((held / "whole").glob("*.tar")) for s in read_samples(path)]
    encoder = mmcl.load(run)
    paths = []
    for i, sample in enumerate(samples):
        paths.append(tmp_path / f"{i}.png")
        paths[-1].write_bytes(sample["png"])
    text = [bytes(sample["txt"]).decode() if isinstance(sample["txt"], bytes) else sample["txt"] for sample in samples]
    images, texts = (encoder.embed(m, values).double() for m, values in (("image", paths), ("text", text)))
    last = rows(run)[-1]
    logits = images @ texts.T / last["temperature/cosine_softmax"]
    target = torch.arange(HELD)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    assert last["validation/loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert last["validation/loss/cosine_softmax"] == last["validation/loss"]
    results = json.loads(Run(run).results.read_text())
    assert results["validation"]["loss"] == last["validation/loss"]
    assert results["validation"]["n"] == HELD
    assert len(measured(run)) == 2


@pytest.mark.parametrize(
    "objective",
    [
        "[{negatives: {name: queue, size: 40, of: [text]}}]",
        "[isogclr]",
        "[clip, {regularize: clusters}]",
        "[clip, {regularize: {name: instance, teachers: {text: ema.text}}, weight: 0.1}]",
    ],
)
def test_nothing_is_learned_and_nothing_remembered(
    tmp_path: Path, held: Path, tiny: Callable[..., Recipe], objective: str
) -> None:
    more = [f"objective={objective}", "towers.image.patch_dropout=0.5"]
    more += ["training.ema=0.9"] if "ema" in objective else []
    plain = workflow.train(tiny(tmp_path / "plain", *more))
    said = [f"data.validation={held / 'whole'}", "training.eval_every_steps=3"]
    run = workflow.train(tiny(tmp_path / "run", *more, *said))
    found = measured(run)
    assert len(found) == 3
    assert all(math.isfinite(value) and row["validation/n"] == 2 * BATCH for row in found for value in row.values())
    for row, other in zip(rows(run), rows(plain), strict=True):
        assert {n: x for n, x in row.items() if n in other} == other
    kept = [mmcl.checkpoints.latest(folder / "checkpoints") for folder in (run, plain)]
    for name in ("weights", "optimizer", "rng"):
        one, two = (checkpoint.tensors(name) for checkpoint in kept if checkpoint is not None)
        assert one.keys() == two.keys()
        assert [key for key, tensor in one.items() if not torch.equal(tensor, two[key])] == []


def test_it_goes_on_chooses_the_best_and_ends_the_run(tmp_path: Path, held: Path, tiny: Callable[..., Recipe]) -> None:
    said = [f"data.validation={held / 'whole'}", "training.eval_every_steps=1", "schedule={name: constant, warmup: 2}"]
    best = ["training.best={metric: validation/loss, lower: true, patience: 2}", "optimizer.lr=1e-30"]
    run = workflow.train(tiny(tmp_path / "run", *said, *best))  # with which nothing becomes better
    assert len(measured(run)) == 3
    assert json.loads(Run(run).best.read_text()) | {"value": 0} == {"step": 1, "metric": "validation/loss", "value": 0}
    whole = workflow.train(tiny(tmp_path / "whole", *said))
    again = workflow.train(tiny(tmp_path / "again", *said, "training.samples=160"))
    workflow.train(tiny(again, *said), resume=True)
    same(again, whole)
    workflow.train(tiny(again, *said[1:], f"data.validation={held / 'broken'}", "training.samples=288"), resume=True)
    assert measured(again)[-1]["validation/bad_samples"] == 1
    assert "bad_samples" not in "".join(measured(again)[-2])


def ranks(said: list[tuple[Any, dict[str, str]]]) -> None:
    for recipe, environment in said:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            workflow.train(Recipe.model_validate(recipe))


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tmp_path: Path, held: Path, tiny: Callable[..., Recipe]) -> None:
    def job(name: str, *more: str) -> dict[str, Any]:
        said = [f"data.validation={held / 'broken'}", "training.eval_every_steps=4", "data.batch_size=33"]
        said += ["training.ema={decay: 0.9, evaluate: true}", "training.samples=264", "training.chunk=5"]
        objective = "objective=[clip, {regularize: {name: instance, teachers: {text: ema.text}}, weight: 0.1}]"
        return tiny(tmp_path / name, *said, objective, *more).model_dump(mode="json")

    ranks([(job("one"), {})])
    sharded = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    run_processes(ranks, 2, tmp_path / "processes", [(job("two"), {}), (job("sharded"), sharded)])
    for name in ("two", "sharded"):
        for row, expected in zip(measured(tmp_path / name), measured(tmp_path / "one"), strict=True):
            assert row == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            ["data.batch_size=80", "training.samples=640"],
            "data.validation: 70 samples are fewer than the 80 of a batch",
        ),
        (
            ["training.best=validation/loss", "training.eval_every_steps=2"],
            r"the smaller is better: say \{metric: validation/loss, lower: true\}",
        ),
        (
            ["training.best={metric: validation/los, lower: true}", "training.eval_every_steps=2"],
            "no task of the recipe gives 'validation/los'; did you mean 'validation/loss'",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(
    tmp_path: Path, held: Path, tiny: Callable[..., Recipe], said: list[str], told: str
) -> None:
    with pytest.raises(MmclError, match=told):
        workflow.train(tiny(tmp_path / "run", f"data.validation={held / 'whole'}", *said))
    assert not (tmp_path / "run").exists()


def test_sources_that_do_not_fit_those_of_training_are_refused(
    tmp_path: Path, held: Path, glyphs: Glyphs, tiny: Callable[..., Recipe]
) -> None:
    shards = held / "whole"
    with pytest.raises(MmclError, match=r"data.validation: its modalities are \['text'\], and those of data.train"):
        tiny(tmp_path, f"data.validation={{shards: '{shards}', modalities: {{text: txt}}}}")
    source = f"{{shards: '{glyphs.train}', modalities: {{image: png, text: txt}}, weight: 1}}"
    several = f"data.train=[{source}, {source}]"
    with pytest.raises(MmclError, match="`train` has several sources; say a source here, too"):
        tiny(tmp_path, several, "objective=clip", f"data.validation={shards}")
    recipe = tiny(
        tmp_path,
        several,
        "objective=clip",
        f"data.validation={{shards: '{shards}', modalities: {{image: png, text: txt}}}}",
    )
    assert len(recipe.data.held_out) == 1
