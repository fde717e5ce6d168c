"""The index that `mmcl search` chooses, beside comparing all vectors: recall@10, latency, time and memory to build.

The export is made: 512 dimensions, fp16, parts of 10,000 rows, in clip-retrieval's layout. There are 2,000 centres of
length 1 in a subspace of 64 dimensions; each image is one of them and noise of expected length 1 (`--noise`) in another
subspace of 64 dimensions (so rank 128), brought to length 1. Texts lie apart, as those of trained models do: 0.6 of
their image, 0.6 of a direction that all texts share, and noise of expected length 0.5 in all 512 dimensions. Everything
is seeded.

Queries are 500 images and 500 texts of the same generator that are not in the export, and did not choose how wide the
index is searched. Recall is the share of the 10 nearest of exact search (float32, all vectors compared). Latency is of
one query in one call, after ten others; the two indexes take turns. Memory is what is not backed by files (RssAnon),
sampled every 20 ms while the index is built.

    python benchmarks/search.py [--samples 1000000] [--noise 1] [--folder DIR] [--quick] [--json FILE]
"""

import argparse
import contextlib
import json
import os
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from figures import Figure

from mmcl.embed import Vectors
from mmcl.embed.recall import Held, nearest, stated, unit_rows
from mmcl.search.build import build
from mmcl.search.index import Index, open_index
from mmcl.search.plan import Plan

DIM, RANK, CENTRES, PART = 512, 64, 2000, 10_000
TEXT_NOISE, SHARED = 0.5, 0.6
QUERIES, K = 500, 10


