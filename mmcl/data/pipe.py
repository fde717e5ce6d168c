"""What can only be read from its beginning to its end: pipes, standard input, compressed tars.

There is no index, so what follows from one does not hold: a run cannot be resumed, the number of samples is known at
the end only, every process reads all of it, a window lies in memory, and the members of a sample must follow one
another.
"""

import io
import itertools
import lzma
import signal
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from tarfile import EOFHeaderError  # pyright: ignore[reportAttributeAccessIssue]
from typing import IO, Any, cast

from fsspec.compression import compr

from mmcl.data.index import NAMELESS, REPEATED, Header, Member, readable, walk
from mmcl.data.order import sample_order
from mmcl.data.pool import Cursor, OpenWindow, Pool
from mmcl.data.shards import Listed, is_stream
from mmcl.data.source import SampleWindow
from mmcl.data.store import Shard, ShardSet
from mmcl.errors import MmclError
from mmcl.types import Bad

WINDOW = 2_000  # samples, where the recipe's window counts shards
DAMAGED = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError)
BROKEN_PIPE = (-signal.SIGPIPE, 128 + signal.SIGPIPE)  # exit statuses of a command to which nobody listens
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}  # by first bytes
ADVICE = "Write it to .tar files, which can be indexed."
Piped = tuple[int, str, dict[str, bytes]]  # number of the pipe, key, extension -> content


class PipedShard(Shard):
    """Samples of a pipe, in memory."""

    def __init__(self, listed: Listed, number: int, samples: Sequence[Piped]) -> None:
        self.url, self.number, self._samples = listed.shown, number, samples

    def __len__(self) -> int:
        return len(self._samples)

    def key(self, sample: int) -> str:
        """Key of a sample."""
        return self._samples[sample][1]

    def members(self, sample: int) -> dict[str, Member]:
        """Extension -> where `read` finds it."""
        return {name: (sample, place, 0) for place, name in enumerate(self._samples[sample][2])}

    def read(self, members: Sequence[Member]) -> list[bytes]:
        """Bytes of members."""
        return [list(self._samples[sample][2].values())[place] for sample, place, _ in members]


class PipedPool(Pool):
    """Shards that are read one after the other, and shuffled within windows that lie in memory.

    Takes what `Pool` takes.
    """

    def __init__(self, shards: ShardSet, numbers: Sequence[int], *args: Any, **kwargs: Any) -> None:
        super().__init__(shards, numbers, *args, **kwargs)
        self._samples: Iterator[Piped] = iter(())
        self._peeked: list[Piped] = []
        self._problems: list[Bad] = []

    def __len__(self) -> int:
        """Nobody knows.

        Raises:
            MmclError: always.
        """
        raise MmclError(f"data: {self._shown}: how many samples a pipe has is known only at its end. {ADVICE}")

    def snapshot(self) -> list[Any]:
        """Where it is; there is nothing to tell a changed pipe by."""
        return [self.cursor.epoch, self.cursor.first, self.cursor.place, None]

    def restore(self, state: Sequence[Any]) -> None:
        """Start from the beginning.

        Raises:
            MmclError: the snapshot is from anywhere else.
        """
        if any(state[:3]):
            raise MmclError(
                f"data: {self._shown}: a pipe cannot be read from its middle, so no run on it resumes. {ADVICE}"
            )

    @property
    def _shown(self) -> str:
        return self.shards.listed[self.numbers[0]].shown

    def _open(self, at: Cursor) -> OpenWindow:
        if at.first == 0:
            self._samples, self._peeked = self._read_all(), []
        size = self.size.samples if isinstance(self.size, SampleWindow) else WINDOW
        samples = [*self._peeked, *itertools.islice(self._samples, size - len(self._peeked))]
        self._peeked = list(itertools.islice(self._samples, 1))
        listed = self.shards.listed
        groups = itertools.groupby(samples, lambda sample: sample[0])
        shards = [PipedShard(listed[n], n, list(group)) for n, group in groups]
        shards = shards or [PipedShard(listed[self.numbers[0]], self.numbers[0], [])]
        mixed = None
        if self.size is not None:
            mixed = sample_order([len(shard) for shard in shards], self.seed, at.epoch, at.first, self.name)
        problems, self._problems = self._problems, []
        return OpenWindow(at, shards, mixed, not self._peeked, problems)

    def _read_all(self) -> Iterator[Piped]:
        for number in self.numbers:
            with self._opened(number) as file:
                note = partial(self._note, number)
                for key, members in read_tar(unpacked(file, self.shards.listed[number].shown), note):
                    yield number, key, members

    @contextmanager
    def _opened(self, number: int) -> Iterator[IO[bytes]]:
        listed = self.shards.listed[number]
        if listed.url == "-":
            yield sys.stdin.buffer
        elif is_stream(listed.url):
            with _running(listed) as file:
                yield file
        else:
            with self.shards.path(number).open("rb") as file:  # a remote one is fetched whole, retried and checked
                yield file

    def _note(self, number: int, key: str, reason: str) -> None:
        self._problems.append(Bad(self.shards.listed[number].shown, key, "", f"pipe: {reason}"))


