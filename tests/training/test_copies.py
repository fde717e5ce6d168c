"""Runs with copies, extras and an average of the towers, and what does not fit together."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import mmcl
from mmcl import checkpoints
from mmcl.data import read_samples, write_shards
from mmcl.embed import embed_shards
from mmcl.errors import MmclError
from mmcl.losses import REGULARIZERS, Regularizer, RegularizerSpec
from mmcl.losses.line import Extra
from mmcl.losses.regularizers.base import share
from mmcl.model import Encoder, present_rows
from mmcl.recipe import Recipe, check
from mmcl.runs import Run, build_model
from mmcl.training import Trainer
from mmcl.types import Embeddings
from tests.distributed_worker import run_processes

NAMES = ("image", "image.2", "text", "text.2", "text.wrong")


@REGULARIZERS.register("taught_in_tests")
class Taught(Regularizer):
    """Every extra matters, also where it is absent."""

    def __call__(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        e, total = embeddings, torch.zeros(())
        for name in ("image", "text.2"):
            both = e.present[name] & e.present[f"ema.{name}"] & e.present["grade"]
            apart = (e.all[name] - e.extras[f"ema.{name}"]).square().mean(1) * e.extras["grade"]
            total = total + torch.where(both, apart, 0.0).mean()
        known = e.present["teacher.text"]
        scores = (e.all["text"] @ e.all["text"].T - e.extras["teacher.text"] @ e.extras["teacher.text"].T).square()
        wrong = torch.where(e.present["text.wrong"], (e.all["text.wrong"] * e.all["image"]).sum(1), 0.0)
        total = total + torch.where(known[:, None] & known[None, :], scores, 0.0).mean() + wrong.mean()
        return total * share(e)


class TaughtSpec(RegularizerSpec):
    """What says that it needs them."""

    def extras(self) -> dict[str, Extra]:
        vectors = dict.fromkeys(("ema.image", "ema.text.2", "teacher.text"), Extra())
        return {**vectors, "grade": Extra(axes=1)}


def npy(values: np.ndarray) -> bytes:
    np.save(out := io.BytesIO(), values)
    return out.getvalue()


@pytest.fixture(scope="session")
def rich(glyphs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Glyphs with one to four captions; most with a wrong one, a teacher's vector and a grade."""
    samples = list(read_samples([str(glyphs.train / "00000.tar"), str(glyphs.train / "00001.tar")]))
    rng = np.random.default_rng(0)
    for i, sample in enumerate(samples):
        name = sample["txt"].decode()
        captions = [name, *(f"{name} {word}" for word in ("drawn", "as a picture", "again"))][: 1 + i % 4]
        said = {"captions": captions, "grade": float(rng.random()), "wrong": f"no {name}"}
        sample["json"] = {key: value for key, value in said.items() if key == "captions" or rng.random() < 0.8}
        if rng.random() < 0.8:
            sample["teacher.npy"] = npy(rng.standard_normal(5))
    folder = tmp_path_factory.mktemp("rich") / "s"
    write_shards(iter(samples), folder, 100)
    return folder


OBJECTIVE: list[Any] = [
    {"temperature": 0.1},
    {"regularize": {"name": "alignment", "pairs": [["image", "image.2"], ["text", "text.2"]]}, "weight": 0.2},
    {"regularize": {"name": "uniformity", "modalities": ["text.wrong"]}, "weight": 0.1},
    TaughtSpec.model_validate({"regularize": "taught_in_tests"}),
]


@pytest.fixture(scope="session")
def taught(tiny: Callable[..., Recipe], rich: Path) -> Callable[..., Recipe]:
    """A recipe of 8 steps with everything in it."""

    def make(run: Path, **more: Any) -> Recipe:
        content = tiny(run, "towers.image.patch_dropout=0.25", "towers.image.crop=[0.5, 1]").model_dump(mode="json")
        train = {
            "shards": str(rich),
            "modalities": {"image": "png", "text": "json:captions", "text.wrong": "json:wrong"},
            "captions": "all",
            "optional": ["text.wrong"],
            "extras": {"teacher.text": "teacher.npy", "grade": "json:grade"},
        }
        content["data"] |= {"train": train, "copies": {"image": 2, "text": 2}, "batch_size": 33, **more.pop("data", {})}
        content["training"] |= {"samples": 8 * 33, "ema": {"decay": 0.9, "evaluate": True}, **more.pop("training", {})}
        return check(Recipe, {**content, "objective": OBJECTIVE, **more}, "test")

    return make


