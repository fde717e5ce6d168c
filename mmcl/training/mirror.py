"""A copy of a run folder outside of this machine, for machines whose disks go with them."""

import contextlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import filelock

from mmcl import checkpoints
from mmcl.data.remote import Patience, download, names_below, read_remote, redact, remove, upload
from mmcl.errors import MmclError
from mmcl.files import replacing_folder
from mmcl.runs import Run, came_to_nothing, holding, identity

BEST, WHO = "checkpoints/best.json", "tracking.json"
FILE = re.compile(r"(?!.*/\.)([^/.][^/]*|(assets|tensorboard|wandb)/.+|checkpoints/best\.json)")
OF_CHECKPOINT = re.compile(r"checkpoints/(step-\d{8,})/.+")
"""These and those are names of a run's files; what else lies below its URL is somebody else's."""
PATIENCE = Patience(attempts=4)  # the next checkpoint tries again
_log = logging.getLogger(__name__)


class Mirror:
    """What keeps the copy of a run up to date, in a thread of its own.

    Small files go first, then the checkpoints that were there before them, the newest one first, each with its
    checksums last: at any instant the newest one that has them is whole, and rows reach up to it. What a server refuses
    is said and tried again with the next checkpoint; the run does not wait for it.

    Args:
        url: of the copy's folder.
        run: what is copied; its folder is there.
        patience: how long failures are borne.

    Raises:
        MmclError: the copy is not this run's, or cannot be written.
    """

    def __init__(self, url: str, run: Run, patience: Patience) -> None:
        self.url, self.run, self.patience = url.rstrip("/"), run, patience
        names = _names(self.url, patience)
        _check_owner(self.url, names, identity(run), patience)
        self._files: dict[str, object] = {BEST: None} if BEST in names else {}
        """What is there besides checkpoints, and how it was here when it was sent; the rest is sent once more."""
        self._there = {f"checkpoints/{step}": self._sums(step) for step in _steps(names)}
        """Checksums of the checkpoints that are there, whole or not."""
        self._pending = False
        self._failed = ""
        self._send_files()  # a server that takes nothing is found before the first step
        self._pool = ThreadPoolExecutor(1, "mmcl-mirror")

    def due(self) -> None:
        """Bring the copy up to date, soon."""
        if not self._pending:  # or the one that waits does it
            self._pending = True
            self._future = self._pool.submit(self._update)

    def finish(self) -> None:
        """Bring the copy up to date, wait for it, and say so where it is not."""
        self.due()
        if wait([self._future], timeout=5).not_done:
            _log.warning("training.mirror: waiting until %s is up to date", redact(self.url))
        self._pool.shutdown()
        if self._failed:
            _log.warning(
                "training.mirror: %s is NOT up to date at the end of the run: %s Keep %s, and go on with --resume.",
                *(redact(self.url), self._failed, self.run.path),
            )

    def _update(self) -> None:
        self._pending, self._failed = False, ""
        try:
            here = checkpoints.listed(self.run.checkpoints)  # before their rows are sent
            self._send_files()
            self._send_checkpoints({f"checkpoints/{path.name}": path for path in here})
        except MmclError as error:
            self._failed = str(error)
            _log.warning("training.mirror: %s The next checkpoint tries again.", error)
        except Exception as error:  # a thread's would be seen by nobody
            self._failed = f"{type(error).__name__}: {error}."
            _log.exception("training.mirror: %s is not up to date", redact(self.url))

    def _send_files(self) -> None:
        """All but the checkpoints and what is hidden, where it has changed."""
        files = {str(file.relative_to(self.run.path)): file for file in sorted(self.run.path.rglob("*"))}
        here = {name: file for name, file in files.items() if FILE.fullmatch(name) and file.is_file()}
        for name, file in here.items():
            with contextlib.suppress(FileNotFoundError):  # it is no longer there
                stat = file.stat()
                version = stat.st_size, stat.st_mtime_ns
                if self._files.get(name) != version:
                    self._send(file, name)
                    self._files[name] = version
        for name in [name for name in self._files if name not in here]:
            remove(f"{self.url}/{name}", self.patience)
            del self._files[name]

    def _send_checkpoints(self, here: dict[str, Path]) -> None:
        """Those that are not there; what is there and not here is removed."""
        for name, path in reversed(here.items()):  # the newest one matters most
            with contextlib.suppress(FileNotFoundError):  # a newer one has taken its place
                sums = (path / checkpoints.SUMS).read_bytes()
                if self._there.get(name) == sums:
                    continue
                self._remove(name)
                self._there[name] = None
                for part in [*sorted(json.loads(sums)), checkpoints.SUMS]:
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
        for part in sorted(parts, key=lambda part: part != checkpoints.SUMS):
            remove(f"{self.url}/{name}/{part}", self.patience)

    def _sums(self, step: str) -> bytes | None:
        return read_remote(f"{self.url}/checkpoints/{step}/{checkpoints.SUMS}", patience=self.patience)


