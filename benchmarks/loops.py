"""What the loop of training costs: everything of a step but towers, objective, optimizer, and waiting for data.

The trainer runs as it does in `mmcl train`, over batches that are in memory. When it asks for the next one, the same
batch goes through a bare step first: the same towers, objective (with the record of all processes' rows) and optimizer
(with clipping), and nothing else. So the two alternate step by step, in one process and over the same weights, and what
the trainer's steps take longer is the loop: bringing rows to the device, choosing those that are present, learning
rates, norms, diagnostics, the rows of metrics.jsonl, progress.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import Figure, spread
from pictures import caption, tiny
from torch.nn.utils import clip_grad_norm_
from trainers import CLIP_NORM, VIT_B_32, Case, recipe

from mmcl.data import write_shards
from mmcl.recipe import Recipe, load_recipe
from mmcl.runs import Run
from mmcl.towers import train_sentencepiece
from mmcl.training import Trainer
from mmcl.training.learner import Learner
from mmcl.training.record import gathered
from mmcl.types import Batch

BATCHES = 8  # that are in memory
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "CPU": time.process_time}


def bare(learner: Learner, batch: Batch) -> None:
    """A step without the loop."""
    vectors = learner.model({name: batch[name] for name in learner.names})
    record = gathered(vectors, batch, learner.names, learner.model.dim, learner.device)
    learner.objective(record).total.backward()
    optimizer: Any = learner.optimizer
    optimizer = optimizer.optimizer  # torch's own, without accelerate's
    clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], CLIP_NORM)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@dataclass
class Alternating:
    """Stands for the trainer's stream: hands out batches from memory, and runs a bare step after each of its steps."""

    trainer: Trainer
    batches: list[Batch]
    samples_seen: int = 0
    dropped: int = 0
    steps: list[tuple[dict[str, float], dict[str, float]]] = field(default_factory=list)  # seconds: trainer, bare

    def __iter__(self) -> Iterator[Batch]:
        while True:
            batch = self.batches[len(self.steps) % len(self.batches)]
            self.samples_seen += batch.size
            begun = read()
            yield batch
            theirs = since(begun)
            begun = read()
            bare(self.trainer.learner, batch)
            self.steps.append((theirs, since(begun)))

    def state(self) -> dict[str, Any]:
        """For the checkpoint at the end."""
        return {}


def read() -> dict[str, float]:
    """All clocks."""
    return {name: clock() for name, clock in CLOCKS.items()}


def since(begun: dict[str, float]) -> dict[str, float]:
    """Seconds since they were read."""
    return {name: now - begun[name] for name, now in read().items()}


def small(folder: Path, windows: int) -> Recipe:
    """glyphs/clip_tiny as it ships (batch 128, a row every 20 steps), over pictures and captions that are made here."""
    rng = np.random.default_rng(0)
    samples = [{"__key__": f"{n:05d}", "png": tiny(rng), "txt": caption(rng)} for n in range(BATCHES * 128)]
    for number, sample in enumerate(samples):
        sample["json"] = {"identity": number}
    write_shards(samples, folder / "shards", 128)
    train_sentencepiece((str(sample["txt"]) for sample in samples), folder / "tokenizer.model", 285)
    return load_recipe(
        "glyphs/clip_tiny",
        [
            f"run={folder / 'run'}",
            f"data.train.shards={folder / 'shards'}",
            f"towers.text.tokenizer.model={folder / 'tokenizer.model'}",
            "tasks=[]",
            f"training={{samples: {128 * (20 * windows + 1)}, log_every_steps: 20, clip_norm: {CLIP_NORM}}}",
        ],
    )


def large(folder: Path, windows: int) -> Recipe:
    """ViT-B/32 in batches of 4, a row every 5 steps."""
    rng = np.random.default_rng(0)
    samples = [{"__key__": f"{n:05d}", "jpg": tiny(rng), "txt": caption(rng)} for n in range(BATCHES * 4)]
    write_shards(samples, folder / "shards", 8)
    (folder / "model.json").write_text(json.dumps(VIT_B_32))
    case = Case("", VIT_B_32, batch=4, threads=1, every=5, lines=windows - 1, pairs=0, goal=0)
    said = folder / "recipe.yaml"
    said.write_text(json.dumps(recipe(case, folder / "shards", folder / "model.json", folder / "run")))
    return load_recipe(said)


def measured(make: Callable[[Path, int], Recipe], windows: int) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Seconds of the steps of a run, the trainer's and the bare ones; the first window is left out."""
    with tempfile.TemporaryDirectory(prefix="mmcl-") as name:
        folder = Path(name)
        of = make(folder, windows + 1)
        trainer = Trainer(of, Run(folder / "run"), lambda _: {})
        batches = [batch for batch, _ in zip(trainer.stream, range(BATCHES), strict=False)]
        assert not any(batch.bad for batch in batches)
        stream: Any = Alternating(trainer, batches)
        trainer.stream = stream
        (folder / "run").mkdir()
        trainer.train()
        every = of.training.log_every_steps
        assert len(stream.steps) == (windows + 1) * every == of.steps - 1
        return stream.steps[every:]


def overhead(quick: bool) -> Iterator[Figure]:
    """Shares of the trainer's steps, each over the steps from one row of the metrics to the next."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for title, make, every, windows in (
        ("glyphs/clip_tiny, batch 128", small, 20, 10),
        ("ViT-B/32, batch 4", large, 5, 3),
    ):
        if quick and make is large:
            continue
        steps = measured(make, 3 if quick else windows)
        parts = [steps[first : first + every] for first in range(0, len(steps), every)]
        took = {c: [[sum(s[side][c] for s in part) / every for part in parts] for side in (0, 1)] for c in CLOCKS}
        yield spread(f"{title}: a step, CPU", [1000 * x for x in took["CPU"][0]], "ms")
        more = [1000 * (a - b) for a, b in zip(*took["CPU"], strict=True)]
        yield spread("  of it the loop, CPU", more, "ms")
        plain = [1000 * (a["CPU"] - b["CPU"]) for n, (a, b) in enumerate(steps, 1) if n % every]
        yield spread("  of it the loop, in steps without a row of metrics, CPU", plain, "ms")
        for clock, (ours, theirs) in took.items():
            goal = 0.03 if clock == "CPU" else None
            shares = [1 - b / a for a, b in zip(ours, theirs, strict=True)]
            yield spread(f"  share of the loop, {clock}", shares, "", goal)
    torch.set_num_threads(before)
