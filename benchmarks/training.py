"""What a step of training costs.

    python benchmarks/training.py [--only NAME] [--quick] [--json FILE]

memory: a batch in chunks (`training.chunk`) beside one batch as large as a chunk. Each in a process of its own: what
its peak lies above the memory that it had with towers, optimizer and inputs before its first step.
speed: samples a second of `mmcl train` beside open_clip's own trainer, data included (`trainers.py`).
estimate: the memory of `mmcl train --dry-run` beside the peak of three steps of the same recipe (`estimates.py`).
overhead: the part of a step that is neither towers, objective, optimizer nor waiting for data (`loops.py`).
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import resident
import torch
from estimates import estimate
from figures import Figure
from loops import overhead
from trainers import speed

import mmcl
from mmcl.model import MultiTower, embedded
from mmcl.towers import TOWERS
from mmcl.training.chunks import Chunks
from mmcl.training.record import gathered
from mmcl.types import Batch

CHUNK, DIM, SIDE, TOKENS, WORDS = 64, 256, 64, 24, 1000
NAMES = ("image", "text")
SIZES = {"width": 192, "layers": 3, "heads": 3}


def step(batch: int, chunk: int | None) -> None:
    """Print by how many MB two steps raise the peak."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    image = TOWERS.check({"name": "vit", "image_size": SIDE, "patch_size": 8, **SIZES}).build(dim=DIM)
    text = TOWERS.check(
        {"name": "text_transformer", "tokenizer": "open_clip_bpe", "context_length": TOKENS, **SIZES}
    ).build(dim=DIM)
    model: Any = MultiTower({"image": image, "text": text}, DIM).train()
    objective: Any = mmcl.objective("clip", DIM)
    parameters = [*model.parameters(), *objective.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    for parameter in parameters:  # gradients and moments are there from the beginning
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    rows = {
        "image": torch.randint(0, 256, (batch, 3, SIDE, SIDE), dtype=torch.uint8),
        "text": torch.randint(1, WORDS, (batch, TOKENS)),
    }
    present = {name: torch.ones(batch, dtype=torch.bool) for name in NAMES}
    data = Batch({}, present, [str(i) for i in range(batch)], torch.arange(batch), batch, 0, [])
    before = resident.begin()
    for _ in range(2):
        for parameter in parameters:
            parameter.grad.zero_()
        chunks = None if chunk is None else Chunks(model, model, rows, data, chunk)
        vectors = embedded(model, rows) if chunks is None else chunks.embed()
        objective(gathered(vectors, data, NAMES, DIM, torch.device("cpu"))).total.backward()
        if chunks is not None:
            chunks.backward()
        optimizer.step()
    print(resident.above(before))


def raised(batch: int, chunk: int | None) -> float:
    """What `step` prints in a process of its own."""
    command = [sys.executable, __file__, "--step", str(batch), str(chunk or 0)]
    returned = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed is not kept in the heap
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=returned)
    return float(done.stdout.split()[-1])


def memory(quick: bool) -> Iterator[Figure]:
    """Peaks of batches in chunks of 64."""
    small = raised(CHUNK, None)
    yield Figure(f"memory of a step: {CHUNK} at once", small, "MB")
    for batch in (512,) if quick else (512, 4096):
        large = raised(batch, CHUNK)
        embeddings = 4 * batch * DIM * len(NAMES) / 2**20  # of one copy of the vectors
        yield Figure(f"  {batch} in chunks of {CHUNK}", large, "MB")
        yield Figure("  of these, vectors and their gradients", 2 * embeddings, "MB")
        goal = 1.15 if batch == 4096 else None
        yield Figure(f"  {batch} in chunks / {CHUNK} at once", large / small, "x")
        yield Figure("  the same, vectors and gradients aside", (large - 2 * embeddings) / small, "x", goal)
    if not quick:
        yield Figure("  512 at once", raised(512, None), "MB")


FIGURES: dict[str, Callable[[bool], Iterator[Figure]]] = {
    "memory": memory,
    "speed": speed,
    "overhead": overhead,
    "estimate": estimate,
}


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=FIGURES, help="one of the figures")
    parser.add_argument("--quick", action="store_true", help="few, to see that it works")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--step", nargs=2, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        return step(args.step[0], args.step[1] or None)
    os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    names = [args.only] if args.only else FIGURES
    found = [figure.shown().record() for name in names for figure in FIGURES[name](args.quick)]
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
