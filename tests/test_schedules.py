"""Schedules against their equations, open_clip's own, and the ends of their parts."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from open_clip_train import scheduler

from mmcl.errors import MmclError
from mmcl.recipe import Recipe
from mmcl.schedules import SCHEDULES

STEPS = 200


def factors(steps: int = STEPS, **said: Any) -> list[float]:
    built = SCHEDULES.check(said).build()
    return [built.factor(step, steps) for step in range(steps)]


def open_clips(kind: str, *lengths: Any, base: float = 1.0) -> list[float]:
    optimizer = SimpleNamespace(param_groups=[{}])
    adjust = getattr(scheduler, kind)(optimizer, base, *lengths)
    return [adjust(step) for step in range(STEPS)]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"name": "cosine", "warmup": 30}, ("cosine_lr", 30, STEPS)),
        ({"name": "cosine", "warmup": 0.15}, ("cosine_lr", 30, STEPS)),
        ({"name": "constant", "warmup": 30}, ("const_lr", 30, STEPS)),
        ({"name": "wsd", "warmup": 30, "cooldown": 50, "shape": "linear"}, ("const_lr_cooldown", 30, STEPS, 50)),
        (
            {"name": "wsd", "warmup": 0.15, "cooldown": 0.25, "shape": "linear", "end": 0.1},
            ("const_lr_cooldown", 30, STEPS, 50, 1.0, 0.1),
        ),
        ({"name": "linear", "warmup": 30}, ("const_lr_cooldown", 30, STEPS, STEPS - 30)),
    ],
    ids=str,
)
def test_schedules_are_open_clips(ours: dict[str, Any], theirs: tuple[Any, ...]) -> None:
    assert factors(**ours) == pytest.approx(open_clips(*theirs), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("shape", "fall"),
    [
        ("linear", lambda t: 1 - t),
        ("cosine", lambda t: 0.5 + 0.5 * math.cos(math.pi * t)),
        ("1-sqrt", lambda t: 1 - t**0.5),
    ],
)
def test_a_cooldown_falls_as_its_equation_says(shape: str, fall: Callable[[float], float]) -> None:
    found = factors(name="wsd", warmup=20, cooldown=80, shape=shape, end=0.05)
    assert found[:20] == pytest.approx([(s + 1) / 20 for s in range(20)])
    assert found[20:121] == [1.0] * 101  # the fall begins at 1
    assert found[120:] == pytest.approx([0.05 + 0.95 * fall((s - 120) / 80) for s in range(120, 200)])
    assert found[-1] == pytest.approx(0.05 + 0.95 * fall(79 / 80))
    assert all(one >= two for one, two in itertools.pairwise(found[20:]))


@pytest.mark.parametrize("name", ["cosine", "linear", "constant", "wsd"])
def test_parts_meet_without_a_jump(name: str) -> None:
    found = factors(10_000, name=name, warmup=0.1)
    assert found[999] == found[1000] == 1.0
    steepest = 0.03 if name == "wsd" else 1.1e-3  # the root is steep at first
    assert max(abs(one - two) for one, two in itertools.pairwise(found)) < steepest
    assert (found[-1] == 1.0) == (name == "constant")
    assert found[-1] < 1e-3 or name == "constant"


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_one_that_falls_from_the_warmup_on_is_wsd_without_a_level(name: str) -> None:
    assert factors(name=name, warmup=20, end=0.2) == factors(
        name="wsd", warmup=20, cooldown=STEPS - 20, shape=name, end=0.2
    )


def test_a_number_below_1_is_a_share_and_a_whole_number_a_number_of_steps() -> None:
    assert factors(name="constant", warmup=0.5)[:4] == [(s + 1) / 100 for s in range(4)]
    assert factors(name="constant", warmup=1) == [1.0] * STEPS
    assert factors(name="constant", warmup=2)[:3] == [0.5, 1.0, 1.0]
    assert factors(name="constant", warmup=0)[0] == 1.0
    part = SCHEDULES.check({"name": "wsd", "warmup": 2, "cooldown": 0.5})
    assert part.model_dump_json() == '{"name":"wsd","warmup":2,"cooldown":0.5,"shape":"1-sqrt","end":0.0}'
    for steps in range(1, 40):  # shares that are rounded up together
        assert len(factors(steps, name="wsd", warmup=0.5, cooldown=0.5)) == steps


@pytest.mark.parametrize("warmup", [1.0, 2.5, -1, "long", "true"])
def test_anything_else_is_refused(warmup: Any, tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    with pytest.raises(MmclError, match="schedule.warmup: say a share of all steps, below 1, or a whole number"):
        tiny(tmp_path, f"schedule={{name: wsd, warmup: {warmup}}}")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("{name: cosine, warmup: 8}", "schedule: a warmup of 8 steps is all of a run of 8"),
        (
            "{name: wsd, warmup: 4, cooldown: 5}",
            r"schedule: warmup \(4 steps\) and cooldown \(5\) are longer than the 8",
        ),
        (
            "{name: wsd, warmup: 0.6, cooldown: 0.7}",
            r"warmup \(5 steps\) and cooldown \(6\) are longer than the 8 steps",
        ),
    ],
)
def test_parts_that_do_not_fit_the_run_are_refused(
    said: str, message: str, tmp_path: Path, tiny: Callable[..., Recipe]
) -> None:
    with pytest.raises(MmclError, match=message):
        tiny(tmp_path, f"schedule={said}")


def test_a_level_is_the_same_in_a_longer_run() -> None:
    short, long = (factors(steps, name="wsd", warmup=20, cooldown=0.2) for steps in (STEPS, 2 * STEPS))
    assert short[:161] == long[:161]
