"""A long run: does it need more and more memory or file descriptors, or become slower?

One process on all cores trains glyphs/clip_tiny with everything that goes on beside the steps: rows, checkpoints by the
minute of which the best one stays, evaluations, an average of the towers, bad samples. Once a minute its resident
memory, file descriptors and threads are read from outside. At the end it gets SIGTERM, and must save and end with 75.

    mmcl data build glyphs --out data/glyphs
    python benchmarks/soak.py [--minutes 120] [--json FILE]

Growth is what the median of the last quarter of the readings lies above that of the second quarter; the first one, in
which caches fill, is told but not judged. Speed is that of rows without an evaluation or a checkpoint before them.
"""

import argparse
import itertools
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from figures import Figure

from mmcl import checkpoints
from mmcl.data import read_samples, write_shards

SAID = ["training.samples=1_000_000_000", "training.log_every_steps=20", "training.eval_every_steps=1_000"]
SAID += ["training.checkpoint_every_minutes=1", "training.best=glyphs/script/acc1", "tasks=[glyphs/script]"]
SAID += ["training.ema={decay: 0.999, evaluate: true}", "schedule={name: constant, warmup: 100}", "data.max_bad=1"]
EVERY = 60.0  # seconds between two readings
MB = 1_000_000


def readings(process: "subprocess.Popen[bytes]", minutes: float) -> Iterator[tuple[float, int, int]]:
    """Resident MB, file descriptors and threads, until the time is over."""
    seen, end = psutil.Process(process.pid), time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        time.sleep(min(EVERY, 60 * minutes / 40))
        if process.poll() is not None:
            raise SystemExit(f"the run ended by itself, with {process.returncode}")
        yield seen.memory_info().rss / MB, seen.num_fds(), seen.num_threads()


def growth(values: Sequence[float]) -> tuple[float, float, float]:
    """Medians of the first, the second and the last quarter."""
    quarter = max(len(values) // 4, 1)
    return tuple(statistics.median(values[i : i + quarter]) for i in (0, quarter, len(values) - quarter))  # type: ignore[return-value]


def speeds(metrics: Path) -> list[float]:
    """Samples a second of rows in which nothing but steps was done."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [row["samples_per_second"] for before, row in itertools.pairwise(rows) if "evaluated" not in before]


def soak(minutes: float, folder: Path) -> Iterator[Figure]:
    """See above."""
    samples = list(read_samples("data/glyphs/train/00000.tar"))
    for sample in samples[::50]:
        sample["png"] = b"broken"
    write_shards(samples, folder / "bad")
    run = folder / "run"
    command = [sys.executable, "-m", "mmcl", "train", "glyphs/clip_tiny", f"run={run}", *SAID]
    command += [f"data.train.shards=[data/glyphs/train, {folder / 'bad'}]"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        memory, descriptors, threads = zip(*readings(process, minutes), strict=True)
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=600)
    found = checkpoints.latest(run / "checkpoints")
    assert found is not None, (folder / "log").read_text()[-2000:]
    yield Figure("soak: minutes", minutes, "min")
    yield Figure("  samples", float(found.state["window"]["samples"]), "")
    for name, values, unit in (("memory", memory, "MB"), ("descriptors", descriptors, ""), ("threads", threads, "")):
        first, second, last = growth([float(value) for value in values])
        yield Figure(f"  {name}: first quarter", first, unit)
        yield Figure("    last quarter", last, unit)
        yield Figure("    last / second quarter", last / second, "x", 1.02 if unit else 1.0)
    fast = speeds(run / "metrics.jsonl")
    first, second, last = growth(fast)
    yield Figure("  speed: second quarter", second, "samples/s")
    yield Figure("    second / last quarter", second / last, "x", 1.05)
    yield Figure("  exit code less 75", code - 75, "", 0)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mmcl-soak-") as folder:
        found = [figure.shown().record() for figure in soak(args.minutes, Path(folder))]
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
