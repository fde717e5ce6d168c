"""Packages of Debian."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from mmcl.errors import MmclError


@contextmanager
def unpacked(package: str, source: Path | None) -> Iterator[Path]:
    """Folder with a package's content, for as long as it is needed.

    Args:
        package: its name.
        source: the .deb, a folder that holds it, or a folder with its content; without it, apt-get downloads it.

    Raises:
        MmclError: it cannot be fetched or unpacked.
    """
    with TemporaryDirectory() as temporary:
        if source is None:
            _run("apt-get", "download", package, package=package, folder=temporary)
        folder = Path(source or temporary).absolute()
        found = [folder] if folder.suffix == ".deb" else sorted(folder.glob(f"{package}*.deb"))
        if found:
            folder = Path(temporary) / "content"
            _run("dpkg-deb", "-x", str(found[-1]), str(folder), package=package, folder=temporary)
        yield folder


def _run(*command: str, package: str, folder: str) -> None:
    advice = (
        f"Get the package at https://packages.debian.org/{package} and pass it, or the folder that it unpacks to, "
        "as `source`."
    )
    if not shutil.which(command[0]):
        raise MmclError(f"{command[0]} is not installed here. {advice}")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MmclError(f"`{' '.join(command)}` failed: {done.stderr.strip()} {advice}")
