"""One line of a benchmark's table."""

import statistics
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Figure:
    """One line of the table."""

    figure: str
    value: float
    unit: str
    goal: float | None = None
    more: bool = False  # whether the goal is the least, not the most
    said: str = ""

    @property
    def holds(self) -> bool | None:
        """None where there is no goal."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.more else self.value <= self.goal

    def shown(self) -> "Figure":
        """The same, once it is printed."""
        sign = ">=" if self.more else "<="
        goal = "" if self.goal is None else f"[{sign} {self.goal:g}: {'yes' if self.holds else 'NO'}]"
        print(f"{self.figure:58} {self.value:9.4g} {self.unit:10} {goal:15} {self.said}", flush=True)
        return self

    def record(self) -> dict[str, Any]:
        """For --json."""
        fields = {name: asdict(self)[name] for name in ("figure", "value", "unit", "goal")}
        return {**fields, "holds": self.holds}


def spread(name: str, values: list[float], unit: str, goal: float | None = None, more: bool = False) -> Figure:
    """The median of some runs."""
    said = f"{min(values):.3g} to {max(values):.3g} in {len(values)}"
    return Figure(name, statistics.median(values), unit, goal, more, said)
