"""What a run leaves behind, and what it says when something is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import mmcl
from mmcl import workflow
from mmcl.data import read_samples, write_shards
from mmcl.errors import MmclError
from mmcl.recipe import Recipe
from mmcl.report import write_report
from mmcl.runs import Run
from mmcl.training import Trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Recipe], task: Path) -> Path:
    path = tmp_path_factory.mktemp("trained") / "run"
    recipe = tiny(path, f"tasks=['{task}']", "training.samples=1280", "training.eval_every_steps=20")
    return mmcl.train(recipe)


def test_the_loss_falls(trained: Path) -> None:
    losses = [json.loads(line)["loss"] for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 40
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.15


def test_every_row_has_step_loss_and_rate_and_some_the_tasks(trained: Path, task: Path) -> None:
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert all({"step", "samples", "loss", "lr", "grad_norm", "samples_per_second"} <= set(row) for row in rows)
    measured = [row["step"] for row in rows if any(name.startswith(f"{task}/") for name in row)]
    assert measured == [20, 40]


def test_results_have_the_form_that_scripts_read(trained: Path) -> None:
    results = json.loads((trained / "results.json").read_text())
    measured = {"recall@1", "recall@5", "recall@10", "median_rank", "mrr", "map@10", "ndcg@10"}
    assert set(results["retrieval"]["text_to_image"]) == measured
    assert results["retrieval"]["n"] == 500
    assert results["train"]["samples"] == 1280
    assert results["train"]["seconds"] > 0


def test_a_run_opens_again_and_measures_the_same(trained: Path, task: Path) -> None:
    encoder = mmcl.load(trained)
    assert encoder.modalities == ("image", "text")
    results = json.loads((trained / "results.json").read_text())
    again = mmcl.evaluate(encoder, str(task))
    assert again["text_to_image/median_rank"] == results["retrieval"]["text_to_image"]["median_rank"]


def test_a_run_is_complete_without_what_it_was_made_of(trained: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    trained.rename(moved)
    try:
        recipe = Run(moved).recipe()
        assert recipe.towers["text"].model_dump()["tokenizer"]["model"].parent == moved / "assets"
        assert mmcl.load(moved).embed("text", ["greek small letter alpha"]).shape == (1, 16)
    finally:
        moved.rename(trained)


def test_the_report_stands_alone(trained: Path, task: Path) -> None:
    page = (trained / "report.html").read_text()
    assert page.count("<svg") >= 5
    assert page.count('src="data:image/png;base64,') >= 10
    assert "<script" not in page
    assert 'src="http' not in page
    assert "found" in page
    assert f"{task}, n = 500</span>" in page


def test_the_report_counts_items_that_a_task_had_to_leave_out(trained: Path, task: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    run = Run(tmp_path / "run")
    *_, last = run.metrics.read_text().splitlines()
    with run.metrics.open("a") as file:
        file.write(json.dumps(json.loads(last) | {f"{task}/skipped": 1200.0}) + "\n")
    page = write_report(run, {str(task): "title"}).read_text()
    assert f"{task}, n = 500, 1,200 skipped</span>" in page


def test_an_encoder_takes_what_people_have(trained: Path, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    encoder = mmcl.load(trained)
    array = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "x.png")
    forms = [Image.fromarray(array), array, torch.from_numpy(array).permute(2, 0, 1), tmp_path / "x.png"]
    vectors = encoder.embed("image", forms)
    assert vectors.shape == (4, 16)
    torch.testing.assert_close(vectors, vectors[:1].expand(4, -1))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))


@pytest.mark.parametrize(
    ("modality", "value", "told"),
    [
        ("audio", "x", "no tower for 'audio'; it has: image, text"),
        ("image", "nowhere.png", "nowhere.png: there is no such file"),
        ("image", 3, "an image is a path, a PIL picture.*got int"),
        ("text", 3, "a text tower cannot take int"),
    ],
)
def test_an_encoder_says_what_it_cannot_take(trained: Path, modality: str, value: object, told: str) -> None:
    with pytest.raises(MmclError, match=told):
        mmcl.load(trained).embed(modality, [value])
    with pytest.raises(MmclError, match="nothing to embed|no tower"):
        mmcl.load(trained).embed(modality, [])


def test_bad_samples_are_counted_and_listed(tmp_path: Path, tiny: Callable[..., Recipe], glyphs: object) -> None:
    samples = list(read_samples(str(glyphs.train / "00000.tar")))  # type: ignore[attr-defined]
    for sample in samples[::10]:
        sample["png"] = b"broken"
    write_shards(samples, tmp_path / "shards")
    (tmp_path / "shards" / "cut.tar").write_bytes((tmp_path / "shards" / "00000.tar").read_bytes()[:3000])
    run = mmcl.train(tiny(tmp_path / "run", f"data.train.shards={tmp_path / 'shards'}/*.tar", "training.samples=224"))
    listed = [json.loads(line) for line in (run / "bad_samples.jsonl").read_text().splitlines()]
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["bad_samples"] == len(listed) > 15
    cut = [row for row in listed if row["shard"].endswith("cut.tar") and row["modality"] == ""]
    assert len(cut) == 1
    assert "it cannot be read beyond this sample" in cut[0]["reason"]
    others = [row for row in listed if row["shard"].endswith("00000.tar")]
    assert {row["reason"] for row in others} == {"image cannot be decoded (cannot identify image file)"}
    assert {row["key"] for row in others} <= {sample["__key__"] for sample in samples[::10]}


def test_a_loss_that_is_not_finite_stops_the_run_and_names_itself(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    recipe = tiny(tmp_path / "run", "training.skip_nonfinite=0")
    trainer = Trainer(recipe, Run(tmp_path / "run"), lambda _: {})
    (tmp_path / "run").mkdir()
    with torch.no_grad():
        next(trainer.model.tower("image").parameters()).fill_(torch.nan)
    with pytest.raises(
        MmclError, match=r"step 1: the tower of image gives vectors that are not finite\. Steps in a row"
    ):
        trainer.train()


def test_too_few_processes_are_refused(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    with pytest.raises(MmclError, match=r"training.processes asks for 2, but this run has 1\..*torchrun"):
        workflow.train(tiny(tmp_path / "run", "training.processes=2"))
    assert not (tmp_path / "run").exists()


def test_a_launcher_that_was_asked_for_more_processes_is_told_on(
    tmp_path: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Parent:
        def parent(self) -> "Parent":
            return self

        def cmdline(self) -> list[str]:
            return ["python", "/bin/accelerate", "launch", "--cpu", "--num_processes", "2", "-m", "mmcl", "train"]

    monkeypatch.setattr("mmcl.distributed.psutil.Process", Parent)
    workflow.train(tiny(tmp_path / "run"))
    assert "the launcher was asked for 2 processes, but this run has 1" in capsys.readouterr().err


def test_overrides_beside_a_complete_recipe_are_refused(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    with pytest.raises(MmclError, match="this recipe is complete already"):
        mmcl.train(tiny(tmp_path / "run"), "dim=3")


def test_precisions_follow_one_another_in_a_process(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    losses = {}
    for precision in ("fp32", "bf16", "fp32"):
        run = mmcl.train(tiny(tmp_path / f"{precision}{len(losses)}", f"training.precision={precision}"))
        losses[precision] = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)
    assert losses["bf16"] != losses["fp32"]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without a GPU")
def test_fp16_on_a_cpu_is_refused(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    with pytest.raises(MmclError, match="fp16 needs a GPU"):
        mmcl.train(tiny(tmp_path / "run", "training.precision=fp16"))


def test_broken_weights_never_take_the_place_of_good_ones(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    from mmcl import checkpoints

    more = ["training.checkpoint_every_steps=1", "training.log_every_steps=8"]
    trainer = Trainer(tiny(tmp_path / "run", *more), Run(tmp_path / "run"), lambda _: {})
    (tmp_path / "run").mkdir()
    update = trainer.learner.update

    def breaking() -> torch.Tensor:
        norm = update()
        if trainer.step == 3:
            with torch.no_grad():
                trainer.model.tower("text").backbone.transformer.positional_embedding[0, 0] = torch.nan  # type: ignore[union-attr]
        return norm

    trainer.learner.update = breaking  # type: ignore[method-assign]
    with pytest.raises(MmclError, match=r"step 3: towers.text.backbone.transformer.positional_embedding is not finite"):
        trainer.train()
    checkpoint = checkpoints.latest(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.state["step"] == 2


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("evaluator: {name: retrieval, modalities: [words, image]}", "needs words, but the model has: image, text"),
        ("key: train\nevaluator: {name: retrieval, modalities: [text, image]}", "its key 'train' is taken"),
    ],
)
def test_a_task_that_cannot_be_measured_is_refused_before_training(
    tmp_path: Path, tiny: Callable[..., Recipe], glyphs: object, content: str, told: str
) -> None:
    path = tmp_path / "t.yaml"
    where = f"data: {{shards: '{glyphs.test}', modalities: {{image: png, text: txt, words: txt}}}}"  # type: ignore[attr-defined]
    path.write_text(f"title: t\n{content}\n{where}\n")
    with pytest.raises(MmclError, match=told):
        mmcl.train(tiny(tmp_path / "run", f"tasks=['{path}']"))
    assert not (tmp_path / "run").exists()
