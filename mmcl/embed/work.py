"""The folder of an export while it is being made: its plan, claims of parts, and records of those that are whole.

DIR/.work/plan.json        what is being made
DIR/.work/part_0003.lock   held by who makes the part; the system takes it from a process that dies
DIR/.work/part_0003/       its files, until they are whole
DIR/.work/part_0003.json   its record: the files are whole, and in their places
DIR/manifest.json          all parts are; .work goes
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import filelock

from mmcl.embed.plan import Part, Plan
from mmcl.embed.read import WORK
from mmcl.errors import MmclError
from mmcl.files import sha256_of, sync, write_json
from mmcl.types import Bad

MANIFEST = "manifest.json"
OURS = ("*_emb/*.npy", "metadata/metadata_*.parquet", "embeddings/part_*.parquet", "quantized/*/*_emb/*.npy")
ATTEMPTS = 5
BAD_LISTED = 10_000  # in the manifest; all of them are in the metadata


@dataclass(frozen=True)
class Claim:
    """A part that this process makes, and nobody else."""

    part: Part
    name: str
    """Number of the part, as in the names of its files."""
    folder: Path
    """Where its files are made."""
    lock: filelock.BaseFileLock


class Work:
    """An export that is being made, or is finished.

    Args:
        out: its folder.
        plan: what is made.

    Raises:
        MmclError: the folder holds something else, was begun otherwise, or cannot be written.

    Attributes:
        plan: what is made, in the words in which it was begun.
    """

    def __init__(self, out: Path, plan: Plan) -> None:
        self.out, self.plan, self._work = out, plan, out / WORK
        self._claims: dict[int, Claim] = {}
        if not self._is_finished():
            self._refuse_others()
            with self._held():
                if not self._is_finished():
                    self._begin()

    def manifest(self) -> dict[str, Any] | None:
        """What an export that is finished says of itself."""
        return _json(self.out / MANIFEST)

    def missing(self, numbers: Iterable[int]) -> list[int]:
        """Those of some parts that are not whole yet."""
        if (self.out / MANIFEST).exists():
            return []
        with suppress(FileNotFoundError):
            names = set(os.listdir(self._work))
            return [number for number in numbers if self._record(number).name not in names]
        return [] if (self.out / MANIFEST).exists() else list(numbers)

    def claim(self, number: int) -> Claim | None:
        """A part for this process alone; None where another one makes it, or has made it."""
        name = self.plan.name(number)
        with told(self.out):
            lock = filelock.FileLock(self._work / f"part_{name}.lock", thread_local=False)
            try:
                lock.acquire(blocking=False)
            except filelock.Timeout:
                return None
            except FileNotFoundError:
                if (self.out / MANIFEST).exists():  # just now, by another process
                    return None
                raise
            if not self.missing([number]):
                lock.release()
                return None
            claim = Claim(self.plan.part(number), name, self._work / f"part_{name}", lock)
            self._claims[number] = claim
            shutil.rmtree(claim.folder, ignore_errors=True)  # of a process that was killed
            claim.folder.mkdir()
            return claim

    def put(self, claim: Claim, files: Mapping[str, Path], bad: Sequence[Bad]) -> None:
        """Put the files of a part into their places, and then its record.

        Args:
            claim: of the part.
            files: place in the export -> where the file was made.
            bad: what could not be used of its samples.
        """
        with told(self.out):
            made = {}
            for place, file in files.items():
                sync(file)
                made[place] = {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
            folders = {(self.out / place).parent for place in files}
            for folder in folders:
                folder.mkdir(exist_ok=True)
            for place, file in files.items():
                os.replace(file, self.out / place)
            for folder in (*folders, self.out):
                sync(folder)
            listed = [{**one._asdict(), "shard": one.shard.rpartition("/")[2]} for one in bad]
            write_json(self._record(claim.part.number), {"files": made, "bad_samples": listed})
        self.release(claim)

    def release(self, claim: Claim) -> None:
        """Let others have a part."""
        if self._claims.pop(claim.part.number, None) is not None:
            shutil.rmtree(claim.folder, ignore_errors=True)
            claim.lock.release()

    def release_all(self) -> None:
        """Let others have what this process has claimed and not made."""
        for claim in list(self._claims.values()):
            self.release(claim)

    def finish(self) -> dict[str, Any] | None:
        """The manifest, written by whoever finds all parts whole; None where some are not."""
        with self._held():
            manifest = self.manifest()
            if manifest is None:
                if self.missing(range(self.plan.count)):
                    return None
                manifest = {**self.plan.said, **self._recorded()}
                write_json(self.out / MANIFEST, manifest)
            shutil.rmtree(self._work, ignore_errors=True)
        return manifest

    def _refuse_others(self) -> None:
        """Leave a folder as it is that holds vectors which nobody here makes."""
        left = next(
            (path for pattern in OURS for path in self.out.glob(pattern)), None
        )  # before the plan is looked for
        if left is not None and _json(self._work / "plan.json") is None and self.manifest() is None:
            taken = left.relative_to(self.out)
            raise MmclError(f"{self.out} holds {taken}, which would be overwritten; write to another folder.")

    def _begin(self) -> None:
        """Write the plan, or go on with one that is there."""
        begun = _json(self._work / "plan.json")
        if begun is None:
            write_json(self._work / "plan.json", dict(self.plan.said))
            return
        self._refuse(begun, "was begun otherwise")
        self.plan = replace(self.plan, said=begun)
        for number in set(range(self.plan.count)) - set(self.missing(range(self.plan.count))):
            files = (_json(self._record(number)) or {"files": {"?": {}}})["files"]
            if any(_size(self.out / place) != file.get("bytes") for place, file in files.items()):
                self._record(number).unlink()  # somebody took its files, which are made again

    def _is_finished(self) -> bool:
        """Whether there is nothing to do, as another process may find while we begin."""
        done = self.manifest()
        if done is None:
            return False
        self._refuse(done, "holds a finished export of something else")
        self.plan = replace(self.plan, said={key: done[key] for key in self.plan.said})
        shutil.rmtree(self._work, ignore_errors=True)  # of a process that was killed after its manifest
        return True

    def _refuse(self, other: Mapping[str, Any], how: str) -> None:
        if different := self.plan.differences(other):
            raise MmclError(
                f"{self.out} {how}: {', '.join(different)}. Say it as it was said first, remove the folder, or write "
                "to another."
            )

    def _recorded(self) -> dict[str, Any]:
        """The second half of the manifest."""
        parts, listed, counts = [], list[dict[str, Any]](), Counter[str]()
        for number in range(self.plan.count):
            record = _json(self._record(number))
            assert record is not None, number
            bad = record["bad_samples"]
            counts.update(one["modality"] or "shard" for one in bad)
            listed += bad[: BAD_LISTED - len(listed)]
            samples, files = len(self.plan.part(number)), {place: f["sha256"] for place, f in record["files"].items()}
            parts.append({"number": number, "samples": samples, "bad": len(bad), "files": files})
        ordered = {modality: counts[modality] for modality in sorted(counts)}
        return {"samples": self.plan.samples, "parts": parts, "bad": ordered, "bad_samples": listed, "quantized": {}}

    def _record(self, number: int) -> Path:
        return self._work / f"part_{self.plan.name(number)}.json"

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Only one process at a time begins or ends an export."""
        with told(self.out):
            lock = self._lock(ATTEMPTS)
        with lock, told(self.out):
            yield

    def _lock(self, attempts: int) -> AbstractContextManager[Any]:
        try:
            self._work.mkdir(parents=True, exist_ok=True)
            return filelock.FileLock(self._work / "plan.lock", thread_local=False).acquire()
        except FileNotFoundError:  # another process has ended the export, and removed the folder, in between
            if attempts == 1:
                raise
            return self._lock(attempts - 1)


@contextmanager
def told(out: Path) -> Iterator[None]:
    """What the system refuses, in words."""
    try:
        yield
    except (OSError, NotImplementedError) as error:  # the latter of a file system without locks
        reason = getattr(error, "strerror", None) or error
        raise MmclError(
            f"{out} cannot be written: {reason}. Mend that, or write to another folder; the same command goes on with "
            "the parts that are whole."
        ) from error


def _json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        raise MmclError(f"{path} is damaged; remove its folder, or write to another.") from None


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None
