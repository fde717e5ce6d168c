"""A long run: does it need more and more memory or file descriptors, or become slower?

One process on all cores trains glyphs/clip_tiny with everything that goes on beside the steps: rows, checkpoints by the
minute of which the best one stays, evaluations, an average of the towers, bad samples. Once a minute its resident
memory, file descriptors, threads and CPU seconds are read from outside. At the end it gets SIGTERM, and must save and
end with 75.

    mmcl data build glyphs --out data/glyphs
    python benchmarks/soak.py [--minutes 120] [--json FILE]

Growth is what the median of the last quarter of the readings lies above that of the second quarter; the first one, in
which caches fill, is told but not judged. Slowdown is judged by the CPU time of a sample, evaluations and checkpoints
included, since what the clock says is also the machine's other work; samples a second are told beside it.
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
from dataclasses import astuple, dataclass
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


@dataclass
class Reading:
    """What is seen of the run from outside, `seconds` after it began."""

    seconds: float
    memory: float  # resident, MB
    descriptors: float
    threads: float
    cpu: float  # seconds of all threads since the start
    samples: float  # of the last row of metrics.jsonl

    @classmethod
    def of(cls, process: psutil.Process, metrics: Path) -> "Reading":
        """Of a run that goes on."""
        with process.oneshot():
            cpu, memory = process.cpu_times(), process.memory_info().rss / MB
            seen = memory, process.num_fds(), process.num_threads(), cpu.user + cpu.system
            seconds = time.time() - process.create_time()
        rows = metrics.read_text().splitlines() if metrics.exists() else []
        return cls(seconds, *seen, json.loads(rows[-1])["samples"] if rows else 0.0)


def readings(process: "subprocess.Popen[bytes]", metrics: Path, minutes: float) -> Iterator[Reading]:
    """Until the time is over."""
    seen, end = psutil.Process(process.pid), time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        time.sleep(min(EVERY, 60 * minutes / 40))
        if process.poll() is not None:
            raise SystemExit(f"the run ended by itself, with {process.returncode}")
        reading = Reading.of(seen, metrics)
        print(*(f"{value:10.4g}" for value in astuple(reading)), file=sys.stderr, flush=True)
        yield reading


def quarters(values: Sequence[float]) -> tuple[float, float, float]:
    """Medians of the first, the second and the last quarter."""
    length = max(len(values) // 4, 1)
    first, second, last = values[:length], values[length : 2 * length], values[-length:]
    return statistics.median(first), statistics.median(second), statistics.median(last)


def told(seen: Sequence[Reading]) -> Iterator[Figure]:
    """What grew."""
    pairs = [(a, b) for a, b in itertools.pairwise(seen) if b.samples > a.samples > 0]
    series = {
        ("memory", "MB", 1.02): [one.memory for one in seen],
        ("descriptors", "", 1.0): [one.descriptors for one in seen],
        ("threads", "", 1.0): [one.threads for one in seen],
        ("CPU time", "ms/sample", 1.05): [1e3 * (b.cpu - a.cpu) / (b.samples - a.samples) for a, b in pairs],
        ("speed", "samples/s", None): [(b.samples - a.samples) / (b.seconds - a.seconds) for a, b in pairs],
    }
    for (name, unit, most), values in series.items():
        for which, value in zip(("first", "second", "last"), first_second_last := quarters(values), strict=True):
            yield Figure(f"  {name}: {which} quarter", value, unit)
        yield Figure(f"  {name}: last / second quarter", first_second_last[2] / first_second_last[1], "x", most)


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
        seen = list(readings(process, run / "metrics.jsonl", minutes))
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=600)
    found = checkpoints.latest(run / "checkpoints")
    assert found is not None, (folder / "log").read_text()[-2000:]
    yield Figure("soak: minutes", minutes, "min")
    yield Figure("  samples", seen[-1].samples, "")
    yield from told(seen)
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
