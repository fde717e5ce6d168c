"""kill -9 at random instants: does the sequence of samples go on as if nothing had happened?

A trial draws shards (local, without indexes, remote, a mixture; some samples are bad), what becomes of the last batch
of an epoch, and one to three kills. Each of its lives has a number of processes and of workers of its own, and goes on
from the last checkpoint that the life before had written. All processes of a life are killed, one after the other, at
instants drawn from its whole duration: while shards are opened, indexed, downloaded, decoded, or the state is written.

Goal: keys, what was drawn, what was decoded and what was bad, of all batches one after the other, are those of a run in
one process that nobody killed. Every time.

    python benchmarks/kills.py [--trials 200] [--seed 0] [--json FILE]
"""

import argparse
import functools
import http.server
import io
import json
import multiprocessing
import shutil
import signal
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmcl.data import SampleWindow, Source, Stream, write_shards
from mmcl.data.remote import ShardCache
from mmcl.files import write_json
from mmcl.media import ImageTransform

SAMPLES, PER_SHARD, BATCH = 600, 24, 24
STEPS = 60  # of an endless stream: a little over two epochs
EVERY = 3  # steps to a checkpoint
SECONDS = 60  # that a life may take at most
LAST = ("carry", "drop", "pad", "keep")
KINDS = ("local", "without indexes", "remote", "remote, undescribed", "mixture")


@dataclass(frozen=True)
class Plan:
    """What all lives of a trial have in common."""

    kind: str
    last_batch: Any
    seed: int
    place: Path  # of local shards
    url: str  # of the same shards on a server
    cache: Path

    def stream(self, rank: int, world: int, workers: int) -> Stream:
        """This rank's part."""
        fields = {"image": "jpg", "text": "json:captions"}
        remote = self.kind.startswith("remote")
        place = f"{self.url}/{self.place.name}" if remote else str(self.place)
        if self.kind == "remote, undescribed":
            place += f"/{{00000..{SAMPLES // PER_SHARD - 1:05d}}}.tar"
        window = SampleWindow(samples=90) if self.seed % 2 else 4
        sources = [Source(shards=place, modalities=fields, identity="json:who", window=window)]
        if self.kind == "mixture":
            other = Source(shards=str(self.place.with_name("other")), modalities=fields, window=2, weight=1.0)
            sources = [sources[0].model_copy(update={"weight": 2.5}), other]
        return Stream(
            sources,
            batch_size=BATCH,
            seed=self.seed,
            workers=workers,
            endless=True,
            last_batch=self.last_batch,
            transforms={"image": ImageTransform(16, crop=(0.3, 1.0))},
            share=(rank, world),
            cache=lambda: ShardCache(self.cache, 800_000, backoff=0.05, timeout=10.0),
        )


@dataclass(frozen=True)
class Life:
    """One set of processes."""

    world: int
    workers: int


def rows(batch: Any) -> list[Any]:
    """All that can be told of a batch's rows."""
    pixels = [zlib.crc32(row.contiguous().numpy().tobytes()) for row in batch["image"]]
    columns = (batch.keys, batch.ids.tolist(), pixels, batch["text"], batch.present["image"].tolist())
    return [list(row) for row in zip(*columns, strict=True)]


def live(plan: Plan, folder: Path, number: int, rank: int, life: Life, together: Barrier) -> None:
    """One process of one life: log every batch, and, on rank 0, write the state now and then."""
    torch.set_num_threads(1)
    stream = plan.stream(rank, life.world, life.workers)
    state = folder / "state.json"
    step = 0
    if state.exists():
        saved = json.loads(state.read_text())
        step = saved["step"]
        stream.restore(saved["stream"])
    if step == STEPS:  # the life before was killed when all was done
        return
    with (folder / f"{number}-{rank}.jsonl").open("wb", buffering=0) as log:
        for batch in stream:
            step += 1
            bad = [bad._replace(shard=bad.shard.rpartition("/")[2]) for bad in batch.bad]
            line = {"step": step, "size": batch.size, "rows": rows(batch), "bad": bad}
            log.write(f"{json.dumps(line)}\n".encode())
            together.wait()  # as the collectives of a training step do
            if step % EVERY == 0 or step == STEPS:
                if rank == 0:
                    write_json(state, {"step": step, "stream": stream.state()})
                together.wait()
            if step == STEPS:
                return