def trained(recipe: Recipe, resume: bool = False, stop: int | None = None) -> Path:
    """Train without tasks; a run that is stopped dies after a step, as if it were killed."""
    run = Run(Path(recipe.run))
    run.path.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(recipe, run, lambda _: {}, resume)
    update = trainer.learner.update

    def dying() -> Tensor:
        if trainer.step == stop:
            raise KeyboardInterrupt
        return update()

    trainer.learner.update = dying  # type: ignore[method-assign]
    if stop is None:
        trainer.train()
    else:
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    return run.path


def tensors(run: Path) -> dict[str, Tensor]:
    checkpoint = checkpoints.latest(run / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.state["step"] == 8
    return checkpoint.tensors("weights") | checkpoint.tensors("optimizer")


def losses(run: Path) -> list[list[float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        [row[name] for name in ("loss", "loss/taught_in_tests", "loss/alignment", "loss/uniformity")] for row in rows
    ]


@pytest.fixture(scope="module")
def unbroken(taught: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(taught(tmp_path_factory.mktemp("unbroken") / "run"))


def test_a_run_with_copies_extras_and_an_average(unbroken: Path) -> None:
    rows = [json.loads(line) for line in (unbroken / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert all(row["loss/alignment"] > 0.001 for row in rows)  # copies are not the same
    assert rows[-1]["bad_samples"] == 0
    assert rows[-1]["measured_ema"] is True


@pytest.mark.slow
def test_an_interrupted_run_ends_bit_for_bit_where_an_unbroken_one_does(
    tmp_path: Path, unbroken: Path, taught: Callable[..., Recipe]
) -> None:
    recipe = taught(tmp_path / "run", training={"checkpoint_every_steps": 3})
    trained(recipe, stop=5)
    assert (tmp_path / "run" / "checkpoints" / "step-00000003").is_dir()
    run = trained(recipe, resume=True)
    one, two = tensors(unbroken), tensors(run)
    assert one.keys() == two.keys()
    assert any(name.startswith("ema.module.towers.image.") for name in one)
    assert int(one["ema.n_averaged"]) == 8
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert losses(run) == losses(unbroken)


def run_of(content: dict[str, Any], path: Path) -> tuple[Path, dict[str, Tensor]]:
    """What a run leaves on each of its processes."""
    run = trained(check(Recipe, {**content, "run": str(path), "objective": OBJECTIVE}, "test"))
    return run, tensors(run)


@pytest.mark.slow
def test_a_run_on_two_processes_is_the_run_on_one(tmp_path: Path, taught: Callable[..., Recipe]) -> None:
    content = taught(tmp_path).model_dump(mode="json")
    content["towers"]["image"]["patch_dropout"] = 0.0  # what is left out is drawn by each process for itself
    run, one = run_of(content, tmp_path / "one")
    (path, two), (_, other) = run_processes(run_of, 2, tmp_path / "meet", content, tmp_path / "two")
    np.testing.assert_allclose(losses(path), losses(run), rtol=1e-4)
    for name in one:
        assert torch.equal(two[name], other[name]), name
        if name.startswith(("model.", "ema.")) and not name.endswith(
            "in_proj_bias"
        ):  # the keys' moves by rounding alone
            torch.testing.assert_close(two[name].float(), one[name].float(), rtol=0.02, atol=2e-3)


def test_what_is_opened_and_measured_is_the_average_where_the_recipe_says_so(
    tmp_path: Path, tiny: Callable[..., Recipe], task: Path
) -> None:
    more = ["training.samples=640", "training.ema={decay: 0.95, evaluate: true}", f"tasks=['{task}']"]
    run = mmcl.train(tiny(tmp_path / "run", *more))
    results = json.loads((run / "results.json").read_text())
    assert results["train"]["measured_ema"] is True
    assert "The moving average of the weights (EMA)" in (run / "report.html").read_text()
    rank = "text_to_image/median_rank"
    assert mmcl.evaluate(mmcl.load(run), str(task))[rank] == results["retrieval"]["text_to_image"]["median_rank"]
    checkpoint = checkpoints.latest(run / "checkpoints")
    assert checkpoint is not None
    weights = checkpoint.tensors("weights")
    name = "towers.text.backbone.transformer.positional_embedding"
    assert torch.equal(mmcl.load(run).model.state_dict()[name].cpu(), weights[f"ema.module.{name}"])
    assert not torch.equal(weights[f"model.{name}"], weights[f"ema.module.{name}"])

    path = run / "recipe.yaml"
    path.write_text(path.read_text().replace("evaluate: true", "evaluate: false"))
    with pytest.raises(MmclError, match=r"training.ema: nothing looks at the average"):
        mmcl.load(run)


def test_an_average_may_begin_in_the_middle_of_a_run(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    run = mmcl.train(tiny(tmp_path / "run"))
    recipe = tiny(tmp_path / "run", "training.samples=320", "training.ema={decay: 0.9, evaluate: true}")
    trainer = Trainer(recipe, Run(run), lambda _: {}, resume=True)
    assert "the run had no average before" in trainer.notes[0]
    assert trainer.learner.average is not None
    ours = trainer.model.state_dict()
    assert all(torch.equal(ours[name], x) for name, x in trainer.learner.average.model.state_dict().items())
    (run / "recipe.yaml").write_text(recipe.to_yaml())
    opened = mmcl.load(run).model.state_dict()  # of a checkpoint without an average: what it begins with
    assert all(torch.equal(ours[name], x) for name, x in opened.items())


def test_the_teacher_is_the_average_and_its_vectors_are_fp32_whatever_the_towers_compute_in(
    tmp_path: Path, taught: Callable[..., Recipe]
) -> None:
    (tmp_path / "run").mkdir()
    recipe = taught(tmp_path / "run", training={"precision": "bf16"})
    trainer = Trainer(recipe, Run(tmp_path / "run"), lambda _: {})
    name, expected = "towers.text.backbone.transformer.positional_embedding", torch.zeros(())
    for batch, step in zip(trainer.stream, range(3), strict=False):
        assert torch.isfinite(trainer.learner.backward(batch).total)
        trainer.learner.update()
        decay = (1 + step) / (10 + step) if step else 0.0
        expected = decay * expected + (1 - decay) * trainer.model.state_dict()[name]
    assert trainer.learner.average is not None
    torch.testing.assert_close(trainer.learner.average.model.state_dict()[name], expected)
    rows = present_rows(batch, trainer.learner.names, trainer.learner.device)
    extras = trainer.learner._extras(batch, rows)
    assert list(extras) == ["teacher.text", "grade", "ema.image", "ema.text.2"]
    assert {x.dtype for x in extras.values()} == {torch.float32}
    assert not any(x.requires_grad for x in extras.values())
    there = batch.present["text.2"]
    assert 0 < int(there.sum()) < len(batch)
    with torch.no_grad():
        averaged, own = (
            model({"text": rows["text.2"]})["text"] for model in (trainer.learner.average.model, trainer.model)
        )
    torch.testing.assert_close(extras["ema.text.2"][there], averaged, rtol=0.05, atol=0.05)
    assert (averaged - own).norm() > 4 * (averaged - extras["ema.text.2"][there]).norm()
    assert not extras["ema.text.2"][~there].any()


def test_of_all_captions_the_first_is_embedded(tmp_path: Path, taught: Callable[..., Recipe], rich: Path) -> None:
    recipe = taught(tmp_path / "run")
    manifest = embed_shards(Encoder(build_model(recipe)), recipe.data.sources[0], tmp_path / "out")
    assert (manifest["samples"], manifest["modalities"]) == (500, ["image", "text"])
    table = pq.read_table(tmp_path / "out" / "metadata" / "metadata_0000.parquet")
    first = [json.loads(sample["json"])["captions"][0] for sample in read_samples(rich)]
    assert table["caption"].to_pylist() == first


def refusal(make: Callable[[], Any]) -> str:
    with pytest.raises(MmclError) as told:
        make()
    return str(told.value)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"training": {"ema": None}}, "objective.3: it needs the extra 'ema.image', which is one of training.ema"),
        ({"training": {"ema": True}}, "training.ema"),
        ({"training": {"ema": 1.0}}, "training.ema.decay: Input should be less than 1"),
        ({"objective": ["clip"], "training": {"ema": 0.9}}, "training.ema: nothing looks at the average"),
        ({"data": {"copies": {"text": 2}}}, "objective.1: 'image.2' is not among ['image', 'text', 'text.2',"),
        ({"data": {"copies": {"image": 0}}}, "data.copies.image: Input should be greater than or equal to 1"),
        ({"data": {"copies": {"image": 2}}}, "data.train.captions: all captions at once are copies of a text"),
        ({"data": {"copies": {"images": 2}}}, "data.copies: 'images' is none of the modalities; did you mean 'image'"),
    ],
)
def test_what_does_not_fit_together_is_told(
    tmp_path: Path, taught: Callable[..., Recipe], more: dict[str, Any], told: str
) -> None:
    if "objective" in more:
        more = {**more, "objective": "clip"}
    assert told in refusal(lambda: taught(tmp_path, **more))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"extras": {}},
            "objective.3: it needs the extra 'grade', which is one of extras of the data; there are: ema.",
        ),
        ({"captions": "random"}, "data.copies: those of text are further captions"),
        ({"modalities": {"image": "png", "text": "json:captions", "word.x": "txt"}}, "there is no tower for word"),
        ({"extras": {"text.2": "json:grade"}}, "two things are called 'text.2'"),
    ],
)
def test_data_that_does_not_fit_is_told(
    tmp_path: Path, taught: Callable[..., Recipe], change: dict[str, Any], told: str
) -> None:
    train = taught(tmp_path).data.sources[0].model_dump() | {"optional": []} | change
    assert told in refusal(lambda: taught(tmp_path, data={"train": train}))