@contextmanager
def _running(listed: Listed) -> Iterator[IO[bytes]]:
    """Output of a command.

    Raises:
        MmclError: it did not end well, so that what it gave may be a part.
    """
    command = listed.url.removeprefix("pipe:")
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, bufsize=1 << 20) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        except BaseException:
            process.kill()
            raise
        stopped = bool(process.stdout.read(1))  # by us, where its tar could not be read on
    if process.returncode and not (stopped and process.returncode in BROKEN_PIPE):
        raise MmclError(
            f"data: {listed.shown}: the command ended with exit status {process.returncode}, so what it gave may be "
            "only a part. Mend it, and start again."
        )


def unpacked(file: IO[bytes], shown: str) -> io.BufferedReader:
    """A file, decompressed if need be: all members of it, as compressors that work in parallel write them.

    Raises:
        MmclError: it needs a package that is not installed.
    """
    start = io.BufferedReader(cast(Any, file)) if not isinstance(file, io.BufferedReader) else file
    packed = next((name for magic, name in PACKED.items() if start.peek(8).startswith(magic)), None)
    if packed is None:
        return start
    if packed not in compr:
        raise MmclError(f"data: {shown}: needs the package zstandard: pip install zstandard")
    return io.BufferedReader(cast(Any, compr[packed](start, mode="rb")), 1 << 20)


class _Header(Header):
    """A member of a tar that knows whether it was ended."""

    @classmethod
    def fromtarfile(cls, tarfile: "_Tar") -> "_Header":  # pyright: ignore[reportIncompatibleMethodOverride]
        """The next member."""
        try:
            return super().fromtarfile(tarfile)
        except EOFHeaderError:
            tarfile.ended = True
            raise


class _Tar(tarfile.TarFile):
    tarinfo = _Header
    ended = False


def read_tar(file: io.BufferedReader, note: Callable[[str, str], None]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Samples of a tar that is read once; members of one sample follow one another.

    Args:
        file: read to its end.
        note: is told of what cannot be read: key, reason.

    Yields:
        Key, and an extension -> content for each member.
    """
    key, members, nameless = "", dict[str, bytes](), 0
    try:
        with _Tar.open(fileobj=file, mode="r|") as tar:
            for member in walk(tar):
                named = member.named()
                if named is None:
                    nameless += member.nameless
                    continue
                name = readable(named[0])
                if name != key:
                    if members:
                        yield key, members
                    key, members = name, {}
                if problem := _take(tar, member, members, named[1]):
                    note(key, f"{named[1]}: {problem}")
            if problem := _end(tar):
                note(key, problem)
    except DAMAGED as error:
        note(key, f"it is cut or damaged; it cannot be read beyond this sample ({type(error).__name__}: {error})")
    if nameless:
        note("", NAMELESS.format(nameless))
    if members:
        yield key, members


def _end(tar: _Tar) -> str | None:
    """Read what follows the last member to its end, and say what is wrong with it, if anything is."""
    assert tar.fileobj is not None
    goes_on = any([any(chunk) for chunk in iter(partial(tar.fileobj.read, 1 << 20), b"")])  # a list: to its end
    if not tar.ended:
        return "it ends without an end mark, or is damaged; samples after this one may be missing"
    return "it goes on after the end mark of a tar; use a pipe a tar" if goes_on else None


def _take(tar: _Tar, member: Header, members: dict[str, bytes], extension: str) -> str | None:
    """Take up a member, or say why it cannot be read."""
    problem = member.problem() or (REPEATED if extension in members else None)
    if problem is None:
        content = tar.extractfile(member)
        assert content is not None, member
        members[extension] = content.read()
    return problem
