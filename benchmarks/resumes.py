"""kill -9 a training run at random instants, and resume it until it ends: is it the run that nobody killed?

A trial is a whole run on tiny towers: dropout, an average of the towers, memory of samples and a queue, chunks; some
samples are bad; it measures a task and leaves checkpoints on the way. Its lives are killed one after the other, at
instants drawn as failures come, with a mean of a quarter of the whole run: while the stream is opened, a step is done,
a checkpoint is written, the task is measured, the report is made. On two processes both die within 30 ms, or one of
them alone, whereupon the other must end by itself. The life that nobody killed any more is the last.

Goals: weights, slots of the optimizer, states of the generators and of the stream, metrics.jsonl (but for its clock),
results.json, the list of bad samples and the samples of every step are those of a run that nobody killed, bit for bit,
on one process and on two. And runs by torchrun whose number of processes changes at each restart (1, 2, 3, 1; without
dropout): the same samples in each step, and losses to 1e-5 of those on one process.

    python benchmarks/resumes.py [--trials 20] [--changes 3] [--seed 0] [--json FILE]

It ends with 1 where anything differs, and leaves the folders of such trials.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
import torch
from compared import Place, differences, rows, steps
from kills import lines, samples

from mmcl import distributed, workflow
from mmcl.data import write_shards
from mmcl.files import write_json
from mmcl.towers import train_sentencepiece
from mmcl.training import loop
from mmcl.training.learner import Learner
from mmcl.types import Batch

SAMPLES, PER_SHARD, BATCH, STEPS = 500, 32, 32, 40
EVERY, MEASURED = 4, 20  # steps to a checkpoint, and to a measurement
MOST = 12  # kills of a run
AT_END = 2  # of these, after its last checkpoint
SECONDS = 120  # that a life may take at most
TEMPERATURE = {"init": 0.1, "learn": True, "min": 0.02}
MEMORY = {"name": "isogclr", "slots": 4096, "tau": 0.05}
QUEUE = ["in_batch", {"name": "queue", "size": 80, "of": ["image", "text"]}]
PAIR = {"score": "cosine", "pairs": [["image", "text"]]}
KINDS: dict[str, dict[str, Any]] = {
    "average": {"training": {"ema": {"decay": 0.9, "evaluate": True}}},
    "memory": {
        "objective": [
            {"score": "cosine", "contrast": MEMORY},
            {**PAIR, "negatives": QUEUE, "temperature": TEMPERATURE},
        ]
    },
    "chunks": {"training": {"chunk": 9}},
}
CHANGES = (1, 2, 3, 1)  # processes


def recipe(kind: str, shared: Path, run: Path, dropout: float) -> dict[str, Any]:
    """What is trained."""
    sizes = {"width": 32, "layers": 1, "heads": 2}
    tokenizer = {"name": "sentencepiece", "model": str(shared / "tokenizer.model")}
    changed = KINDS[kind]
    return {
        "run": str(run),
        "dim": 16,
        "towers": {
            "image": {"name": "vit", "image_size": 16, "patch_size": 4, "patch_dropout": dropout, **sizes},
            "text": {"name": "text_transformer", "tokenizer": tokenizer, "context_length": 16, **sizes},
        },
        "objective": changed.get("objective", [{"score": "cosine", "temperature": TEMPERATURE}]),
        "data": {
            "train": {
                "shards": str(shared / "shards"),
                "modalities": {"image": "jpg", "text": "json:captions"},
                "identity": "json:who",
                "window": 5,
            },
            "batch_size": BATCH,
        },
        "optimizer": {"name": "adamw", "lr": 1e-3 if dropout else 1e-4},
        "schedule": {"name": "cosine"},
        "training": {
            "samples": STEPS * BATCH,
            "clip_norm": 1.0,
            "log_every_steps": 1,
            "eval_every_steps": MEASURED,
            "checkpoint_every_steps": EVERY,
            **changed.get("training", {}),
        },
        "tasks": [str(shared / "task.yaml")],
    }


def live(place: Place, number: int) -> None:
    """One process of one life: start the run, or go on with it, and tell each step's samples."""
    torch.set_num_threads(1)
    resume = number > 0
    given = place.run if (place.run / "recipe.yaml").exists() and resume else place.folder / "recipe.yaml"

    class Telling(Learner):
        def backward(self, batch: Batch, look: bool = False) -> Any:
            with (place.folder / f"told-{number}-{distributed.rank()}.jsonl").open("a") as file:
                file.write(json.dumps([self.step, batch.offset, batch.keys]) + "\n")
            return super().backward(batch, look)

    with mock.patch.object(loop, "Learner", Telling):
        workflow.train(given, resume=resume)