def made(count: int, noise_length: float, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Images and texts of the generator, some at a time."""
    fixed = np.random.default_rng(0)
    basis = np.linalg.qr(fixed.standard_normal((DIM, 2 * RANK)))[0].T.astype(np.float32)
    centres = unit_rows(fixed.standard_normal((CENTRES, RANK)))
    shared = unit_rows(fixed.standard_normal((1, DIM)))
    rng = np.random.default_rng(seed)
    for start in range(0, count, PART):
        rows = min(PART, count - start)
        noise = rng.standard_normal((rows, RANK), dtype=np.float32) * (noise_length / RANK**0.5)
        images = unit_rows(np.concatenate([centres[rng.integers(CENTRES, size=rows)], noise], 1) @ basis)
        noise = rng.standard_normal((rows, DIM), dtype=np.float32) * (TEXT_NOISE / DIM**0.5)
        yield {"img": images, "text": unit_rows(SHARED * images + SHARED * shared + noise)}


def write(folder: Path, count: int, noise: float) -> None:
    """An export of the generator."""
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    for number, part in enumerate(made(count, noise, seed=1)):
        for name, rows in part.items():
            np.save(folder / f"{name}_emb" / f"{name}_emb_{number:04d}.npy", rows.astype(np.float16))
        keys = [f"{number:04d}{row:05d}" for row in range(len(part["img"]))]
        pq.write_table(pa.table({"key": keys}), folder / "metadata" / f"metadata_{number:04d}.parquet")


def anonymous() -> float:
    """Memory of this process that is not backed by files, in GB."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1e6


@contextlib.contextmanager
def watched() -> Iterator[Callable[[], float]]:
    """The most memory that was taken, above what it was before, in GB."""
    before, seen, ended = anonymous(), [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            seen.append(anonymous() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: max(seen)
    finally:
        ended.set()
        thread.join()


def recall(index: Index, vectors: Vectors, queries: np.ndarray, of: str, allowed: np.ndarray | None = None) -> Figure:
    """Recall@10 of searches as a user makes them, one query at a time."""
    scores, _ = nearest(vectors, "image", queries, K, allowed)
    asked = Held(of, np.full(len(queries), -1), queries, scores[:, -1], K)
    found = [index.search(query, K + 1, allowed) for query in queries]  # the last one is not looked at
    shares = asked.shares((np.stack([s for s, _ in found]), np.stack([r for _, r in found])), vectors, "image")
    said = stated(shares)
    note = "" if allowed is None else f", {allowed.mean():.0%} of samples allowed"
    goal = 0.95 if allowed is None else None
    interval = f"{said['low']:.4f} to {said['high']:.4f}, {said['n']} queries"
    return Figure(f"  recall@10, {of} queries{note}", said["recall"], "", goal, True, interval)


def latencies(sides: dict[str, Callable[[np.ndarray], object]], queries: np.ndarray) -> dict[str, list[float]]:
    """Milliseconds of each query on each side, in turns."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number, query in enumerate(queries):
        for name, search in sides.items():
            began = time.perf_counter()
            search(query)
            if number >= 10:
                found[name].append(1000 * (time.perf_counter() - began))
    return found


def compared(vectors: Vectors, index: Index, fresh: dict[str, np.ndarray]) -> Iterator[Figure]:
    """Latency of the index beside that of a flat one."""
    made_flat, said = build(vectors, "image", Plan("flat", len(index), DIM), print)
    flat = Index(vectors, "image", made_flat, {**index.about, "kind": "flat", **said})
    sides = {"flat": partial(flat.search, k=K), "chosen": partial(index.search, k=K)}
    for of, name in (("image", "img"), ("text", "text")):
        both = latencies(sides, fresh[name][:110])
        for side, one in both.items():
            yield Figure(
                f"  latency of {side}, {of} queries",
                statistics.median(one),
                "ms",
                said=f"{np.quantile(one, 0.95):.3g} at 95 %",
            )
        ratio = statistics.median(both["flat"]) / statistics.median(both["chosen"])
        yield Figure(f"  flat / chosen, {of} queries", ratio, "x")


def figures(folder: Path, count: int, noise: float) -> Iterator[Figure]:
    """All of them, at one size."""
    vectors = Vectors(folder)
    yield Figure("load of the machine before", os.getloadavg()[0], "")
    with watched() as most:
        began, computed = time.perf_counter(), time.process_time()
        index = open_index(vectors, "image", lambda told: print(f"  {told}"))
        seconds = time.perf_counter() - began
        yield Figure(f"{count:,} x {DIM}: {index.about['kind']}; to build, measure, store", seconds, "s")
        yield Figure("  length of the noise", noise, "")
        yield Figure("  width that is searched", index.about["width"], "")
        yield Figure("  the same, CPU time of all threads", time.process_time() - computed, "s")
        yield Figure("  of it to build", index.about["build_seconds"], "s", 600)
        yield Figure("  memory while it is built", most(), "GB")
    yield Figure("  its file", index.about.get("bytes", (folder / ".index" / "image.faiss").stat().st_size) / 1e9, "GB")
    began = time.perf_counter()
    index = open_index(vectors, "image")
    yield Figure("  to open it again", time.perf_counter() - began, "s")
    fresh = next(made(QUERIES, noise, seed=2))
    for of, name in (("image", "img"), ("text", "text")):
        yield recall(index, vectors, fresh[name], of)
    yield from compared(vectors, index, fresh)
    for share in (0.3, 0.03):
        allowed = np.random.default_rng(3).random(count) < share
        yield recall(index, vectors, fresh["text"][:200], "text", allowed)
        search = partial(index.search, k=K, allowed=allowed)
        one = latencies({"chosen": search}, fresh["text"][:60])["chosen"]
        yield Figure(f"  latency, {share:.0%} of samples allowed", statistics.median(one), "ms")
    yield Figure("load of the machine at the end", os.getloadavg()[0], "")


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--noise", type=float, default=1.0, help="its length, that of a centre being 1")
    parser.add_argument("--folder", type=Path, help="where the exports are made, and kept; a temporary one unless told")
    parser.add_argument("--quick", action="store_true", help="60,000 samples, to see that it works")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        for count in [60_000] if args.quick else args.samples:
            folder = (args.folder or Path(temporary)) / f"{count}-{args.noise:g}"
            if not folder.exists():
                write(folder, count, args.noise)
            found += [figure.shown().record() for figure in figures(folder, count, args.noise)]
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
