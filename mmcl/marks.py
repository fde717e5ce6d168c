"""Names for the parts of a step, which cost nothing unless somebody listens (`mmcl train --profile`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable


@runtime_checkable
class Listener(Protocol):
    """Who wants to know which part of a step is under way."""

    def enter(self, name: str) -> None:
        """A part begins, within the one that was under way."""
        ...

    def turn(self, before: str, name: str) -> None:
        """Where one part is under way, it ends, and in its place another one begins."""
        ...

    def leave(self) -> None:
        """The part that is under way ends, and the one around it goes on."""
        ...


_listener: Listener | None = None


@contextmanager
def part(name: str) -> Iterator[None]:
    """What is done within it, or by the function that it decorates, is this part of a step."""
    listener = _listener
    if listener is None:
        yield
        return
    listener.enter(name)
    try:
        yield
    finally:
        listener.leave()


def turn(before: str, name: str) -> None:
    """From here on one part is another one; where no ``with`` can stand, as in a backward pass."""
    if _listener is not None:
        _listener.turn(before, name)


def listened() -> bool:
    """Whether anybody listens."""
    return _listener is not None


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell a listener of all parts that begin within."""
    global _listener
    _listener = listener
    try:
        yield
    finally:
        _listener = None
