"""Signals that ask a run to end: it saves its state first."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
"""What schedulers send before they kill (SLURM: ``--signal=USR1@120``), and Ctrl-C."""


class Stops:
    """Listens while it is entered; Ctrl-C ends the program at once where nothing is to be saved, and the second time.

    Only the main thread of a program may listen; in another one nothing is heard.
    """

    def __init__(self) -> None:
        self.heard = 0
        """Number of the signal that came, or 0."""
        self.training = False
        """Whether there is something to be saved."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stops":
        if threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._hear) for one in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and (self.heard or not self.training):
            raise KeyboardInterrupt
        self.heard = number


def called(number: int) -> str:
    """Name of a signal.

    >>> called(15)
    'SIGTERM'
    """
    return signal.Signals(number).name
