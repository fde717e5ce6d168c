"""Two trainers over the same shards: how many samples a second, data included.

Ours is `mmcl train` as a user calls it; the other one is open_clip's own (`open_clip_train.main`), unchanged, in the
environment of `peers.py`. Towers are open_clip's on both sides, of one configuration (`open_clip_image`,
`open_clip_text`), both train in fp32 with AdamW, clipped gradients and crops of 0.9 to 1.0, without measuring or
checkpoints. A process that waits reads what each of them logs, line by line, and takes the time of each: one clock, and
nothing is left out between two steps.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from figures import Figure, spread
from peers import CACHE, interpreter
from pictures import shards

HERE = Path(__file__).parent
WORKERS = 2  # threads or processes that read and decode
RATE = {"lr": 1e-3, "weight_decay": 0.2, "betas": [0.9, 0.98], "eps": 1e-6}
CLIP_NORM, CROP = 1.0, (0.9, 1.0)  # the crop is open_clip's default
PEER = (
    "import sys, open_clip; open_clip.add_model_config(sys.argv[1]);"
    "from open_clip_train.main import main; main(sys.argv[2:])"
)
OURS = re.compile(r"^step +(?P<step>\d+)/")
THEIRS = re.compile(
    r"Train Epoch: 0 \[ *(?P<samples>\d+)/.*Data \(t\): (?P<data>[\d.]+) Batch \(t\): (?P<batch>[\d.]+)"
)


@dataclass(frozen=True)
class Case:
    """One model, and how long it is trained."""

    title: str
    config: dict[str, Any]  # as open_clip has it
    batch: int
    threads: int
    every: int  # steps to a line of the log
    lines: int  # that are timed, after the first one
    pairs: int  # of runs
    goal: float

    @property
    def steps(self) -> int:
        """Of a run; open_clip also logs its first step."""
        return self.every * (self.lines + 1) + 1


def towers(embed: int, vision: dict[str, int], text: dict[str, int]) -> dict[str, Any]:
    """A configuration of open_clip."""
    shared = {"image_size": 224, "patch_size": 32}
    return {"embed_dim": embed, "vision_cfg": {**shared, **vision}, "text_cfg": {"vocab_size": 49408, **text}}


SMALL = towers(
    64,
    {"layers": 2, "width": 64, "head_width": 32},
    {"context_length": 32, "layers": 2, "width": 64, "heads": 2},
)
VIT_B_32 = towers(
    512,
    {"layers": 12, "width": 768},
    {"context_length": 77, "layers": 12, "width": 512, "heads": 8},
)
CASES = (
    Case(
        "small towers", SMALL, batch=128, threads=1, every=16, lines=3, pairs=5, goal=1.5
    ),  # a line is a pass of 2,048
    Case("ViT-B/32", VIT_B_32, batch=16, threads=1, every=2, lines=2, pairs=3, goal=1.0),
)


def recipe(case: Case, data: Path, config: Path, run: Path) -> dict[str, Any]:
    """What `mmcl train` reads (JSON is YAML)."""
    named = {"model": str(config), "weights": {"from": "random"}}
    return {
        "run": str(run),
        "dim": case.config["embed_dim"],
        "towers": {
            "image": {"name": "open_clip_image", "crop": list(CROP), **named},
            "text": {"name": "open_clip_text", **named},
        },
        "objective": [{"score": "cosine", "contrast": "softmax", "temperature": {"init": 0.07, "learn": True}}],
        "data": {
            "train": {"shards": str(data), "modalities": {"image": "jpg", "text": "txt"}},
            "batch_size": case.batch,
            "workers": WORKERS,
        },
        "optimizer": {"name": "adamw", **RATE},
        "schedule": {"name": "cosine", "warmup": 0.1},
        "training": {
            "samples": case.steps * case.batch,
            "clip_norm": CLIP_NORM,
            "log_every_steps": case.every,
        },
    }


def arguments(case: Case, data: Path, config: Path, logs: Path) -> list[str]:
    """What open_clip's trainer is told."""
    names = sorted(path.stem for path in data.glob("*.tar"))
    said = {
        "model": config.stem,
        "train-data": f"{data}/{{{names[0]}..{names[-1]}}}.tar",
        "train-num-samples": case.steps * case.batch,
        "dataset-type": "webdataset",
        "batch-size": case.batch,
        "workers": WORKERS,
        "precision": "fp32",
        "epochs": 1,
        "lr": RATE["lr"],
        "wd": RATE["weight_decay"],
        "beta1": RATE["betas"][0],
        "beta2": RATE["betas"][1],
        "eps": RATE["eps"],
        "warmup": round(0.1 * case.steps),
        "grad-clip-norm": CLIP_NORM,
        "log-every-n-steps": case.every,
        "logs": logs,
        "name": "run",
    }
    return [word for name, value in said.items() for word in (f"--{name}", str(value))]


