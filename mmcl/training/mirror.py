"""A copy of a run folder outside of this machine, for machines whose disks go with them."""

import contextlib
import json
import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import filelock

from mmcl import checkpoints
from mmcl.data.remote import Patience, download, names_below, read_remote, redact, remove, upload
from mmcl.errors import MmclError
from mmcl.runs import Run, came_to_nothing, holding, identity

SUMS = "checksums.json"
PATIENCE = Patience(attempts=4)  # the next checkpoint tries again
_log = logging.getLogger(__name__)


class Mirror:
    """What keeps the copy of a run up to date, in a thread of its own.

    Small files go first, then checkpoints, the newest one first, each with its checksums last: at any instant the
    newest one that has them is whole, and rows reach beyond it. What a server refuses is said and tried again with the
    next checkpoint; the run does not wait for it.

    Args:
        url: of the copy's folder.
        run: what is copied.
        patience: how long failures are borne.
    """

    def __init__(self, url: str, run: Run, patience: Patience) -> None:
        self.url, self.run, self.patience = url.rstrip("/"), run, patience
        self._sent: dict[str, tuple[int, int]] = {}  # small files, as they were
        self._there = {path: self._sums(path) for path in self._checkpoints(names_below(self.url, patience))}
        self._pool = ThreadPoolExecutor(1, "mmcl-mirror")

    def begin(self) -> None:
        """Send what describes the run, so that a server that takes nothing is found before the first step.

        Raises:
            MmclError: it does not.
        """
        identity(self.run)
        try:
            self._send_files()
        except MmclError as error:
            raise MmclError(f"training.mirror: {error}") from None

    def due(self) -> None:
        """Bring the copy up to date, soon."""
        self._pool.submit(self._update)

    def finish(self) -> None:
        """Bring the copy up to date, and wait for it."""
        self.due()
        self._pool.shutdown()

    def _update(self) -> None:
        try:
            self._send_files()
            self._send_checkpoints()
        except MmclError as error:
            _log.warning("training.mirror: %s The run goes on, and the next checkpoint tries again.", error)
        except Exception:  # a thread's would be seen by nobody
            _log.exception("training.mirror: %s is not up to date", redact(self.url))

    def _send_files(self) -> None:
        """All but the checkpoints and what is hidden, where it has changed."""
        for file in sorted(self.run.path.rglob("*")):
            name = file.relative_to(self.run.path)
            of_checkpoint = name.parts[0] == "checkpoints" and file != self.run.best
            if of_checkpoint or any(part.startswith(".") for part in name.parts) or not file.is_file():
                continue
            with contextlib.suppress(FileNotFoundError):  # it is no longer there
                stat = file.stat()
                version = stat.st_size, stat.st_mtime_ns
                if self._sent.get(str(name)) != version:
                    self._send(file, str(name))
                    self._sent[str(name)] = version

    def _send_checkpoints(self) -> None:
        """Those that are not there; what is there and not here is removed."""
        here = {f"checkpoints/{path.name}": path for path in checkpoints.listed(self.run.checkpoints)}
        for name, path in reversed(here.items()):  # the newest one matters most
            with contextlib.suppress(FileNotFoundError):  # a newer one has taken its place
                sums = (path / SUMS).read_bytes()
                if self._there.get(name) == sums:
                    continue
                self._remove(name)
                self._there[name] = None
                for part in [*sorted(json.loads(sums)), SUMS]:
                    self._send(path / part, f"{name}/{part}")
                self._there[name] = sums
        for name in [name for name in self._there if name not in here]:
            self._remove(name)
            del self._there[name]

    def _send(self, file: Path, name: str) -> None:
        try:
            upload(file, f"{self.url}/{name}", self.patience)
        except MmclError:
            if file.exists():
                raise
            raise FileNotFoundError(file) from None

    def _remove(self, name: str) -> None:
        """Remove a checkpoint from the copy, of which nothing is whole from the first removal on."""
        parts = names_below(f"{self.url}/{name}", self.patience)
        for part in sorted(parts, key=lambda part: part != SUMS):
            remove(f"{self.url}/{name}/{part}", self.patience)

    def _sums(self, name: str) -> bytes | None:
        return read_remote(f"{self.url}/{name}/{SUMS}", patience=self.patience)

    @staticmethod
    def _checkpoints(names: set[str]) -> list[str]:
        """Those of which there is anything."""
        found = (re.match(r"checkpoints/step-\d{8,}(?=/)", name) for name in names)
        return sorted({one[0] for one in found if one is not None})


@contextmanager
def mirrored(url: str, run: Run) -> Iterator[Mirror]:
    """Keep a copy while the run goes on; it is up to date at the end, however that comes.

    Raises:
        MmclError: the copy cannot be written.
    """
    mirror = Mirror(url, run, PATIENCE)
    mirror.begin()
    try:
        yield mirror
    finally:
        mirror.finish()


def fetch(url: str, run: Run, resume: bool, patience: Patience = PATIENCE) -> str | None:
    """Bring a run back from its copy, where this machine has none of it. Processes of a machine come one by one.

    Args:
        url: of the copy's folder.
        run: what is to go on.
        resume: whether it may.
        patience: how long failures are borne.

    Returns:
        What was done, if anything.

    Raises:
        MmclError: the copy is another run's, or further than what is here, or of a run that is not to be resumed; it
            cannot be read.
    """
    url = url.rstrip("/")
    names = names_below(url, patience)
    whole = sorted({name.split("/")[1] for name in names if re.fullmatch(rf"checkpoints/step-\d{{8,}}/{SUMS}", name)})
    if not whole:
        return None
    steps = sorted(map(checkpoints.step_of, map(Path, whole)))
    said = f"training.mirror: {redact(url)} holds"
    if not resume:
        raise MmclError(
            f"{said} a run already (step {steps[-1]}), and a run is never overwritten. Go on with it with --resume, or "
            "choose another place with training.mirror=URL."
        )
    run.path.mkdir(parents=True, exist_ok=True)
    begun = run.path / ".fetching"  # is there while what is here is not all that is there
    with filelock.FileLock(run.path / ".fetch.lock"):
        if not came_to_nothing(run) and not begun.exists():
            if not (run.path / "recipe.yaml").exists():
                return None  # which `check_free` refuses
            mine = [checkpoints.step_of(path) for path in checkpoints.listed(run.checkpoints)]
            if json.loads(read_remote(f"{url}/tracking.json", patience=patience) or b"{}").get("id") != identity(run):
                raise MmclError(f"{said} another run than {run.path}. Choose another place with training.mirror=URL.")
            if mine and steps[-1] > mine[-1]:
                raise MmclError(
                    f"{said} step {steps[-1]} of this run, and {run.path} only step {mine[-1]}. To go on from there, "
                    "move this folder away and resume; to go on from here, choose another place with "
                    "training.mirror=URL."
                )
            if mine:
                return None
        with holding(run, seconds=10):
            begun.touch()
            parts = [name for name in names if not name.startswith("checkpoints/") or name.split("/")[1] in whole]
            parts += [name for name in names if name == "checkpoints/best.json"]
            for name in sorted(parts, key=lambda name: name.endswith(SUMS)):
                download(f"{url}/{name}", run.path / name, patience)
            begun.unlink()
    return f"{run.path} was fetched from {redact(url)}, with checkpoints of steps {', '.join(map(str, steps))}"