def forked(place: Place, number: int, rank: int, world: int, port: int) -> None:
    """`live`, in what the forkserver made, with what torchrun would have set."""
    with (place.folder / f"said-{number}-{rank}.txt").open("w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    if world > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    live(place, number)


def run_life(place: Place, number: int, world: int, after: Sequence[float] | None) -> bool:
    """Run a life to its end, or kill its processes.

    Args:
        place: of the run.
        number: of the life.
        world: number of processes.
        after: seconds from its beginning to the kill of each process; infinity lets it be.

    Returns:
        Whether it was done before.
    """
    context = multiprocessing.get_context("forkserver")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes: list[BaseProcess] = [
        context.Process(target=forked, args=(place, number, rank, world, port)) for rank in range(world)
    ]
    begun = time.monotonic()
    for process in processes:
        process.start()
    for wait, process in sorted(zip(after or (), processes, strict=bool(after)), key=lambda pair: pair[0]):
        if wait < float("inf"):
            process.join(max(begun + wait - time.monotonic(), 0))
            process.kill()
    met = place.begun(number) or after is None
    for process in processes:  # who is left alone must see it; before they have met, a launcher has to
        process.join(max(begun + SECONDS - time.monotonic(), 0) if met else 1)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    assert None not in codes or not met, f"{place.folder}, life {number}: {codes}; who was not killed did not end"
    done = codes == [0] * world
    assert done or -signal.SIGKILL in codes, f"{place.folder}, life {number}: it ended with {codes} by itself"
    return done


def fell(place: Place, number: int, since: float) -> str:
    """Where a kill fell."""
    if not (place.run / "recipe.yaml").exists():
        return "before there was a run folder"
    if any(partial.stat().st_mtime >= since for partial in (place.run / "checkpoints").glob(".*.partial")):
        return "in a checkpoint"
    said = list(lines(place.run / "metrics.jsonl"))
    if said and place.step() == said[-1]["step"] and said[-1]["step"] % MEASURED == 0 and not measures(said[-1]):
        return "between a checkpoint and its measurement"
    if place.step() == STEPS:
        return "after the last measurement"
    return "between checkpoints" if place.begun(number) else "before a life's first step"


def measures(row: dict[str, Any]) -> bool:
    """Whether a row holds what a task measured."""
    return any("recall" in name for name in row)


class Trials:
    """All trials over the same shards.

    Args:
        folder: for all of it.
        seed: of the kills.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.shared, self.folder, self.seed = folder, folder, seed
        self.whole: dict[tuple[str, int, float], tuple[Place, float]] = {}
        made = list(samples("a", SAMPLES, np.random.default_rng(seed)))
        write_shards(made, folder / "shards", PER_SHARD)
        write_shards(made[:64], folder / "test", PER_SHARD)
        train_sentencepiece((text for one in made for text in one["json"]["captions"]), folder / "tokenizer.model", 290)
        evaluator = {"name": "retrieval", "modalities": ["text", "image"]}
        data = {"shards": str(folder / "test"), "modalities": {"image": "jpg", "text": "json:captions"}}
        write_json(folder / "task.yaml", {"title": "found", "key": "found", "evaluator": evaluator, "data": data})

    def place(self, name: str, kind: str, dropout: float) -> Place:
        """A run that has not begun."""
        place = Place(self.folder / name.replace(" ", "-"))
        place.folder.mkdir()
        write_json(place.folder / "recipe.yaml", recipe(kind, self.shared, place.run, dropout))
        return place

    def uninterrupted(self, kind: str, world: int, dropout: float) -> tuple[Place, float]:
        """The run that nobody killed, and the seconds that it took."""
        wanted = kind, world, dropout
        if wanted not in self.whole:
            place = self.place(f"whole-{kind}-{world}-{dropout}", kind, dropout)
            begun = time.monotonic()
            assert run_life(place, 0, world, None)
            self.whole[wanted] = place, time.monotonic() - begun
        return self.whole[wanted]

    def trial(self, number: int, world: int) -> dict[str, Any]:
        """A run that is killed until it ends."""
        rng = np.random.default_rng([self.seed, number, world])
        kind = list(KINDS)[number % len(KINDS)]
        expected, took = self.uninterrupted(kind, world, 0.25)
        place, where, at = self.place(f"trial-{world}-{number}", kind, 0.25), [], []
        for life in range(MOST + 1):
            instants = rng.exponential(took / 4) + rng.uniform(0, 0.03, world)
            if world > 1 and rng.random() < 0.5:
                instants[rng.integers(world)] = float("inf")  # one of two dies alone
            since = time.time()
            enough = life == MOST or at.count(STEPS) == AT_END
            if run_life(place, life, world, None if enough else list(instants)):
                break
            alone = "one of two, " if instants.max() == float("inf") else ""
            where.append(alone + fell(place, life, since))
            at.append(place.step())
        told = differences(expected, place, STEPS)
        if not told:
            shutil.rmtree(place.folder)
        return {"name": f"{number} on {world}, {kind}", "fell": where, "said": at, "differs": told}

    def changing(self, number: int) -> dict[str, Any]:
        """A run by torchrun whose number of processes changes at each restart."""
        rng = np.random.default_rng([self.seed, number])
        kind = list(KINDS)[number % len(KINDS)]
        expected, _ = self.uninterrupted(kind, 1, 0.0)
        place, where, at = self.place(f"changing-{number}", kind, 0.0), [], []
        stops = sorted(rng.choice(np.arange(EVERY + 1, STEPS - 1), len(CHANGES) - 1, replace=False).tolist())
        for life, (world, stop) in enumerate(zip(CHANGES, [*stops, None], strict=True)):
            since = time.time()
            launched(place, life, world, stop, rng.uniform(0, 0.1))
            if stop is not None:
                where.append(f"changing, {fell(place, life, since)}")
                at.append(place.step())
        assert place.step() == STEPS
        pairs = [(a["loss"], b["loss"]) for a, b in zip(rows(expected), rows(place), strict=True)]
        most = max(abs(a - b) / abs(a) for a, b in pairs)
        told = [f"losses by {most:.1e}"] if most > 1e-5 else []
        told += ["samples of steps"] if steps(expected) != steps(place) else []
        return {"name": f"{number} on 1, 2, 3, 1, {kind}", "fell": where, "said": at, "differs": told, "losses": most}


def launched(place: Place, number: int, world: int, stop: int | None, delay: float) -> None:
    """A life by torchrun: to its end, or until so many seconds after a step of its was told; then all is killed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    command += [__file__, "--live", str(place.folder), str(number)]
    with (
        (place.folder / f"said-{number}.txt").open("w") as said,
        subprocess.Popen(command, stdout=said, stderr=said) as process,
    ):
        deadline = time.monotonic() + SECONDS
        while process.poll() is None and not reached(place, number, stop):
            assert time.monotonic() < deadline, f"{place.folder}, life {number}: it did not come to step {stop}"
            time.sleep(0.005)
        time.sleep(delay)
        ended = process.poll()
        assert ended in (None, 0), f"{place.folder}, life {number}: it ended with {ended}; see said-{number}.txt there"
        if stop is None:
            return
        launcher = psutil.Process(process.pid)
        for one in [launcher, *launcher.children(recursive=True)]:  # the launcher first: it would end the others
            one.kill()
        process.wait()


def reached(place: Place, number: int, stop: int | None) -> bool:
    """Whether a life has told a step."""
    told = place.folder / f"told-{number}-0.jsonl"
    return stop is not None and any(step >= stop for step, _, _ in lines(told))


def run_all(args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """All that is asked for."""
    os.environ.update(OMP_NUM_THREADS="1", ACCELERATE_USE_CPU="true", PYTHONPATH=str(Path(__file__).parents[1]))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mmcl.workflow", "mmcl.towers.vit", "mmcl.towers.text_transformer", "resumes"])
    context.Process(target=time.time).start()
    all_of_it = Trials(folder, args.seed)
    for number in range(args.trials):
        for world in (1, 2):
            yield all_of_it.trial(number, world)
    for number in range(args.changes):
        yield all_of_it.changing(number)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20, help="on one process, and as many on two")
    parser.add_argument("--changes", type=int, default=3, help="runs whose number of processes changes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--live", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.live:
        return live(Place(Path(args.live[0])), int(args.live[1]))
    begun, where, failed, losses = time.monotonic(), Counter[str](), [], [0.0]
    folder = Path(tempfile.mkdtemp(prefix="mmcl-resumes-"))
    for done in run_all(args, folder):
        where.update(done["fell"])
        failed += [done["name"]] if done["differs"] else []
        losses.append(done.get("losses", 0.0))
        sign = f"DIFFERS: {'; '.join(done['differs'][:5])}" if done["differs"] else "equal"
        print(done["name"], f"killed after checkpoints {done['said']}:", sign, flush=True)
    if not failed:
        shutil.rmtree(folder)
    total = 2 * args.trials + args.changes
    print(f"{total - len(failed)} of {total} runs equal; {where.total()} kills; {time.monotonic() - begun:.0f} s")
    print("".join(f"  {count:4} {name}\n" for name, count in sorted(where.items())), end="")
    print(f"losses on changing numbers of processes differ by {max(losses):.1e} at most")
    if args.json:
        goals: list[tuple[str, float, float | None]] = [
            ("killed runs that differ", len(failed), 0),
            ("losses on changing numbers of processes", max(losses), 1e-5),
            *((f"kills {name}", count, None) for name, count in sorted(where.items())),
        ]
        records = [
            {"figure": name, "value": value, "unit": "", "goal": goal, "holds": None if goal is None else value <= goal}
            for name, value, goal in goals
        ]
        args.json.write_text(json.dumps(records, indent=1) + "\n")
    if failed:
        print(f"see {folder}: {', '.join(failed)}")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
