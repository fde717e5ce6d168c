"""What `mmcl embed` shows on standard error while it works."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from mmcl.errors import several

EVERY = 10.0  # seconds between looks at what other processes have made, and between lines
DRAWN = 0.5  # seconds between numbers on a terminal


class Progress:
    """Samples, samples/s and the time that is left; of all processes, as far as their parts are whole.

    Args:
        total: samples that are to be embedded.
        whole: how many of them lie in whole parts, whoever made them.
        show: whether anything is shown.
    """

    def __init__(self, total: int, whole: Callable[[], int], show: bool) -> None:
        self._console = Console(stderr=True, quiet=not show)
        self._total, self._look = total, whole
        self._first = self._whole = whole() if show else 0
        self._mine = self._written = 0  # samples that this process has embedded, and those of them that are whole
        self._begun = self._looked = self._drawn = time.monotonic()
        self._waits = False
        columns = (TextColumn("embedding"), BarColumn(), TextColumn("{task.fields[numbers]}"))
        self._bar = Bar(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("", total=total, completed=self._whole, numbers="")

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def add(self, samples: int) -> None:
        """Samples are embedded here."""
        self._mine += samples
        self.look()

    def written(self, samples: int) -> None:
        """A part of this process is whole."""
        self._written += samples

    def look(self) -> None:
        """See how far all are, and show it now and then."""
        now, terminal = time.monotonic(), self._console.is_terminal
        if self._console.quiet or now - self._drawn < (DRAWN if terminal else EVERY):
            return
        if now - self._looked >= EVERY:
            self._looked, self._whole = now, self._look() - self._written
        self._drawn = now
        done = min(self._whole + self._mine, self._total)
        rate = (done - self._first) / (now - self._begun)
        left = f"{(self._total - done) / rate:.0f} s" if rate else "unknown"
        numbers = f"{done:,}/{self._total:,} samples  {rate:.0f} samples/s  left {left}"
        if terminal:
            self._bar.update(self._task, completed=done, numbers=numbers)
        else:
            self.say(f"embedding {numbers}")

    def waiting(self, parts: int) -> None:
        """Other processes make the last parts."""
        if not self._waits:
            self.say(f"waiting for {several(parts, 'part')} that other processes make")
        self._waits = True
        self.look()

    def say(self, text: str) -> None:
        """A line of its own."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
