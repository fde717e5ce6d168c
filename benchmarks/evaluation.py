"""Scoring and ranking beside clip-benchmark 1.6.2, of the same ready vectors, with the same numbers.

retrieval: 5,000 images and 25,000 captions (COCO's size), both directions, recall at 1, 5 and 10. clip-benchmark's
`zeroshot_retrieval.evaluate` beside mmcl's `Retrieval.measure`, which also gives median rank, mrr, map@10, ndcg@10 and
examples.
zeroshot: 1,000 classes of 80 templates and 50,000 images (ImageNet's size). `zeroshot_classification.evaluate` beside
`ZeroShot.measure`, which also gives macro F1, the calibration error, the table of confusions and examples.

Vectors are of 512 dimensions, of which those that belong together are nearer. Towers are stand-ins of equal cost
(`scorers.py`): a row of a table for each text. Each side runs in a process and an environment of its own (`peers.py`);
the two take turns, ratios are medians of the pairs. Times are around the one call, imports and reading aside. Both see
the same threads: as many as torch takes, and, told apart, one. Every number that both have must be the same to 1e-6, or
the script ends with 1.

    python benchmarks/evaluation.py [--only NAME] [--quick] [--pairs N] [--json FILE] [--cache DIR]
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from figures import Figure, main, spread
from peers import CACHE, interpreter
from scorers import write_case

HERE = Path(__file__).parent
DIM, CAPTIONS, TEMPLATES = 512, 5, 80
EQUAL = 1e-6
PEAK = 300  # MB
Record = dict[str, Any]


def unit(*shape: int, seed: int) -> torch.Tensor:
    """Random directions."""
    return F.normalize(torch.randn(*shape, DIM, generator=torch.Generator().manual_seed(seed)), dim=-1)


def retrieval(folder: Path, quick: bool) -> Path:
    """Images, and five captions near each."""
    count = 500 if quick else 5000
    images = unit(count, seed=0)
    owner = torch.arange(count).repeat_interleave(CAPTIONS)
    texts = F.normalize(0.17 * images[owner] + unit(len(owner), seed=1), dim=-1)
    said = {"task": "retrieval", "at": [1, 5, 10]}
    return write_case(folder / "retrieval", said, {"images": images, "texts": texts, "owner": owner})


def zeroshot(folder: Path, quick: bool) -> Path:
    """Prompts around the direction of each class, not yet of length 1, and images that lean towards one."""
    classes, count = (100, 5000) if quick else (1000, 50_000)
    centres, labels = unit(classes, seed=0), torch.arange(count) % classes
    texts = 3 * (0.5 * centres.repeat_interleave(TEMPLATES, 0) + unit(classes * TEMPLATES, seed=1))
    images = F.normalize(0.18 * centres[labels] + unit(count, seed=2), dim=-1)
    said = {"task": "zeroshot", "templates": TEMPLATES}
    return write_case(folder / "zeroshot", said, {"images": images, "texts": texts, "labels": labels})


def measured(python: Path | str, side: str, case: Path, threads: int | None, *more: str) -> Record:
    """One run of one side."""
    command = [str(python), str(HERE / "scorers.py"), side, str(case), *more]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    environment["PYTHONPATH"] = str(HERE.parent)
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout)[0]


def same(ours: Record, theirs: Record) -> None:
    """See that both have the same numbers."""
    for name, value in theirs["metrics"].items():
        found = ours["metrics"][name]
        if not math.isclose(found, value, rel_tol=0, abs_tol=EQUAL):
            sys.exit(f"{name}: mmcl {found}, clip-benchmark {value}")


def compared(
    title: str, case: Path, peer: Path, pairs: int, threads: int | None, goal: float | None
) -> Iterator[Figure]:
    """Both sides in turns."""
    runs = []
    for _ in range(pairs):
        theirs, ours = measured(peer, "clip_benchmark", case, threads), measured(sys.executable, "mmcl", case, threads)
        same(ours, theirs)
        runs.append((theirs, ours))
    yield spread(f"{title}: clip-benchmark / mmcl", [a["seconds"] / b["seconds"] for a, b in runs], "x", goal, True)
    yield spread("  the same, CPU time of all threads", [a["cpu"] / b["cpu"] for a, b in runs], "x")
    for side, name in ((0, "clip-benchmark"), (1, "mmcl")):
        yield spread(f"  {name}", [run[side]["seconds"] for run in runs], "s")
    yield spread("  clip-benchmark, memory above the vectors", [a["peak"] for a, _ in runs], "MB")
    limit = PEAK if goal is not None and "retrieval" in title else None
    yield spread("  mmcl, memory above the vectors", [b["peak"] for _, b in runs], "MB", limit)
    one = measured(sys.executable, "mmcl", case, threads, "--intervals")
    yield Figure("  mmcl with 95 % intervals (1,000 resamples)", one["seconds"], "s")
    yield Figure("  clip-benchmark / that", sorted(a["seconds"] for a, _ in runs)[pairs // 2] / one["seconds"], "x")
    said = {name: round(value, 4) for name, value in runs[0][0]["metrics"].items()}
    print(f"  the same numbers: {said}", flush=True)


CASES = {"retrieval": (retrieval, 15.0), "zeroshot": (zeroshot, 2.0)}


def figures(args: argparse.Namespace) -> Iterator[Figure]:
    """All of them."""
    peer = interpreter("clip_benchmark", args.cache)
    with tempfile.TemporaryDirectory() as folder:
        for name in [args.only] if args.only else CASES:
            make, goal = CASES[name]
            case = make(Path(folder), args.quick)
            yield Figure(f"load of the machine before {name}", os.getloadavg()[0], "")
            yield from compared(name, case, peer, args.pairs, None, None if args.quick else goal)
            yield from compared(f"{name}, one thread", case, peer, args.pairs, 1, None)
    yield Figure("load of the machine at the end", os.getloadavg()[0], "")


if __name__ == "__main__":
    main(__doc__, CASES, "a tenth of everything", figures, CACHE)
