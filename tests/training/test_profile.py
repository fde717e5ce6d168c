"""Where the time of a step goes is told right: what is slowed down shows in its part, and the parts are the step."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmcl import cli, marks
from mmcl.data import Stream
from mmcl.losses import Objective
from mmcl.recipe import Recipe, dump_yaml
from mmcl.towers.base import Tower
from mmcl.training import profile
from mmcl.training.learner import Learner
from mmcl.training.profile import Clock, Profile, in_words, limit, profiled
from tests.distributed_worker import run_processes

NAP = 1.0  # a second of a clock that only goes on in naps
FEW = {"warmup": 1, "steps": 3, "traced": 0}


class Naps:
    """A clock that stands still but where something sleeps."""

    now = 0.0

    @classmethod
    def perf_counter(cls) -> float:
        return cls.now

    @classmethod
    def sleep(cls) -> None:
        cls.now += NAP


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "time", Naps)


class _Slow(torch.autograd.Function):
    """Nothing, but its backward pass takes its time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        Naps.sleep()
        return gradient


def slowed(where: str, patch: pytest.MonkeyPatch) -> None:
    """Let one part of a step take its time."""
    tower, objective, batches, step = Tower.forward, Objective.forward, Stream.__iter__, torch.optim.AdamW.step

    def slow_tower(self: Tower, rows: Tensor) -> Tensor:
        if self.takes == "text":
            Naps.sleep()
        return tower(self, rows)

    def slow_tower_backward(self: Tower, rows: Tensor) -> Tensor:
        return tower(self, rows) if self.takes == "image" else _Slow.apply(tower(self, rows))  # type: ignore[no-any-return]

    def slow_objective(self: Objective, *rows: Any, **more: Any) -> Any:
        Naps.sleep()
        return objective(self, *rows, **more)

    def slow_objective_backward(self: Objective, *rows: Any, **more: Any) -> Any:
        out = objective(self, *rows, **more)
        object.__setattr__(out, "total", _Slow.apply(out.total))
        return out

    def slow_batches(self: Stream) -> Iterator[Any]:
        for batch in batches(self):
            Naps.sleep()
            yield batch

    def slow_step(self: Any, *rest: Any, **more: Any) -> Any:
        Naps.sleep()
        return step(self, *rest, **more)

    places: dict[str, tuple[Any, str, Any]] = {
        "forward: text": (Tower, "forward", slow_tower),
        "towers: backward": (Tower, "forward", slow_tower_backward),
        "objective: forward": (Objective, "forward", slow_objective),
        "objective: backward": (Objective, "forward", slow_objective_backward),
        "data": (Stream, "__iter__", slow_batches),
        "clip and optimizer": (torch.optim.AdamW, "step", slow_step),
    }
    patch.setattr(*places[where])


LIMITS = {
    "data": "data",
    "forward: text": "towers",
    "objective: forward": "objective",
    "objective: backward": "objective",
    "towers: backward": "towers",
    "clip and optimizer": "optimizer",
}
PARTS = tuple(LIMITS)


@pytest.mark.usefixtures("naps")
@pytest.mark.parametrize("where", PARTS)
def test_what_is_slow_shows_in_its_part(
    where: str, tmp_path: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    slowed(where, monkeypatch)
    found = profiled(tiny(tmp_path / "run", "data.workers=0"), **FEW)
    assert {name: value for name, value in found.parts.items() if value} == pytest.approx({where: 1000 * NAP})
    assert found.step == pytest.approx(1000 * NAP)
    assert not (tmp_path / "run").exists()
    assert limit(found) == LIMITS[where]
    if where == "data":
        assert "What limits: data, 100% of a step. To change it: more threads (data.workers)" in in_words(found)


def test_the_parts_are_the_step(tmp_path: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    begins: list[float] = []
    turned = Clock._next

    def noted(self: Clock) -> None:
        begins.append(self._since)
        turned(self)

    monkeypatch.setattr(Clock, "_next", noted)
    found = profiled(tiny(tmp_path / "run"), **FEW)
    assert found.step == pytest.approx(sum(found.parts.values()))
    assert found.step == pytest.approx(1000 * (begins[4] - begins[1]) / 3)
    assert set(found.parts) == {*PARTS, "forward: image", "the loop"}


@pytest.mark.usefixtures("naps")
def test_with_chunks_both_passes_forward_are_counted(
    tmp_path: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    slowed("forward: text", monkeypatch)
    found = profiled(tiny(tmp_path / "run", "training.chunk=16"), **FEW)
    assert found.parts["forward: text"] == pytest.approx(1000 * NAP * 4)  # two chunks, twice


def test_gradients_are_the_same_whether_anybody_listens(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    from mmcl.training.loop import make_stream

    recipe = tiny(tmp_path / "run")
    weights = []
    for listens in (False, True):
        learner = Learner(recipe)
        batches = iter(make_stream(recipe, learner.model))
        for _ in range(2):
            if listens:
                with marks.listening(Clock(0, 9, 0)):
                    learner.backward(next(batches), look=True)
            else:
                learner.backward(next(batches), look=True)
            learner.update()
        weights.append(torch.cat([p.detach().flatten() for p in learner.model.parameters()]))
    assert torch.equal(*weights)


def test_the_command_prints_the_parts_and_writes_a_trace(
    tmp_path: Path, tiny: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    path, trace = tmp_path / "recipe.yaml", tmp_path / "trace.json"
    path.write_text(tiny(tmp_path / "run").to_yaml())
    cli.main(["train", str(path), "--profile", "--trace", str(trace)])
    out = capsys.readouterr().out
    assert "What limits: " in out
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"forward: image", "objective: forward", "towers: backward", "clip and optimizer"} <= names
    assert not (tmp_path / "run").exists()


def _profiled(path: str) -> Profile:
    from mmcl.recipe import load_recipe

    return profiled(load_recipe(path), warmup=1, steps=2, traced=1)


@pytest.mark.slow
def test_two_processes_have_means_and_see_their_collectives(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_yaml(tiny(tmp_path / "run").model_dump(mode="json")))
    one, other = run_processes(_profiled, 2, tmp_path / "meet", str(path))
    assert one == other
    assert one.processes == 2
    assert one.parts["gather"] > 0
    assert one.communication > 0
    assert one.step == pytest.approx(sum(one.parts.values()))
    assert "collectives of the processes" in in_words(one)
