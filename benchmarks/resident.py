"""The most memory that was resident in this process, in MB, from some instant on."""

from pathlib import Path


def begin() -> float:
    """Have the peak begin anew, and say what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _megabytes("VmRSS")


def above(before: float) -> float:
    """By how much the peak since `begin` exceeds what was resident then."""
    return _megabytes("VmHWM") - before


def _megabytes(name: str) -> float:
    """A line of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024
