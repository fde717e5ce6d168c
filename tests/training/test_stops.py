"""A signal ends a run once its state is saved; nothing differs when it goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmcl import checkpoints, cli, workflow
from mmcl.errors import StoppedError
from mmcl.recipe import Recipe, dump_yaml
from mmcl.stops import SIGNALS, Stops
from mmcl.training.learner import Learner, Outcome
from tests.training.test_resume import rows, same

LENGTH = ["training.log_every_steps=3", "towers.image.patch_dropout=0.25"]


def signal_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """Send a signal to this process in the middle of a step."""
    update = Learner.update

    def signalled(self: Learner) -> Outcome:
        if self.step == step - 1:
            os.kill(os.getpid(), number)
        return update(self)

    monkeypatch.setattr(Learner, "update", signalled)


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_saves_and_stops_and_nothing_differs_afterwards(
    tmp_path: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    whole = workflow.train(tiny(tmp_path / "whole", *LENGTH))
    handlers = [signal.getsignal(one) for one in SIGNALS]
    run = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        signal_at(patch, 4, number)
        with pytest.raises(StoppedError, match=rf"{signal.Signals(number).name}: stopped after step 5 of 8.*--resume"):
            workflow.train(tiny(run, *LENGTH))
    assert [signal.getsignal(one) for one in SIGNALS] == handlers
    found = checkpoints.latest(run / "checkpoints")
    assert found is not None
    assert found.state["step"] == 5  # in the middle of a row
    assert [row["step"] for row in rows(run)] == [3]
    workflow.train(str(run), resume=True)
    same(run, whole)


def test_a_signal_that_comes_early_is_heard_at_the_first_step(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    with Stops() as stops:
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(StoppedError, match="SIGUSR1: stopped after step 1 of 8"):
            workflow.train(tiny(tmp_path / "run"), stops=stops)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_second_ctrl_c_ends_at_once(
    tmp_path: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Learner.update

    def signalled(self: Learner) -> Outcome:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return update(self)

    monkeypatch.setattr(Learner, "update", signalled)
    with pytest.raises(KeyboardInterrupt):
        workflow.train(tiny(tmp_path / "run"))
    assert checkpoints.latest(tmp_path / "run" / "checkpoints") is None


def test_a_signal_at_the_last_step_changes_nothing(
    tmp_path: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    signal_at(monkeypatch, 8, signal.SIGTERM)
    assert (workflow.train(tiny(tmp_path / "run")) / "results.json").exists()


def test_the_command_ends_with_a_code_of_its_own(
    tmp_path: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_yaml(tiny(tmp_path / "run").model_dump(mode="json")))
    signal_at(monkeypatch, 2, signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", str(path)])
    assert stopped.value.code == 75
    assert "mmcl: SIGTERM: stopped after step 3 of 8, which is saved. Go on with: mmcl train" in capsys.readouterr().err


def children(pid: int) -> Iterator[int]:
    for other in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((other / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            yield int(other.name)


@dataclass
class Two:
    """A run of two processes that torchrun has launched, and its command."""

    run: Path
    launch: list[str]
    environment: dict[str, str]
    process: subprocess.Popen[str]

    def finish(self, *arguments: str) -> None:
        """Run a command of mmcl on two processes to its end."""
        subprocess.run([*self.launch, *arguments], check=True, capture_output=True, env=self.environment)

    def ended(self) -> str:
        """What it said, once it has failed."""
        _, told = self.process.communicate(timeout=120)
        assert self.process.returncode != 0
        return told


@pytest.fixture
def two(tmp_path: Path, tiny: Callable[..., Recipe]) -> Iterator[Two]:
    """A long run on two processes, which has begun."""
    path, run = tmp_path / "recipe.yaml", tmp_path / "run"
    length = [*LENGTH, "training.samples=3200", "training.checkpoint_every_steps=20"]
    path.write_text(dump_yaml(tiny(run, *length).model_dump(mode="json")))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mmcl"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen([*launch, "train", str(path)], stderr=subprocess.PIPE, env=environment, text=True)
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "step-00000020").exists():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield Two(run, launch, environment, process)
    process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["launcher", "one process"])
def test_of_two_processes_both_stop(two: Two, tmp_path: Path, whom: str) -> None:
    os.kill(two.process.pid if whom == "launcher" else min(children(two.process.pid)), signal.SIGTERM)
    assert "SIGTERM: stopped after step" in two.ended()
    found = checkpoints.latest(two.run / "checkpoints")
    assert found is not None
    assert 20 < found.state["step"] < 100
    two.finish("train", str(two.run), "--resume")
    two.finish("train", str(tmp_path / "recipe.yaml"), f"run={tmp_path / 'whole'}")
    same(two.run, tmp_path / "whole")


@pytest.mark.slow
def test_a_process_that_dies_is_told_by_the_others(two: Two) -> None:
    os.kill(max(children(two.process.pid)), signal.SIGKILL)
    told = two.ended()
    assert "another process of this run is gone, so that this one cannot go on" in told
    assert "The newest checkpoint is step-000000" in told
    assert "mmcl/training/loop.py" not in told  # no traceback of ours; torchrun has one of its own
    two.finish("train", str(two.run), "--resume")
    assert rows(two.run)[-1]["step"] == 100