@dataclass(frozen=True)
class Seen:
    """One run."""

    rate: float  # samples a second, from the first line that counts to the last
    cpu: float  # seconds a sample of user and system time, of all its processes
    waiting: float | None  # open_clip's own: share of a step in which it waits for data


def run(side: str, case: Case, data: Path, cache: Path = CACHE) -> Seen:
    """Train until the last line that is timed, and no further (both would write a checkpoint then)."""
    with tempfile.TemporaryDirectory(prefix="mmcl-") as name:
        folder = Path(name)
        config = folder / "configs" / "benched.json"
        config.parent.mkdir()
        config.write_text(json.dumps(case.config))
        if side == "mmcl":
            path = folder / "recipe.yaml"
            path.write_text(json.dumps(recipe(case, data, config, folder / "run")))
            command = [sys.executable, "-m", "mmcl", "train", str(path)]
        else:
            told = arguments(case, data, config, folder / "logs")
            command = [str(interpreter("open_clip", cache)), "-c", PEER, str(config.parent), *told]
        environment = {**os.environ, "OMP_NUM_THREADS": str(case.threads), "CUDA_VISIBLE_DEVICES": ""}
        if side == "mmcl":
            environment |= {"PYTHONPATH": str(HERE.parent), "ACCELERATE_USE_CPU": "true"}
        with subprocess.Popen(
            command,
            env=environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                return timed(case, process)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # it was started as the leader of a group of its own


def timed(case: Case, process: subprocess.Popen[str]) -> Seen:
    """What the lines of a run's log say, and when they came.

    Raises:
        RuntimeError: it ended before.
    """
    lines: list[tuple[float, float, int]] = []  # when, CPU time and samples so far
    waits: list[float] = []
    said: list[str] = []
    assert process.stderr is not None
    for line in process.stderr:
        now = time.perf_counter()
        if ours := OURS.search(line):
            lines.append((now, cpu(process.pid), int(ours["step"]) * case.batch))
        elif theirs := THEIRS.search(line):
            samples = int(theirs["samples"])
            if samples > case.batch:  # the first step, which ours does not log
                lines.append((now, cpu(process.pid), samples))
                waits.append(float(theirs["data"]) / float(theirs["batch"]))
        else:
            said.append(line)
        if len(lines) == case.lines + 1:
            (start, cpu_then, first), (end, cpu_now, last) = lines[0], lines[-1]
            assert last - first == case.lines * case.every * case.batch, lines
            waiting = sum(waits[1:]) / case.lines if waits else None
            return Seen((last - first) / (end - start), (cpu_now - cpu_then) / (last - first), waiting)
    raise RuntimeError(f"it ended with {process.wait()} after {len(lines)} lines: {''.join(said[-30:])}")


def cpu(pid: int) -> float:
    """User and system seconds of a process and of those that it started."""
    leader = psutil.Process(pid)
    times = [process.cpu_times() for process in (leader, *leader.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def speed(quick: bool, cases: Sequence[Case] = CASES, cache: Path = CACHE) -> Iterator[Figure]:
    """Samples a second of both sides, which run in turns."""
    data = shards(cache / "shards", "0.19 Mpx", 16, 16)
    for path in data.glob("*.tar"):
        path.read_bytes()  # into the page cache
    for case in cases:
        times = range(1 if quick else case.pairs)
        pairs = [(run("mmcl", case, data, cache), run("open_clip", case, data, cache)) for _ in times]
        name = f"{case.title}, batch {case.batch}"
        yield spread(f"{name}: mmcl", [ours.rate for ours, _ in pairs], "samples/s")
        yield spread(f"{name}: open_clip", [theirs.rate for _, theirs in pairs], "samples/s")
        yield spread("  share of its steps in which open_clip waits for data", [t.waiting or 0 for _, t in pairs], "")
        yield spread("  CPU of mmcl", [1000 * ours.cpu for ours, _ in pairs], "ms/sample")
        yield spread("  CPU of open_clip", [1000 * theirs.cpu for _, theirs in pairs], "ms/sample")
        yield spread("  CPU, mmcl / open_clip", [ours.cpu / theirs.cpu for ours, theirs in pairs], "")
        ratios = [ours.rate / theirs.rate for ours, theirs in pairs]
        yield spread(f"{name}: speed, mmcl / open_clip", ratios, "", case.goal, more=True)