def run_life(plan: Plan, folder: Path, number: int, life: Life, killed: Sequence[float] | None) -> float:
    """Run a life to its end, or kill each of its processes so many seconds after it began.

    Returns:
        Seconds that it took.
    """
    context = multiprocessing.get_context("forkserver")
    together = context.Barrier(life.world)
    arguments = [(plan, folder, number, rank, life, together) for rank in range(life.world)]
    processes: list[BaseProcess] = [context.Process(target=live, args=each) for each in arguments]
    begun = time.monotonic()
    for process in processes:
        process.start()
    if killed is None:
        for process in processes:
            process.join(max(begun + SECONDS - time.monotonic(), 0))
        codes = [process.exitcode for process in processes]
        for process in processes:
            process.kill()
        assert codes == [0] * life.world, f"a life that nobody killed ended in {codes}"
    else:
        for wait, process in sorted(zip(killed, processes, strict=True), key=lambda pair: pair[0]):
            time.sleep(max(begun + wait - time.monotonic(), 0))
            process.kill()
        for process in processes:
            process.join()
            assert process.exitcode in (0, -signal.SIGKILL), f"a process ended in {process.exitcode} by itself"
    return time.monotonic() - begun


def told(folder: Path, lives: Sequence[Life], until: Sequence[int]) -> list[Any]:
    """(step, size, rows, bad) of all steps, each from the life whose checkpoint it became part of.

    Args:
        folder: of the trial.
        lives: in their order.
        until: step of the checkpoint that was there after each of them.
    """
    steps: list[Any] = []
    for number, life in enumerate(lives):
        logs = [list(lines(folder / f"{number}-{rank}.jsonl")) for rank in range(life.world)]
        for ranks in zip(*logs, strict=False):
            step = ranks[0]["step"]
            if step <= until[number]:
                assert all(rank["step"] == step for rank in ranks)
                whole = [row for rank in ranks for row in rank["rows"]]
                bad = sorted(bad for rank in ranks for bad in rank["bad"])
                steps.append([step, ranks[0]["size"], whole, bad])
    return steps


def lines(path: Path) -> Iterator[Any]:
    """Whole lines of a log; there may be none, and the last one may be cut."""
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else ():
        yield json.loads(line)


