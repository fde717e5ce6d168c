"""What can only be read from its beginning to its end: pipes, standard input, compressed tars. webdataset reads them.

There is no index, so what follows from one does not hold: a run cannot be resumed, the number of samples is known at
the end only, every process reads all of it, and a window lies in memory.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import fsspec
from webdataset.gopen import gopen
from webdataset.tariterators import group_by_keys, tar_file_expander

from mmcl.data.order import sample_order
from mmcl.data.pool import Cursor, OpenWindow, Pool
from mmcl.data.remote import is_remote
from mmcl.data.source import SampleWindow
from mmcl.data.store import Shard, ShardSet
from mmcl.errors import MmclError
from mmcl.types import Bad

WINDOW = 2_000  # samples, where the recipe's window counts shards


class PipedShard(Shard):
    """Samples of a pipe, in memory."""

    def __init__(self, number: int, samples: list[dict[str, Any]]) -> None:
        self.url, self.number, self._samples = samples[0]["__url__"] if samples else "", number, samples

    def __len__(self) -> int:
        return len(self._samples)

    def key(self, sample: int) -> str:
        """Key of a sample."""
        return self._samples[sample]["__key__"]

    def members(self, sample: int) -> dict[str, tuple[int, int]]:
        """Extension -> where `read` finds it."""
        names = [name for name in self._samples[sample] if not name.startswith("__")]
        return {name: (sample, place) for place, name in enumerate(names)}

    def read(self, members: Sequence[tuple[int, int]]) -> list[bytes]:
        """Bytes of members."""
        return [list(self._samples[sample].values())[place + 2] for sample, place in members]  # after key and url


class PipedPool(Pool):
    """Shards that are read one after the other, and shuffled within windows that lie in memory.

    Takes what `Pool` takes.
    """

    def __init__(self, shards: ShardSet, numbers: Sequence[int], *args: Any, **kwargs: Any) -> None:
        super().__init__(shards, numbers, *args, **kwargs)
        self._samples: Iterator[dict[str, Any]] = iter(())
        self._peeked: list[dict[str, Any]] = []
        self._problems: list[Bad] = []

    def __len__(self) -> int:
        """Nobody knows.

        Raises:
            MmclError: always.
        """
        raise MmclError(f"data: {self._name}: how many samples a pipe has is known only at its end. {ADVICE}")

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
                f"data: {self._name}: a pipe cannot be read from its middle, so no run on it resumes. {ADVICE}"
            )

    @property
    def _name(self) -> str:
        return self.shards.listed[self.numbers[0]].url

    def _open(self, at: Cursor) -> OpenWindow:
        if at.first == 0:
            self._samples, self._peeked = self._read_all(), []
        size = self.size.samples if isinstance(self.size, SampleWindow) else WINDOW
        samples = [*self._peeked, *itertools.islice(self._samples, size - len(self._peeked))]
        self._peeked = list(itertools.islice(self._samples, 1))
        mixed = None if self.size is None else sample_order([len(samples)], self.seed, at.epoch, at.first, self.name)
        problems, self._problems = self._problems, []
        return OpenWindow(at, [PipedShard(self.numbers[0], samples)], mixed, not self._peeked, problems)

    def _read_all(self) -> Iterator[dict[str, Any]]:
        urls = [self.shards.listed[number].url for number in self.numbers]
        files = tar_file_expander(self._opened(urls), handler=self._note)
        return group_by_keys(files, handler=self._note)

    def _opened(self, urls: Sequence[str]) -> Iterator[dict[str, Any]]:
        for url in urls:
            try:
                stream = fsspec.filesystem(url.partition("://")[0]).open(url) if is_remote(url) else gopen(url)
            except Exception as error:
                raise MmclError(f"data: {url} cannot be opened: {type(error).__name__}: {error}") from None
            yield {"url": url, "stream": stream}
            if any(stream.read(1 << 20)):
                self._problems.append(
                    Bad(url, "", "", "pipe: it goes on after the end mark of a tar; use a pipe a tar")
                )

    def _note(self, error: Exception) -> bool:
        """A shard that ends in the middle, or a second member of a name."""
        self._problems.append(
            Bad(self._name, "", "", f"pipe: {type(error).__name__}: {error.args[0] if error.args else error}")
        )
        return True


ADVICE = "Write it to .tar files, which can be indexed."