def test_a_tower_with_a_dot_in_its_name_is_told(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    content = tiny(tmp_path).model_dump(mode="json")
    content["towers"]["text.2"] = content["towers"]["text"]
    assert "towers.text.2: what has a dot in its name goes through text's tower" in refusal(
        lambda: check(Recipe, content, "r")
    )


def test_copies_that_would_all_be_the_same_are_refused(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    copies = ["data.copies={image: 2}", "objective.0.pairs=[[image, text], [image.2, text]]"]
    recipe = tiny(tmp_path / "run", *copies, "towers.image.shift=0", "towers.image.crop=[1, 1]")
    with pytest.raises(MmclError, match=r"data.copies.image: they would all be the same"):
        Trainer(recipe, Run(tmp_path / "run"), lambda _: {})
    Trainer(tiny(tmp_path / "run", *copies), Run(tmp_path / "run"), lambda _: {})


def test_an_objective_says_which_extra_it_lacks() -> None:
    objective = mmcl.objective([TaughtSpec.model_validate({"regularize": "taught_in_tests"})])
    vectors = {name: torch.randn(4, 3) for name in NAMES}
    extras = {"ema.image": torch.randn(4, 3), "grade": torch.rand(4)}
    with pytest.raises(
        MmclError, match="taught_in_tests: it needs the extra 'ema.text.2'.*there are: ema.image, grade"
    ):
        objective(vectors, extras=extras)
    extras |= {"ema.text.2": torch.randn(4, 3), "teacher.text": torch.randn(4, 5)}
    assert torch.isfinite(objective(vectors, extras=extras).total)


def test_one_tower_alone_may_learn_from_copies(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    content = tiny(tmp_path / "run").model_dump(mode="json")
    del content["towers"]["text"], content["data"]["train"]["modalities"]["text"]
    content["objective"] = [{"regularize": "uniformity"}]
    assert "a contrast needs two modalities or more, or data.copies of one" in refusal(
        lambda: check(Recipe, content, "r")
    )
    content["data"]["copies"] = {"image": 2}
    content["objective"] = [{"regularize": {"name": "uniformity", "modalities": ["image", "image.2"]}}]
    run = trained(check(Recipe, content, "r"))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows)