def trial(number: int, seed: int, place: Path, url: str, folder: Path) -> dict[str, Any]:
    """One trial.

    Returns:
        What it was, and whether ``equal``.
    """
    rng = np.random.default_rng([seed, number])
    kind, last = KINDS[number % len(KINDS)], LAST[number // len(KINDS) % len(LAST)]
    kills = int(rng.integers(1, 4))
    folder.mkdir()
    if kind == "without indexes":
        for tar in sorted(place.glob("*.tar")):
            (folder / "shards").mkdir(exist_ok=True)
            (folder / "shards" / tar.name).hardlink_to(tar)
        place = folder / "shards"
    plan = Plan(kind, last, int(rng.integers(1 << 20)), place, url, folder / "cache")
    alone = Life(1, 1)
    (folder / "expected").mkdir()
    took = run_life(plan, folder / "expected", 0, alone, None)
    if kind == "without indexes":  # as the killed ones find them
        for index in place.glob("*.safetensors"):
            index.unlink()
    shutil.rmtree(plan.cache, ignore_errors=True)
    expected = told(folder / "expected", [alone], [STEPS])
    assert len(expected) == STEPS
    lives = [Life(int(rng.integers(1, 5)), int(rng.integers(0, 4))) for _ in range(kills + 1)]
    (folder / "killed").mkdir()
    until = []
    for life_number, life in enumerate(lives):
        instant = rng.uniform(0, took * (0.85 - (0.7 * until[-1] / STEPS if until else 0)))
        instants = None if life_number == kills else instant + rng.uniform(0, 0.03, life.world)
        run_life(plan, folder / "killed", life_number, life, instants)
        state = folder / "killed" / "state.json"
        until.append(json.loads(state.read_text())["step"] if state.exists() else 0)
    found = told(folder / "killed", lives, until)
    differs = next((a[0] for a, b in zip(expected, found, strict=False) if a != b), None)
    shutil.rmtree(folder)
    return {
        "trial": number,
        "kind": kind,
        "last_batch": last,
        "lives": [(life.world, life.workers) for life in lives],
        "checkpoints": until,
        "differs_at": differs,
        "equal": found == expected,
    }


def jpeg(rng: np.random.Generator) -> bytes:
    """A small picture."""
    colours = rng.integers(0, 255, (3, 5, 3), dtype=np.uint8)
    Image.fromarray(colours).resize((40, 30)).save(out := io.BytesIO(), "JPEG")
    return out.getvalue()


def samples(name: str, count: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Pictures with two captions each; a few are cut, a few have none."""
    for number in range(count):
        data = jpeg(rng)
        captions = [f"{name} {number}", f"the same {number}"] if number % 61 else []
        picture = data[: len(data) // 3] if number % 53 == 7 else data
        yield {"__key__": f"{name}{number:05d}", "jpg": picture, "json": {"captions": captions, "who": number // 2}}


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, in pieces, some time apart."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """Send a file slowly; the client may have been killed."""
        try:
            while piece := source.read(1 << 14):
                outputfile.write(piece)
                time.sleep(0.001)
        except OSError:
            self.close_connection = True


def trials(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """So many trials, on shards that are written and served for them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mmcl.data", "mmcl.media", "fsspec.implementations.http"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng = np.random.default_rng(seed)
        write_shards(samples("a", SAMPLES, rng), folder / "shards", PER_SHARD)
        write_shards(samples("b", SAMPLES // 3, rng), folder / "other", PER_SHARD)
        handler = functools.partial(Quiet, directory=name)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{server.server_port}"
            context.Process(target=time.time).start()  # so that no trial has to wait for the server of forks
            for number in range(count):
                yield trial(number, seed, folder / "shards", url, folder / f"trial-{number}")
            server.shutdown()


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    begun, instants, failed, kills = time.monotonic(), Counter[str](), 0, 0
    for done in trials(args.trials, args.seed):
        failed += not done["equal"]
        kills += len(done["lives"]) - 1
        for before, after in zip([0, *done["checkpoints"]], done["checkpoints"][:-1], strict=False):
            instants["at the end" if after == STEPS else "after steps" if after > before else "before any"] += 1
        sign = "equal" if done["equal"] else f"DIFFERS, first at step {done['differs_at']}"
        print(done["trial"], done["kind"], done["last_batch"], done["lives"], done["checkpoints"], sign, flush=True)
    print(f"{args.trials - failed} of {args.trials} trials equal; {kills} kills: {dict(instants)};", end=" ")
    print(f"{time.monotonic() - begun:.0f} s")
    if args.json:
        figures = [
            {"figure": "trials in which the sequence changed", "value": failed, "unit": "", "goal": 0},
            {"figure": "kills", "value": kills, "unit": "", "goal": None},
            *({"figure": f"kills {k}", "value": v, "unit": "", "goal": None} for k, v in sorted(instants.items())),
        ]
        records = [{**f, "holds": None if f["goal"] is None else f["value"] <= f["goal"]} for f in figures]
        args.json.write_text(json.dumps(records, indent=1) + "\n")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
