"""When checkpoints are written, which ones stay, and what is said where they cannot be."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import mmcl
from mmcl import checkpoints, distributed, workflow
from mmcl.errors import MmclError
from mmcl.model import Encoder
from mmcl.recipe import Recipe, dump_yaml
from mmcl.runs import Run, holding
from mmcl.training import Trainer
from tests.distributed_worker import run_processes
from tests.training.test_resume import rows, same

EVERY = ["training.keep_checkpoints=9"]


def steps(run: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in checkpoints.listed(run / "checkpoints")]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["training.checkpoint_every_steps=3"], [3, 6, 8]),
        (["training.checkpoint_every_samples=100"], [4, 7, 8]),  # 32 a step: 128, 224 (and 320 lies behind the end)
        (["training.checkpoint_every_minutes=1e-9"], [1, 2, 3, 4, 5, 6, 7, 8]),
        (["training.checkpoint_every_minutes=60"], [8]),
        (["training.checkpoint_every_steps=5", "training.checkpoint_every_samples=64"], [2, 4, 5, 6, 8]),
    ],
)
def test_checkpoints_come_by_steps_samples_and_minutes(
    tmp_path: Path, tiny: Callable[..., Recipe], said: list[str], expected: list[int]
) -> None:
    assert steps(workflow.train(tiny(tmp_path / "run", *EVERY, *said))) == expected


def test_rows_do_not_depend_on_checkpoints_nor_on_going_on_from_one(
    tmp_path: Path, tiny: Callable[..., Recipe]
) -> None:
    expected = workflow.train(tiny(tmp_path / "whole", "training.log_every_steps=4"))
    run = workflow.train(
        tiny(tmp_path / "run", *EVERY, "training.log_every_steps=4", "training.checkpoint_every_steps=1")
    )
    same(run, expected)
    for step in (8, 7, 6):
        checkpoint = run / "checkpoints" / f"step-{step:08d}"
        (checkpoint / "state.json").write_text("{}")  # so that it goes on from step 5, in the middle of a row
    workflow.train(str(run), resume=True)
    same(run, expected)


def measured(values: dict[int, float], trainer: list[Trainer]) -> Callable[[Encoder], dict[str, float]]:
    return lambda _: {"task/recall": values[trainer[0].step], "task/other": 0.0}


def train(recipe: Recipe, values: dict[int, float], resume: bool = False) -> dict[str, float]:
    """A run whose task gives these numbers, by step."""
    made: list[Trainer] = []
    made.append(Trainer(recipe, Run(Path(recipe.run)), measured(values, made), resume))
    Path(recipe.run).mkdir(exist_ok=True)
    return made[0].train()


def test_the_best_checkpoint_stays(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    values = {2: 0.1, 4: 0.4, 6: 0.3, 8: 0.2}
    said = ["training.eval_every_steps=2", "training.best=task/recall", "training.keep_checkpoints=1"]
    results = train(tiny(tmp_path / "run", *said), values)
    assert steps(tmp_path / "run") == [4, 8]
    assert results["train/best_step"] == 4
    assert results["train/best"] == 0.4
    best = json.loads((tmp_path / "run" / "checkpoints" / "best.json").read_text())
    assert best == {"step": 4, "metric": "task/recall", "value": 0.4}
    lower = ["training.best={metric: task/recall, lower: true}", *said[::2]]
    train(tiny(tmp_path / "lower", *lower), values)
    assert steps(tmp_path / "lower") == [2, 8]


def test_a_run_that_goes_on_knows_its_best(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    values = {2: 0.1, 4: 0.4, 6: 0.3, 8: 0.2, 10: 0.35}
    said = ["training.eval_every_steps=2", "training.best=task/recall", "training.keep_checkpoints=1"]
    train(tiny(tmp_path / "run", *said), values)
    results = train(tiny(tmp_path / "run", *said, "training.samples=320"), values, resume=True)
    assert steps(tmp_path / "run") == [4, 10]
    assert results["train/best_step"] == 4


def test_the_time_of_steps_is_without_measuring_and_checkpoints(
    tmp_path: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = checkpoints.write

    def slow(*more: Any, **named: Any) -> Path:
        time.sleep(0.3)
        return write(*more, **named)

    monkeypatch.setattr(checkpoints, "write", slow)
    said = ["training.eval_every_steps=2", "training.checkpoint_every_steps=3", "training.log_every_steps=2", *EVERY]
    recipe = tiny(tmp_path / "run", *said)
    trainer = Trainer(recipe, Run(tmp_path / "run"), lambda _: {"task/slept": time.sleep(0.3) or 1.0})
    (tmp_path / "run").mkdir()
    begun = time.monotonic()
    trainer.train()
    whole = time.monotonic() - begun
    found = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    seconds = [row["seconds"] - before for row, before in zip(found, [0, *(r["seconds"] for r in found)], strict=False)]
    assert whole > 2.1  # four evaluations and three checkpoints of 0.3 seconds
    assert sum(seconds) < whole - 2
    kept = json.loads((tmp_path / "run" / "checkpoints" / "step-00000003" / "state.json").read_text())["window"]
    assert kept["seconds"] < 0.3 + max(seconds)


def test_patience_ends_a_run_and_says_so(
    tmp_path: Path, tiny: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    values = {1: 0.1, 2: 0.4, 3: 0.3, 4: 0.2, 5: 0.5}
    said = ["training.eval_every_steps=1", "training.best={metric: task/recall, patience: 2}"]
    results = train(tiny(tmp_path / "run", *said), values)
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4]
    told = "2 evaluations in a row brought nothing better than step 2; the run ends at step 4 of 8"
    assert told in capsys.readouterr().err
    assert results["train/ended_by_patience"] is True


def test_patience_goes_on_where_it_was(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    """Also where checkpoints of the evaluations in between are gone."""
    said = ["training.eval_every_steps=1", "training.best={metric: task/recall, patience: 4}"]
    values = {step: 0.1 for step in range(9)} | {1: 0.9}
    train(tiny(tmp_path / "run", *said, "training.keep_checkpoints=1", "training.samples=96"), values)
    assert steps(tmp_path / "run") == [1, 3]
    results = train(tiny(tmp_path / "run", *said, "training.keep_checkpoints=1"), values, resume=True)
    assert results["train/ended_by_patience"] is True
    assert steps(tmp_path / "run") == [1, 5]


def test_a_best_that_is_no_longer_wanted_is_not_named(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    said = ["training.eval_every_steps=2", "training.keep_checkpoints=1"]
    train(tiny(tmp_path / "run", *said, "training.best=task/recall"), {2: 0.9, 4: 0.4, 6: 0.3, 8: 0.1})
    train(tiny(tmp_path / "run", *said, "training.samples=320"), {10: 0.1}, resume=True)
    assert steps(tmp_path / "run") == [10]
    (tmp_path / "run" / "recipe.yaml").write_text("")
    with pytest.raises(MmclError, match="the run has no best checkpoint; training.best asks for one"):
        checkpoints.chosen(tmp_path / "run" / "checkpoints" / "best")


def test_a_best_that_no_task_gives_is_refused(tmp_path: Path, tiny: Callable[..., Recipe], task: Path) -> None:
    said = ["training.eval_every_steps=8", f"tasks=[{task}]"]
    with pytest.raises(MmclError, match="the tasks give no 'task/recal'; did you mean 'task/recall'"):
        train(tiny(tmp_path / "run", said[0], "training.best=task/recal"), {8: 0.1})
    for best, told in {
        "nothing/recall": r"training.best.metric: no task of the recipe gives 'nothing/recall'",
        f"{task}/text_to_image/recall@100": r"gives '.*recall@100'; did you mean '.*/text_to_image/recall@10'\?",
        f"{task}/text_to_image/median_rank": r"the smaller is better: say \{metric: .*median_rank, lower: true\}",
        f"{{metric: {task}/text_to_image/recall@1, lower: true}}": r"the larger is better: .*lower: false\}",
    }.items():
        with pytest.raises(MmclError, match=told):
            workflow.train(tiny(tmp_path / "two", *said, f"training.best={best}"))
    assert not (tmp_path / "two").exists()
    with pytest.raises(MmclError, match=r"best: the only evaluation is that at the end; say eval_every_steps, too"):
        tiny(tmp_path / "two", "training.eval_every_steps=null", "training.best=a")


def test_the_best_is_among_what_is_still_there(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    values = {2: 0.1, 4: 0.4, 6: 0.3, 8: 0.9}
    said = ["training.eval_every_steps=2", "training.best=task/recall", *EVERY]
    train(tiny(tmp_path / "run", *said), values)
    for step in (4, 8):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step-{step:08d}")
    results = train(tiny(tmp_path / "run", *said), values | {8: 0.2}, resume=True)
    assert results["train/best_step"] == 6
    assert json.loads((tmp_path / "run" / "checkpoints" / "best.json").read_text())["step"] == 6
    results = train(tiny(tmp_path / "late", "training.eval_every_steps=2", "training.keep_checkpoints=1"), values)
    results = train(tiny(tmp_path / "late", *said, "training.samples=320"), values | {10: 0.1}, resume=True)
    assert results["train/best_step"] == 8  # the one before that is there; better ones are not
    (tmp_path / "late" / "recipe.yaml").write_text("")
    (tmp_path / "late" / "checkpoints" / "best.json").write_text('{"st')
    with pytest.raises(MmclError, match=r"best.json is damaged; say one of the checkpoints beside it"):
        checkpoints.chosen(tmp_path / "late" / "checkpoints" / "best")


def test_an_old_best_does_not_stay(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    said = ["training.eval_every_steps=2", "training.best=task/recall", "training.keep_checkpoints=1"]
    train(tiny(tmp_path / "run", *said), {2: 0.1, 4: 0.4, 6: 0.3, 8: 0.9})
    assert steps(tmp_path / "run") == [8]
    copy = tmp_path / "run" / "checkpoints" / "step-00000004.bak"
    copy.mkdir()
    train(tiny(tmp_path / "run", *said, "training.samples=320"), {10: float("nan")}, resume=True)
    assert steps(tmp_path / "run") == [8, 10]
    assert copy.exists()


def test_lost_rows_are_told_and_numbers_come_to_their_own_step(
    tmp_path: Path, tiny: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    values = dict.fromkeys((4, 8, 10), 0.5)
    said = ["training.eval_every_steps=4", "training.samples=256"]
    train(tiny(tmp_path / "run", *said), values)
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:-1])[:-30])
    train(tiny(tmp_path / "run", *said), values, resume=True)
    assert "metrics.jsonl lacks rows up to step 8, which are lost" in capsys.readouterr().err
    found = rows(tmp_path / "run")
    assert [row["step"] for row in found if "evaluated" in row] == [4, 8]
    path.unlink()
    train(tiny(tmp_path / "run", *said, "training.samples=320"), values, resume=True)
    assert [row["step"] for row in rows(tmp_path / "run")] == [8, 9, 10]


def test_a_run_without_a_whole_checkpoint_is_not_begun_anew(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    run = workflow.train(tiny(tmp_path / "run"))
    (run / "checkpoints" / "step-00000008" / "checksums.json").write_text("{}")
    with pytest.raises(MmclError, match=r"none of its checkpoints is whole \(step-00000008\). Begin anew in another"):
        workflow.train(str(run), resume=True)


def test_files_of_a_run_that_is_trained_are_not_touched_by_another(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    run = workflow.train(tiny(tmp_path / "run"))
    (run / "bad_samples.jsonl").write_text('{"step": 100, "reason": "later"}\n')
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with (
        holding(Run(run)),
        ThreadPoolExecutor() as others,
        pytest.raises(MmclError, match="is being trained by another process"),
    ):
        others.submit(workflow.train, str(run), resume=True).result()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_the_best_and_any_other_checkpoint_can_be_opened(
    tmp_path: Path, tiny: Callable[..., Recipe], task: Path
) -> None:
    said = ["training.eval_every_steps=4", f"tasks=[{task}]", "training.checkpoint_every_steps=4"]
    run = workflow.train(tiny(tmp_path / "run", *said, f"training.best={task}/text_to_image/recall@10"))
    best = json.loads((run / "checkpoints" / "best.json").read_text())["step"]
    one = mmcl.load(run / "checkpoints" / "best").embed("text", ["arrow"])
    two = mmcl.load(run / "checkpoints" / f"step-{best:08d}").embed("text", ["arrow"])
    assert (one == two).all()
    newest, first = (mmcl.load(path).embed("text", ["arrow"]) for path in (run, run / "checkpoints" / "step-00000004"))
    assert not (newest == first).all()
    with pytest.raises(MmclError, match=r"step-00000003 is not there.*step-00000004, step-00000008"):
        mmcl.load(run / "checkpoints" / "step-00000003")


def test_a_full_disk_is_told_and_the_last_checkpoint_stays(
    tmp_path: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    update = Trainer._row

    def full(self: Trainer, *more: object) -> object:
        if self.step == 5:
            (run / "metrics.jsonl").unlink()
            (run / "metrics.jsonl").symlink_to("/dev/full")
        return update(self, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_row", full)
    told = r"step 5: .* cannot be written: No space left on device. The newest checkpoint is step-00000004; free some"
    with pytest.raises(MmclError, match=told):
        workflow.train(tiny(run, "training.checkpoint_every_steps=2"))
    assert steps(run) == [2, 4]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_checkpoint_that_does_not_fit_is_told_by_all_and_the_run_goes_on_later(
    tmp_path: Path, tiny: Callable[..., Recipe], processes: int
) -> None:
    run = tmp_path / "run"
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_yaml(tiny(run, "training.checkpoint_every_steps=2").model_dump(mode="json")))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] * (processes - 1)
    command = [*(launch or [sys.executable]), "-m", "mmcl", "train"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONWARNINGS": "ignore"}

    def small() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (280_000, 280_000))  # the tokenizer has room, the weights have not

    done = subprocess.run([*command, str(path)], capture_output=True, text=True, env=environment, preexec_fn=small)
    assert done.returncode != 0
    assert "step 2: " in done.stderr
    assert "cannot be written: File too large. Free some space there, or choose another folder" in done.stderr
    assert "mmcl/training/loop.py" not in done.stderr  # no traceback of ours; torchrun has one of its own
    assert steps(run) == []
    again = subprocess.run([*command, str(run), "--resume"], capture_output=True, text=True, env=environment)
    assert again.returncode == 0, again.stderr
    assert steps(run) == [6, 8]


def resumed(pairs: list[tuple[str, str]], said: dict[str, Any]) -> list[str]:
    """What one of two processes is told, each of which has a folder of its own."""
    told = []
    for runs in pairs:
        with pytest.raises(MmclError) as error:
            workflow.train(Recipe.model_validate(said | {"run": runs[distributed.rank()]}), resume=True)
        told.append(str(error.value))
    return told


@pytest.mark.slow
def test_machines_that_do_not_share_the_folder_are_told(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    """Otherwise one would go on, and the other begin."""
    recipe = tiny(tmp_path / "run", "training.samples=128", "training.checkpoint_every_steps=2")
    run = workflow.train(recipe)
    shutil.copytree(run, tmp_path / "older")
    shutil.rmtree(tmp_path / "older" / "checkpoints" / "step-00000004")
    pairs = [(str(run), str(tmp_path / other)) for other in ("empty", "older")]
    for told in run_processes(resumed, 2, tmp_path / "processes", pairs, recipe.model_dump(mode="json")):
        for one, seen in zip(told, ("none (1)", "step-00000002 (1)"), strict=True):
            assert f"the same newest whole checkpoint there: {seen}, step-00000004 (1)" in one
