"""A data set in the form in which it is distributed, packed once into tar shards."""

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import filelock

from mmcl.data import Tally, write_shards
from mmcl.data.index import user_cache
from mmcl.data.shards import MANIFEST
from mmcl.errors import MmclError
from mmcl.files import write_json
from mmcl.layouts.base import Layout, Row, survey
from mmcl.registry import Part

COUNTS, WHAT = "counts.json", "layout.json"
SAMPLES_PER_SHARD, BYTES_PER_SHARD = 1000, 200_000_000
_log = logging.getLogger(__name__)


def packed(layout: Part, root: str | Path | None, cache: Path | None = None) -> Path:
    """Shards of a data set, written at the first call and found again afterwards.

    They lie in a folder of the cache whose name stands for the layout, its arguments and version, and the path, size
    and time of every file that the samples are made of: where one of them changes, they are written anew. A writing
    that was interrupted goes on; processes that ask for the same at once wait for the one that writes. Samples whose
    files are lost are listed in ``bad_samples.jsonl``, and counted in ``counts.json`` (`lost`).

    Args:
        layout: the checked part, not what it builds: its arguments are what samples are made of.
        root: the folder of the data set; None where the layout reads none.
        cache: a folder for such folders; in the user's cache, unless told.

    Raises:
        MmclError: a file that the layout needs is missing or is not what it should be.
    """
    reader: Layout = layout.build()
    if root is None and reader.holds():
        raise MmclError(
            f"layout {layout.name}: say the `root` that it reads, a folder that holds {'; '.join(reader.holds())}."
        )
    root = Path(root or ".").expanduser()
    cache = user_cache() / "layouts" if cache is None else cache
    media, annotations = survey(reader, root)
    reader.check(root, media)
    paths = [*annotations, *(file.path for file in media)]
    key = _key(layout, reader, root, paths)
    folder = cache / f"{layout.name}-{key}"
    if not (folder / MANIFEST).exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MmclError(f"{cache}: no cache can be made here ({error.strerror}). Name another folder.") from None
        with filelock.FileLock(cache / f".{folder.name}.lock"):
            if not (folder / MANIFEST).exists():
                _write(layout, reader, root, folder)
    if gone := lost(folder):
        _log.warning("%s: %d samples of %s are left out (%s).", layout.name, gone, root, reader.loses)
    return folder


def lost(folder: Path) -> int:
    """How many samples of a packed data set are left out, since their files are missing or empty."""
    counts = json.loads((folder / COUNTS).read_bytes())
    return sum(count for what, count in counts.items() if what != "samples")


def _write(layout: Part, reader: Layout, root: Path, folder: Path) -> None:
    def samples() -> Iterator[Row]:
        with Tally(folder) as tally:
            yield from reader.samples(root, tally)
        write_json(folder / WHAT, {"layout": layout.model_dump(mode="json"), "root": str(root.absolute())})

    write_shards(samples(), folder, SAMPLES_PER_SHARD, BYTES_PER_SHARD)


def _key(layout: Part, reader: Layout, root: Path, paths: list[Path]) -> str:
    """A name for what the samples are made of."""
    seen = []
    for path in paths:
        name = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
        stat = path.stat() if path.is_file() else None
        seen.append([name, stat and stat.st_size, stat and stat.st_mtime_ns])
    made_of = [layout.model_dump(mode="json"), reader.version, sorted(seen, key=lambda one: one[0])]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
