"""The loss of samples that are held out: what it is, that it changes nothing, and what is refused."""

import json
import math
from collections import Counter
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
from mmcl.runs import Run, build_model
from mmcl.training.learner import Learner, Outcome
from mmcl.training.validation import Validation
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


@pytest.mark.slow
def test_it_goes_on_chooses_the_best_and_ends_the_run(
    tmp_path: Path, held: Path, tiny: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
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
    told = capsys.readouterr().err
    assert f"goes on with another data.validation.shards: {held / 'broken'} instead of {held / 'whole'}" in told
    assert "data.validation: of 1 of 64 samples something could not be used, first" in told
    with pytest.raises(MmclError, match=r"data.validation, by whose loss training.best compares .* differ"):
        workflow.train(tiny(again, *said, best[0]), resume=True)


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
            "data.validation: .*: 70 samples are fewer than the 80 of a batch",
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


@pytest.mark.slow
def test_samples_of_equal_keys_are_not_those_that_training_knows(
    tmp_path: Path, held: Path, tiny: Callable[..., Recipe], glyphs: Glyphs
) -> None:
    """SogCLR remembers each sample by who it is: here by shard and key, which are the same in both."""
    shard = sorted(Path(glyphs.train).glob("*.tar"))[0]
    keys = [sample["__key__"] for sample in read_samples(shard)]
    samples = [s for path in sorted((held / "whole").glob("*.tar")) for s in read_samples(path)]
    for name, called in (("same", keys), ("other", [f"x{key}" for key in keys])):
        write_shards(({**s, "__key__": key} for s, key in zip(samples, called, strict=False)), tmp_path / name, 1000)
    modalities = "modalities: {image: png, text: txt}"
    said = [f"data.train={{shards: '{shard}', {modalities}}}", "training.samples=1600"]
    said += ["objective=[{contrast: {name: sogclr, rho: 8, gamma: 0.2}, temperature: 0.05}]"]
    losses = []
    for name in ("same", "other"):
        source = f"data.validation={{shards: '{tmp_path / name}', {modalities}}}"
        run = workflow.train(tiny(tmp_path / f"run {name}", *said, source))
        losses.append(measured(run)[-1]["validation/loss"])
    assert losses[0] == losses[1]


def test_it_is_of_the_step_made_last(tmp_path: Path, held: Path, tiny: Callable[..., Recipe]) -> None:
    """A term that ends with the run counts in its last evaluation, and one that begins later does not yet."""
    terms = "objective=[{until_step: 8}, {contrast: sigmoid, from_step: 4}]"
    run = workflow.train(
        tiny(tmp_path / "run", f"data.validation={held / 'whole'}", terms, "training.eval_every_steps=4")
    )
    first, last = measured(run)
    assert "validation/loss/cosine_sigmoid" not in first
    assert first["validation/loss"] == first["validation/loss/cosine_softmax"]
    assert last["validation/loss"] == pytest.approx(
        last["validation/loss/cosine_softmax"] + last["validation/loss/cosine_sigmoid"]
    )
    best = "training.best={metric: validation/loss/cosine_sigmoid, lower: true}"
    with pytest.raises(MmclError, match=r"in each evaluation: validation/loss, validation/loss/cosine_softmax"):
        workflow.train(
            tiny(tmp_path / "no", f"data.validation={held / 'whole'}", terms, best, "training.eval_every_steps=4")
        )


def test_too_many_samples_that_cannot_be_used_stop_the_run(
    tmp_path: Path, held: Path, tiny: Callable[..., Recipe]
) -> None:
    said = [f"data.validation={held / 'broken'}", "data.max_bad=0.01"]
    with pytest.raises(MmclError, match=r"data.validation: of 1 of 64 .* data.max_bad allows a share of 0.01"):
        workflow.train(tiny(tmp_path / "run", *said))
    assert (tmp_path / "run" / "checkpoints" / "step-00000008").is_dir()  # which was made before


def test_batches_that_are_not_finite_are_told_and_are_not_the_best(
    tmp_path: Path, held: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    judge = Learner.judge

    def broken(learner: Learner, *more: Any) -> Outcome:
        out = judge(learner, *more)
        if learner.step != 4:
            return out
        names = [name in ("loss", "vectors/text") for name in out.names]
        return out._replace(values=out.values.masked_fill(torch.tensor(names), math.nan), taken=torch.tensor(False))

    monkeypatch.setattr(Learner, "judge", broken)
    said = ["training.eval_every_steps=2", "training.best={metric: validation/loss, lower: true}"]
    run = workflow.train(tiny(tmp_path / "run", f"data.validation={held / 'whole'}", *said))
    told = capsys.readouterr().err
    assert "left out as not finite: 2 batches; the tower of text gives vectors that are not finite" in told
    assert measured(run)[1] == {"validation/n": 64, "validation/broken_batches": 2}
    assert json.loads(Run(run).best.read_text())["step"] != 4


def test_each_sample_counts_once_in_batches_of_its_source(
    tmp_path: Path, held: Path, tiny: Callable[..., Recipe], glyphs: Glyphs
) -> None:
    """Two sources, of which one has no texts of its own but fonts."""
    train = (
        f"data.train=[{{shards: '{glyphs.train}', modalities: {{image: png, text: txt}}, weight: 2}},"
        f" {{shards: '{glyphs.train}', modalities: {{image: png, font: 'json:style'}}, weight: 1}}]"
    )
    held_out = (
        f"data.validation=[{{shards: '{held / 'whole'}', modalities: {{image: png, text: txt}}}},"
        f" {{shards: '{held / 'whole'}', modalities: {{image: png, font: 'json:style'}}}}]"
    )
    small = "width: 32, layers: 1, heads: 2"
    tokenizer = f"tokenizer: {{name: sentencepiece, model: '{glyphs.tokenizer}'}}"
    tower = f"towers.font={{name: text_transformer, {tokenizer}, context_length: 16, {small}}}"
    pairs = "objective=[{pairs: [[image, text]], temperature: 0.1}, {pairs: [[image, font]], temperature: 0.2}]"
    said = [train, tower, pairs, "data.batches=by_source"]
    recipe = tiny(tmp_path / "run", *said, held_out)
    (row,) = measured(workflow.train(recipe))
    assert row["validation/n"] == 128
    parts = [row[f"validation/loss/cosine_softmax_{i}"] for i in range(2)]
    assert row["validation/loss"] == pytest.approx(sum(parts) / 2)
    seen = [key for s in Validation(recipe, build_model(recipe)).streams for b in s for key in b.keys]
    assert set(Counter(seen).values()) <= {1, 2}
    with pytest.raises(MmclError, match="data.validation.weight: each sample counts once"):
        tiny(tmp_path / "run", *said, held_out.replace("}},", "}, weight: 1},"))
    three = "objective=[{score: gram, anchor: image}]"
    with pytest.raises(
        MmclError, match="objective.0: no batch has all that gram_softmax compares, .* image, text; image"
    ):
        tiny(tmp_path / "run", *said[:2], "data.batches=by_source", three)


def test_copies_are_drawn_as_in_training_and_the_same_each_time(
    tmp_path: Path, held: Path, tiny: Callable[..., Recipe]
) -> None:
    said = ["data.copies={image: 2}", "objective=[clip, {pairs: [[image, image.2]], temperature: 0.1}]"]
    recipe = tiny(tmp_path / "run", f"data.validation={held / 'whole'}", *said)
    validation = Validation(recipe, build_model(recipe))
    twice = []
    for _ in range(2):
        validation.streams[0].restore(validation._starts[0])
        twice.append(torch.cat([torch.stack([b["image"], b["image.2"]]) for b in validation.streams[0]], 1))
    assert torch.equal(*twice)
    assert not torch.equal(twice[0][0], twice[0][1])


def test_what_samples_show_has_to_be_said_of_both(tmp_path: Path, held: Path, tiny: Callable[..., Recipe]) -> None:
    source = f"data.validation={{shards: '{held / 'whole'}', modalities: {{image: png, text: txt}}}}"
    with pytest.raises(MmclError, match="data.validation.identity: data.train says which samples show the same thing"):
        tiny(tmp_path, source, "data.train.identity=txt")