@contextmanager
def mirrored(url: str, run: Run) -> Iterator[Mirror]:
    """Keep a copy while the run goes on; it is up to date at the end, however that comes.

    Raises:
        MmclError: the copy is not this run's, or cannot be written.
    """
    try:
        mirror = Mirror(url, run, PATIENCE)
    except MmclError as error:
        raise MmclError(f"training.mirror: {error}") from None
    try:
        yield mirror
    finally:
        mirror.finish()


def fetch(
    url: str, run: Run, check: Callable[[Run], object], resume: bool, patience: Patience = PATIENCE
) -> str | None:
    """Bring a run back from its copy, where this machine has none of it. Processes of a machine come one by one.

    Args:
        url: of the copy's folder.
        run: what is to go on; its folder is afterwards whole, or as it was.
        check: refuses a run that was fetched and is not to go on, before it is put in place.
        resume: whether a run may go on.
        patience: how long failures are borne.

    Returns:
        What was done, if anything.

    Raises:
        MmclError: the copy is another run's, or further than what is here, or of a run that is not to be resumed; it
            cannot be read.
    """
    url = url.rstrip("/")
    names = _names(url, patience)
    whole = [step for step in _steps(names) if f"checkpoints/{step}/{checkpoints.SUMS}" in names]
    newest = checkpoints.step_of(Path(whole[-1])) if whole else 0
    said = f"training.mirror: {redact(url)} holds"
    if WHO not in names:
        return None  # nothing, or what `Mirror` refuses
    if not resume:
        raise MmclError(
            f"{said} a run already (step {newest}), and a run is never overwritten. Go on with it with --resume, or "
            "choose another place with training.mirror=URL."
        )
    run.path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(run.path.with_name(f".{run.path.name}.fetch.lock")):
        if not came_to_nothing(run):
            if (run.path / "recipe.yaml").exists():
                _check_owner(url, names, identity(run), patience)
                _check_behind(run, newest, said)
            return None
        nobody_else = holding(run, seconds=10) if run.path.exists() else contextlib.nullcontext()
        with nobody_else, replacing_folder(run.path) as fetched:
            for name in names:
                step = OF_CHECKPOINT.fullmatch(name)
                if step is None or step[1] in whole:
                    download(f"{url}/{name}", fetched / name, patience)
            try:
                check(Run(fetched))
            except MmclError as error:
                why = str(error).replace(str(fetched), str(run.path))
                raise MmclError(f"{said} a run that is not to go on so: {why}") from None
    return f"{run.path} was fetched from {redact(url)}, step {newest}"


def _check_owner(url: str, names: list[str], who: str, patience: Patience) -> None:
    """Refuse a copy that is not of a run.

    Args:
        url: of the copy's folder.
        names: of files that are there.
        who: the run's identity.
        patience: how long failures are borne.

    Raises:
        MmclError: it is another run's, or nobody knows whose.
    """
    if not names:
        return
    try:
        there = json.loads(read_remote(f"{url}/{WHO}", patience=patience) or b"{}")["id"]
    except (ValueError, KeyError, TypeError):
        there = None
    if there != who:
        what = "another run" if there else "files that are no copy of a run"
        raise MmclError(
            f"{redact(url)} holds {what}, which would be mixed with this one. Choose another place with "
            "training.mirror=URL."
        )


def _check_behind(run: Run, step: int, said: str) -> None:
    mine = [checkpoints.step_of(path) for path in checkpoints.listed(run.checkpoints)]
    if step > (mine[-1] if mine else 0):
        raise MmclError(
            f"{said} step {step} of this run, and {run.path} only {f'step {mine[-1]}' if mine else 'rows'}. To go on "
            "from there, move this folder away and resume; to go on from here, choose another place with "
            "training.mirror=URL."
        )


def _names(url: str, patience: Patience) -> list[str]:
    """Those of a run below a URL, and anything else that lies there itself."""
    return sorted(name for name in names_below(url, patience) if FILE.fullmatch(name) or OF_CHECKPOINT.fullmatch(name))


def _steps(names: list[str]) -> list[str]:
    """Checkpoints of which there is anything, oldest first."""
    found = {match[1] for name in names if (match := OF_CHECKPOINT.fullmatch(name))}
    return sorted(found, key=lambda name: checkpoints.step_of(Path(name)))
