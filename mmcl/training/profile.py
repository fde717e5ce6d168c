"""Where the time of a step goes: the parts of the loop, timed while it trains."""

import os
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from mmcl import distributed, marks
from mmcl.recipe import Recipe
from mmcl.runs import Run
from mmcl.training.loop import Trainer

LOOP = "the loop"
STEP = "data"  # what a step begins with
COLLECTIVES = ("gloo:", "nccl:", "xccl:")  # how torch's profiler calls them


@dataclass(frozen=True)
class Profile:
    """Milliseconds of a step, means over steps and processes."""

    steps: int
    processes: int
    rows: int
    """Of a global batch."""
    step: float
    parts: dict[str, float]
    """They add up to the step."""
    communication: float
    """Of the traced steps: all collectives, also those that run beside the backward pass."""


class Enough(Exception):  # noqa: N818 - no error: all steps are measured
    """Ends the loop."""


class Clock:
    """Gives each part of a step the time in which it is under way and no part within it is.

    Args:
        warmup: steps that do not count.
        steps: that do.
        traced: steps after them that torch's profiler looks at, which makes them slower.
    """

    def __init__(self, warmup: int, steps: int, traced: int) -> None:
        self.warmup, self.steps, self.traced = warmup, steps, traced
        self.seconds: dict[str, float] = defaultdict(float)
        self.step = -1
        self._stack = [LOOP]
        self._spans: list[tuple[int, record_function]] = []
        self._since = time.perf_counter()
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it says when it starts, and that there is no GPU
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        self.profiler = profile(activities=activities)
        self._tracing = False

    def enter(self, name: str) -> None:
        """See `mmcl.marks.Listener`."""
        self._spend()
        if name == STEP and len(self._stack) == 1:
            self._next()
        self._stack.append(name)
        self._open(name)

    def turn(self, before: str, name: str) -> None:
        """See `mmcl.marks.Listener`."""
        if self._stack[-1] != before:
            return
        self._spend()
        self._close()
        self._stack[-1] = name
        self._open(name)

    def leave(self) -> None:
        """See `mmcl.marks.Listener`."""
        self._spend()
        self._close()
        self._stack.pop()

    def _spend(self) -> None:
        """The time since the last call belongs to the part that is under way."""
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        now = time.perf_counter()
        if self.warmup <= self.step < self.warmup + self.steps:
            self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    def _next(self) -> None:
        self.step += 1
        if self.step == self.warmup + self.steps and self.traced:
            self._tracing = True
            self.profiler.start()
        if self.step == self.warmup + self.steps + self.traced:
            if self._tracing:
                self._tracing = False
                self.profiler.stop()
            raise Enough

    def _open(self, name: str) -> None:
        if self._tracing:
            span = record_function(name)
            span.__enter__()
            self._spans.append((len(self._stack), span))

    def _close(self) -> None:
        if self._spans and self._spans[-1][0] == len(self._stack):
            self._spans.pop()[1].__exit__(None, None, None)

    def collectives(self) -> float:
        """Seconds of a traced step in which processes talk to one another."""
        if not self.traced:
            return 0.0
        spans = [e.time_range.elapsed_us() for e in self.profiler.events() or [] if e.name.startswith(COLLECTIVES)]
        return sum(spans) / 1e6 / self.traced


def profiled(recipe: Recipe, warmup: int = 5, steps: int = 20, traced: int = 3, trace: Path | None = None) -> Profile:
    """Train a few steps and see where their time goes; nothing is kept.

    The recipe's own loop runs in a folder that is removed afterwards, without measurements and checkpoints. The host
    waits for the device at every mark, so that a part has its own time.

    Args:
        recipe: what to train.
        warmup: steps that do not count.
        steps: that are timed.
        traced: steps after them, under torch's profiler: for communication and the trace.
        trace: where to write the trace, which Perfetto and chrome://tracing open.

    Raises:
        MmclError: what a run would raise.
    """
    clock = Clock(warmup, steps, traced)
    count = warmup + steps + traced
    batch = recipe.data.batch_size
    changed: dict[str, Any] = {"samples": max(recipe.training.samples, (count + 1) * batch)}
    changed |= {"eval_every_steps": None, "best": None, "trackers": []}
    changed |= {f"checkpoint_every_{unit}": None for unit in ("steps", "samples", "minutes")}
    parts = {"training": recipe.training.model_copy(update=changed)}
    parts |= {"data": recipe.data.model_copy(update={"validation": None})}
    recipe = recipe.model_copy(update=parts)
    with tempfile.TemporaryDirectory(prefix="mmcl-profile-") as folder:
        trainer = Trainer(recipe, Run(Path(folder)), lambda _: {})
        try:
            with marks.listening(clock):
                trainer.train()
        except Enough:
            pass
        if trace is not None and distributed.rank() == 0:
            clock.profiler.export_chrome_trace(str(trace))
        everyone = distributed.collect((dict(clock.seconds), clock.collectives()))
    processes = len(everyone)
    names = dict.fromkeys(name for seconds, _ in everyone for name in seconds)
    scale = 1000 / steps / processes
    mean = {name: scale * sum(seconds.get(name, 0.0) for seconds, _ in everyone) for name in names}
    communication = 1000 * sum(seconds for _, seconds in everyone) / processes
    return Profile(steps, processes, batch, sum(mean.values()), mean, communication)


GROUPS = ("data", "towers", "objective", "communication", "optimizer", "loop")
ADVICE = {
    "data": "more threads (data.workers), a faster disk, or smaller samples (mmcl data build reshard)",
    "towers": "that is as it should be; training.precision: bf16, smaller towers or inputs, or more processes",
    "objective": "a smaller batch or fewer terms; `block` of a term decides how large its tiles are",
    "communication": "larger batches of a process, fewer processes, or a faster network",
    "optimizer": "larger batches, so that it steps less often",
    "loop": "larger batches, or rows of metrics less often (training.log_every_steps)",
}
WASTE = 0.1  # of a step, from which on waiting for data is what limits


def group_of(part: str) -> str:
    """Which of `GROUPS` a part belongs to."""
    named = {"data": "data", "gather": "communication", "clip and optimizer": "optimizer", LOOP: "loop"}
    return named.get(part) or ("objective" if part.startswith("objective") else "towers")


def limit(found: Profile) -> str:
    """What limits the speed, one of `GROUPS`."""
    shares = {group: share(found, group) for group in GROUPS}
    return "data" if shares["data"] >= WASTE else max(shares, key=lambda group: shares[group])


def share(found: Profile, group: str) -> float:
    """Which part of a step one of `GROUPS` takes."""
    return sum(time for part, time in found.parts.items() if group_of(part) == group) / found.step


def in_words(found: Profile) -> str:
    """What `mmcl train --profile` prints."""
    lines = [
        f"a step: {found.step:.1f} ms, {1000 * found.rows / found.step:.0f} samples/s (mean of {found.steps} steps"
    ]
    lines[0] += f" and {found.processes} processes)" if found.processes > 1 else ")"
    for part in sorted(found.parts, key=lambda name: GROUPS.index(group_of(name))):
        lines.append(f"  {found.parts[part]:>9.1f} ms {found.parts[part] / found.step:>6.1%}  {part}")
    if found.processes > 1:
        said = "of which, some of it beside the backward pass: collectives of the processes, in the traced steps"
        lines.append(f"  {found.communication:>9.1f} ms         {said}")
    group = limit(found)
    lines.append(f"What limits: {group}, {share(found, group):.0%} of a step. To change it: {ADVICE[group]}.")
    return "\n".join(lines)
