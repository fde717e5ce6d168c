"""The memory that `mmcl train --dry-run` estimates, beside what a run takes (`training.py --only estimate`)."""

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import resident
import torch
from figures import Figure
from PIL import Image

from mmcl.data import write_shards
from mmcl.dry_run import dry_run
from mmcl.recipe import load_recipe
from mmcl.training.learner import Learner
from mmcl.training.loop import make_stream


def peak(recipe: str, *overrides: str) -> None:
    """Print by how many MB three steps of a recipe raise the peak above its weights, with its batches."""
    torch.set_num_threads(2)
    loaded = load_recipe(recipe, overrides)
    learner = Learner(loaded)
    batches = iter(make_stream(loaded, learner.model))
    before = resident.begin()
    for _ in range(3):
        learner.backward(next(batches))
        learner.update()
    print(resident.above(before), flush=True)
    os._exit(0)  # threads may still read


def expected(recipe: str, *overrides: str) -> float:
    """MB above its weights that the plan of a recipe says."""
    found = dry_run(recipe, *overrides)
    assert found.plan is not None, found.errors
    memory = found.plan.memory
    copies = memory["batches"] / 4  # on a CPU the batch in use has no copy on a device
    return (memory["total"] - memory["weights"] - copies) / 2**20


def noise(folder: Path) -> str:
    """Shards of a few noise pictures and captions."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(64):
        picture = Image.fromarray(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8))
        picture.save(out := io.BytesIO(), "jpeg")
        words = " ".join(rng.choice(["a", "red", "small", "house", "of", "noise"], 80))
        samples.append({"__key__": f"{number:03d}", "jpg": out.getvalue(), "txt": words})
    write_shards(samples, folder)
    return str(folder)


def estimate(quick: bool) -> Iterator[Figure]:
    """What a dry run says of memory, and what a run takes."""
    with tempfile.TemporaryDirectory() as folder:
        shards = f"data.train.shards={noise(Path(folder) / 'noise')}"
        vit = ["image_text/clip_vit_b_32", shards, "training.precision=fp32", "data.workers=1"]
        large = {
            "ViT-B/32, batch 16": [*vit, "data.batch_size=16"],
            "ViT-B/32, batch 32 in chunks of 8": [*vit, "data.batch_size=32", "training.chunk=8"],
        }
        for name, words in {"glyphs/clip_tiny": ["glyphs/clip_tiny"], **({} if quick else large)}.items():
            words = [*words, f"run={folder}/run", "tasks=[]"]
            returned = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed is not kept in the heap
            command = [sys.executable, __file__, *words]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=returned)
            real, said = float(done.stdout.split()[-1]), expected(*words)
            yield Figure(f"memory above the weights: {name}", real, "MB")
            yield Figure("  as --dry-run estimates it", said, "MB")
            yield Figure("  estimate / real", said / real, "x")


if __name__ == "__main__":
    peak(*sys.argv[1:])
