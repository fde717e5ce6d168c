"""What a run shows: a progress line on a terminal, plain lines elsewhere, every number in metrics.jsonl."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mmcl.files import replacing

Row = dict[str, int | float]


class Metrics:
    """metrics.jsonl: rows are appended, and cut back to a step when a run goes on from there."""

    def __init__(self, path: Path, resume_step: int) -> None:
        cut_back(path, resume_step)
        self.path = path

    def write(self, row: Row) -> None:
        """One row."""
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def extend(self, row: Row) -> None:
        """Add numbers of an evaluation to the row of its step, which says that it was evaluated."""
        lines = self.path.read_text().splitlines()
        last = lines.pop() if lines and _step(lines[-1]) == row["step"] else "{}"
        _rewrite(self.path, [*lines, json.dumps({**json.loads(last), **row, "evaluated": True})])

    def rows(self) -> list[Row]:
        """All of them so far."""
        return [json.loads(line) for line in self.path.read_text().splitlines()]


def cut_back(path: Path, step: int) -> list[str]:
    """Leave the rows of a file up to a step; those that are left."""
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if _step(line) <= step]
    _rewrite(path, kept)
    return kept


def _rewrite(path: Path, lines: list[str]) -> None:
    with replacing(path) as file:
        file.writelines(f"{line}\n".encode() for line in lines)


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # the last line of a run that was killed while writing it
        return float("inf")


class ProgressLine:
    """Steps, loss, samples/s and the time that is left, on standard error."""

    def __init__(self, steps: int, done: int, show: bool) -> None:
        console = Console(stderr=True, quiet=not show)
        self.steps = steps
        self.plain = not console.is_terminal
        self.console = console
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=self.plain,
        )
        self._task = self._bar.add_task("training", total=steps, completed=done, numbers="")

    def __enter__(self) -> "ProgressLine":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def advance(self, step: int) -> None:
        """A step is done."""
        if not self.plain:
            self._bar.update(self._task, completed=step)

    def row(self, row: Row) -> None:
        """Numbers of a logged step."""
        loss = f"{row['loss']:.4f}" if "loss" in row else "not finite"
        numbers = f"loss {loss}  {row['samples_per_second']:.0f} samples/s"
        if self.plain:
            left = (self.steps - row["step"]) * row["seconds_per_step"]
            step = f"step {row['step']:>{len(str(self.steps))}}/{self.steps}"
            self.say(f"{step}  {numbers}  lr {row['lr']:.2e}  left {left:.0f} s")
        else:
            self._bar.update(self._task, numbers=numbers)

    def say(self, text: Any) -> None:
        """A line of its own."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
