"""The exception that speaks to the person at the keyboard, the one that a sample ends in, and their words."""

import difflib
from collections.abc import Iterable


class MmclError(ValueError):
    """Something the user can mend. The text says where, what is wrong, what is allowed and what to do.

    The command line prints it without a traceback and exits with 2; anything else that escapes is a defect of mmcl.
    """


class MissingDataError(MmclError):
    """A data set is not there at all: it was never fetched or built."""


class StoppedError(Exception):
    """A signal has ended the work, whose state was saved before; the same command with ``--resume`` goes on."""


class BadSampleError(Exception):
    """One value of one sample cannot be used; its text is the reason, which is counted and listed."""


class AbsentError(BadSampleError):
    """A sample says nothing of a modality: no member, no field, or no text in it."""


def did_you_mean(said: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """End of a sentence about a name that is not known: the nearest one, if any is near.

    >>> did_you_mean("trian", ["train", "eval"])
    "; did you mean 'train'?"
    """
    near = difflib.get_close_matches(str(said), known, n=1, cutoff=cutoff)
    return f"; did you mean {near[0]!r}?" if near else "."


def several(count: int, what: str) -> str:
    """A number of things.

    >>> several(1, "part"), several(2000, "part")
    ('1 part', '2,000 parts')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"
