"""One line of a benchmark's table, and the command line of what is measured beside a peer."""

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
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


def main(
    about: str | None,
    only: Iterable[str],
    quick: str,
    figures: Callable[[argparse.Namespace], Iterator[Figure]],
    cache: Path,
) -> None:
    """The command line of a script that measures mmcl and a peer in turns.

    Args:
        about: what the script says of itself.
        only: names of which one can be asked for.
        quick: what ``--quick`` does.
        figures: all of them, of ``only``, ``quick``, ``pairs`` and ``cache``.
        cache: folder of environments and data, unless told.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(only), help="one of them")
    parser.add_argument("--quick", action="store_true", help=f"{quick}, to see that it works")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--cache", type=Path, default=cache, help="where environments and data are")
    args = parser.parse_args()
    found = [figure.shown().record() for figure in figures(args)]
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
