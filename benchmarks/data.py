"""How fast samples come, beside open_clip's own training pipeline, and what that costs in memory and in pixels.

Shards are made by `pictures.py` and kept, as is open_clip's environment (`peers.py`). Ratios come from short runs of
the two sides in turns, each in a process of its own with one thread per operation: medians of the pairs, and beside
them the least and the most.

    python benchmarks/data.py [--only NAME] [--quick] [--json FILE] [--cache FOLDER]
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from figures import Figure, spread
from peers import CACHE, interpreter
from pictures import jpegs, shards, tiny_shard
from PIL import Image

from mmcl.data import Source, Stream
from mmcl.data.describe import describe
from mmcl.data.index import FORMAT, SUFFIX, load_index, scan
from mmcl.files import write_json
from mmcl.media import ImageTransform, Picture
from mmcl.media.image import SCALES, SPARE, rgb
from mmcl.media.transforms import draw_box

HERE = Path(__file__).parent
PER_SHARD, SHARDS = 10_000, 10_000  # of the described run
FAR = 99_919_872  # a position of it: the middle of its last window, in whole batches
BATCH = 256


class Bench:
    """What every figure needs.

    Args:
        cache: folder of shards and environments.
        quick: fewer runs, of fewer samples.
    """

    def __init__(self, cache: Path, quick: bool) -> None:
        self.cache, self.quick = cache, quick
        self.runs = 2 if quick else 5

    def folder(self, size: str) -> Path:
        """Shards of one size of pictures, in the page cache.

        Two workers get whole batches, so that what open_clip drops at the end of a pass costs it nothing.
        """
        place = shards(self.cache / "shards", size, 16 if size == "0.19 Mpx" else 4, 16)
        for path in place.glob("*.tar"):
            path.read_bytes()
            load_index(path)
        return place

    def run(self, side: str, folder: Path, workers: int, batches: int) -> dict[str, float]:
        """One run of `pipelines.py`."""
        python = interpreter("open_clip", self.cache) if side == "open_clip" else sys.executable
        paths = str(HERE.parent) if side != "open_clip" else ""
        done = subprocess.run(
            [python, str(HERE / "pipelines.py"), side, str(folder), str(workers), str(batches)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        return json.loads(done.stdout.splitlines()[-1])

    def pairs(self, folder: Path, workers: int, passes: int) -> Iterator[tuple[dict[str, float], dict[str, float]]]:
        """(ours, open_clip's) of some runs in turns, over whole passes of 8 batches.

        open_clip fills its shuffle buffer faster than it empties it; over a whole pass the two are even.
        """
        for _ in range(self.runs):
            yield self.run("mmcl", folder, workers, 8 * passes), self.run("open_clip", folder, workers, 8 * passes)


def throughput(bench: Bench) -> Iterator[Figure]:
    """CPU time a sample without workers, and samples a second with two."""
    for size, goal in (("0.19 Mpx", 1 / 4), ("1 Mpx", 1 / 5)):
        folder = bench.folder(size)
        bits = [len(data) for data in jpegs(folder, 512)]
        yield Figure(f"{size}: mean size of a JPEG", sum(bits) / len(bits) / 1000, "kB")
        ours, theirs, floors = [], [], []
        for mine, peer in bench.pairs(folder, 0, 1):
            ours.append(mine["cpu"])
            theirs.append(peer["cpu"])
            floors.append(bench.run("floor", folder, 0, 2)["cpu"])
        yield spread(f"{size}: CPU of mmcl", [1000 * x for x in ours], "ms/sample")
        yield spread(f"{size}: CPU of open_clip", [1000 * x for x in theirs], "ms/sample")
        yield spread(f"{size}: CPU, mmcl / open_clip", divided(ours, theirs), "", goal)
        yield spread(f"{size}: CPU of decoding and resizing alone", [1000 * x for x in floors], "ms/sample")
        yield spread(f"{size}: share of that speed that mmcl reaches", divided(floors, ours), "", 0.8, more=True)
        walls = [(mine["wall"], peer["wall"]) for mine, peer in bench.pairs(folder, 2, 2)]
        for side, name in enumerate(("mmcl", "open_clip")):
            yield spread(f"{size}: {name}, two workers", [1 / pair[side] for pair in walls], "samples/s")
        yield spread(f"{size}: speed, mmcl / open_clip", [peer / mine for mine, peer in walls], "", 3.3, more=True)


def divided(above: list[float], below: list[float]) -> list[float]:
    """Ratios of pairs."""
    return [a / b for a, b in zip(above, below, strict=True)]


def first_batch(bench: Bench) -> Iterator[Figure]:
    """Seconds from the arguments to a batch, two workers, on indexed shards; imports aside."""
    folder = bench.folder("0.19 Mpx")
    both = [(bench.run("mmcl", folder, 2, 0), bench.run("open_clip", folder, 2, 0)) for _ in range(bench.runs)]
    yield spread("first batch of mmcl", [mine["first"] for mine, _ in both], "s", 1.0)
    yield spread("first batch of open_clip", [peer["first"] for _, peer in both], "s")


def indexing(bench: Bench) -> Iterator[Figure]:
    """One pass over the headers of samples of three members."""
    shard = tiny_shard(bench.cache / "shards", 2_000 if bench.quick else PER_SHARD)
    shard.read_bytes()
    times = []
    for _ in range(bench.runs):
        start = time.process_time()
        samples = len(scan(shard))
        times.append(1000 * (time.process_time() - start) / samples)
    yield spread("indexing a shard, CPU", times, "ms/sample", 0.1)


def described_run(bench: Bench) -> tuple[Path, int]:
    """Folder of 10,000 shards of 10,000 samples with indexes and a manifest: links to one file; number of shards."""
    per_shard, count = (1_000, 1_000) if bench.quick else (PER_SHARD, SHARDS)
    folder = bench.cache / "shards" / f"described-{count}-{FORMAT}"  # links to one index, of today's format
    if not (folder / "manifest.json").exists():
        one = folder / f"{0:05d}.tar"
        folder.mkdir(parents=True, exist_ok=True)
        one.unlink(missing_ok=True)
        one.hardlink_to(tiny_shard(bench.cache / "shards", per_shard))
        index = load_index(one)
        beside = one.with_name(one.name + SUFFIX)
        for number in range(1, count):
            for path in (one, beside):
                link = path.with_name(path.name.replace(f"{0:05d}", f"{number:05d}", 1))
                link.unlink(missing_ok=True)
                link.hardlink_to(path)
        said = {"samples": per_shard, "bytes": one.stat().st_size, "digest": index.digest}
        every = [{"name": f"{number:05d}.tar", **said} for number in range(count)]
        other = bench.cache / "shards" / "described-one"  # the form of a manifest is what mmcl writes
        other.mkdir(exist_ok=True)
        (other / one.name).unlink(missing_ok=True)
        (other / one.name).hardlink_to(one)
        (other / "manifest.json").unlink(missing_ok=True)
        describe([str(other)], processes=1)
        manifest = json.loads((other / "manifest.json").read_text())
        write_json(folder / "manifest.json", {**manifest, "samples": per_shard * count, "shards": every})
    return folder, count


def stream(folder: Path, workers: int = 0, size: int = 224) -> Stream:
    """A stream of tiny pictures and their captions."""
    source = Source(shards=str(folder), modalities={"image": "jpg", "text": "txt"})
    transforms = {"image": ImageTransform(size, crop=(0.9, 1.0))}
    return Stream(source, batch_size=BATCH, workers=workers, endless=True, transforms=transforms)


def resume(bench: Bench) -> Iterator[Figure]:
    """Seconds to the next batch of a run that was stopped just before sample 100,000,000."""
    folder, count = described_run(bench)
    first = stream(folder)
    next(iter(first))
    state = first.state()
    samples = first.samples
    far = FAR if samples > FAR else samples // 2 // BATCH * BATCH
    window = 16 * samples // count
    epoch, _, _, digest = state["order"]["cursors"][0]  # every window has this digest, since shards are links to one
    cursor = [epoch, far // window * 16, far % window, digest]
    state.update(samples_seen=far, order={**state["order"], "position": far, "cursors": [cursor]})
    state = json.loads(json.dumps(state))
    constructing, resuming = [], []
    for _ in range(bench.runs):
        start = time.perf_counter()
        again = stream(folder)
        constructed = time.perf_counter()
        again.restore(state)
        batch = next(iter(again))
        resuming.append(time.perf_counter() - constructed)
        constructing.append(constructed - start)
        assert len(batch) == BATCH
        assert not batch.bad
        assert again.samples_seen == far + BATCH
    yield spread(f"resuming at sample {far:,} of {samples:,} in {count:,} shards", resuming, "s", 0.5)
    yield spread("constructing the stream before", constructing, "s")


def memory(bench: Bench) -> Iterator[Figure]:
    """Resident memory while samples go by."""
    folder, _ = described_run(bench)
    marks = (3_000, 30_000) if bench.quick else (30_000, 300_000)
    seen, sizes = 0, {}
    for batch in stream(folder, workers=2, size=32):
        assert not batch.bad
        seen += len(batch)
        sizes[seen] = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
        if seen >= marks[1]:
            break
    begin, end = (
        statistics.median(size for at, size in sizes.items() if 0.9 * mark <= at <= mark + BATCH) for mark in marks
    )
    yield Figure(f"resident memory at {marks[0]:,} samples", begin, "MB")
    yield Figure(
        f"growth from there to {marks[1]:,}", end / begin - 1, "", 0.05, said=f"most: {max(sizes.values()):.0f} MB"
    )


def pixels(bench: Bench) -> Iterator[Figure]:
    """Mean difference to Pillow's decoding, cropping and resizing, over scikit-learn's two photographs."""
    import sklearn.datasets

    found = sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg"))
    rng = np.random.default_rng(0)
    different: dict[str, list[list[float]]] = {"at a smaller scale": [], "exact": []}
    for data in [path.read_bytes() for path in found]:
        for of_photograph in different.values():
            of_photograph.append([])
        whole = rgb(Image.open(io.BytesIO(data)))
        for size in (32, 48, 64, 96, 112, 128, 160, 224):
            for area in ((0.9, 1.0), (0.3, 1.0)):
                for _ in range(3 if bench.quick else 25):
                    picture = Picture(data)
                    drawn = draw_box(picture.height, picture.width, area, rng)
                    scaled = min(drawn.height / size, drawn.width / size) >= SPARE * min(SCALES)
                    for name, exact in (("at a smaller scale", False), ("exact", True)):
                        if not (scaled or exact):  # the two are one then, and would hide the difference
                            continue
                        box = drawn if exact else picture.aligned(drawn, size, size)
                        out = torch.empty(size, size, 3, dtype=torch.uint8)
                        picture.resized(box, out, exact=exact)
                        corners = (box.left, box.top, box.left + box.width, box.top + box.height)
                        wanted = whole.crop(corners).resize((size, size), Image.Resampling.BICUBIC)
                        difference = np.abs(np.asarray(wanted, np.float32) - out.numpy())
                        different[name][-1].append(float(difference.mean()))
    for name, crops in different.items():
        means = [statistics.mean(values) for values in crops]
        said = f"{' and '.join(str(len(values)) for values in crops)} crops of {len(crops)} photographs"
        yield Figure(f"pixels, {name}: mean over photographs", statistics.mean(means), "of 255", 2.0, said=said)
        yield Figure(f"pixels, {name}: most of a photograph", max(means), "of 255", 2.0)
        yield Figure(f"pixels, {name}: most of a crop", max(map(max, crops)), "of 255")


FIGURES: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    "throughput": throughput,
    "first_batch": first_batch,
    "indexing": indexing,
    "resume": resume,
    "memory": memory,
    "pixels": pixels,
}


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=FIGURES, help="one of the figures")
    parser.add_argument("--quick", action="store_true", help="a small version, to see that it works")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of shards and environments")
    args = parser.parse_args()
    torch.set_num_threads(1)
    bench, found = Bench(args.cache.resolve(), args.quick), []
    for name in [args.only] if args.only else FIGURES:
        for figure in FIGURES[name](bench):
            found.append(figure.shown().record())
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
