"""Exporting embeddings beside the towers' forward alone, and beside clip-retrieval 2.45.0's clip_inference.

Both sides read the same shards (JPEGs of 500 x 375, captions, json) and embed pictures and captions with the same model
and weights, fp16 on disk, in processes of their own that take turns: `exporters.py`. Models are open_clip's with random
weights: ViT-B-32; ViT-S-32-alt; and `tiny`, 4 layers of 128, whose forward costs less than decoding a picture.

forward: samples a second of `mmcl embed` from tar to files, decoding included, over those of both towers' forward of
rows that are ready. Decoding has no core of its own on a CPU: where it costs more than a twentieth of the forward's CPU
time, 95 % is out of reach of any code; both CPU times are told.
peer: seconds of clip_inference over those of mmcl; it is asked for as many worker processes as does it best of 2 and 4.
memory: the most that mmcl holds above the model while it embeds 32,768 samples, in the first quarter and in the rest.

Vectors of both must be the same but for decoding at a smaller scale: the mean cosine at least 0.99, or it ends with 1.

    python benchmarks/embedding.py [--only MODEL] [--quick] [--pairs N] [--json FILE] [--cache DIR]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from figures import Figure, main, spread
from peers import CACHE, interpreter
from pictures import PER_SHARD, shards
from safetensors.torch import save_file

HERE = Path(__file__).parent
BATCH = 256
ALIKE = 0.99
TINY = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 224, "layers": 4, "width": 128, "head_width": 32, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2},
}
MODELS = {"ViT-B-32": (4, 1.0), "ViT-S-32-alt": (8, None), "tiny": (64, 2.0)}
"""Of each how many shards are read, and the goal beside clip_inference."""
Record = dict[str, Any]


def model(folder: Path, name: str) -> tuple[str, str]:
    """Its name or configuration, and a file of weights, made once."""
    import open_clip

    said, weights = name, folder / f"{name}.safetensors"
    if name == "tiny":
        config = folder / "tiny.json"
        config.write_text(json.dumps(TINY))
        open_clip.add_model_config(config)
        said = str(config)
    torch.manual_seed(0)
    made = open_clip.create_model(name)
    save_file({key: tensor.contiguous() for key, tensor in made.state_dict().items()}, weights)
    return said, str(weights)


def measured(python: Path | str, side: str, case: Record, folder: Path, workers: int = 2) -> Record:
    """One run of one side."""
    path = folder / f"{side}.json"
    path.write_text(json.dumps({**case, "workers": workers, "out": str(folder / side)}))
    command = [str(python), str(HERE / "exporters.py"), side, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def vectors(out: Path) -> dict[str, dict[str, np.ndarray]]:
    """By modality and key."""
    tables = [pq.read_table(path) for path in sorted((out / "metadata").glob("*.parquet"))]
    keys = [key for table in tables for key in table.column("image_path").to_pylist()]
    found = {}
    for name in ("img_emb", "text_emb"):
        rows = np.concatenate([np.load(path) for path in sorted((out / name).glob("*.npy"))]).astype(np.float32)
        found[name] = dict(zip(keys, rows, strict=True))
    return found


def alike(folder: Path) -> Iterator[Figure]:
    """See that both exports are of the same model and samples."""
    ours, theirs = (vectors(folder / side) for side in ("mmcl", "clip_retrieval"))
    for name, rows in ours.items():
        if rows.keys() != theirs[name].keys():
            sys.exit(f"{name}: {len(rows)} samples, and clip_inference has {len(theirs[name])}")
        cosine = float(np.mean([rows[key] @ theirs[name][key] for key in rows]))
        yield Figure(f"  mean cosine of {name} to clip_inference's", cosine, "", ALIKE, True)
        if cosine < ALIKE:
            sys.exit(f"{name}: other vectors than clip_inference's")


def of_model(name: str, args: argparse.Namespace, folder: Path, peer: Path) -> Iterator[Figure]:
    """All figures of one model."""
    count, goal = MODELS[name]
    count = max(count // 8, 2) if args.quick else count
    place = shards(args.cache / "pictures", "0.19 Mpx", min(count, 16), count)
    said, weights = model(folder, name)
    files = [str(path) for path in sorted(place.glob("*.tar"))]
    case = {"model": said, "weights": weights, "batch_size": BATCH, "part_size": 2048}
    case |= {"shards": files, "samples": count * PER_SHARD}
    workers = min((2, 4), key=lambda n: measured(peer, "clip_retrieval", case, folder, n)["seconds"])
    runs = []
    for _ in range(args.pairs):
        runs.append(
            [
                measured(peer, "clip_retrieval", case, folder, workers),
                measured(sys.executable, "mmcl", case, folder),
                measured(sys.executable, "forward", case, folder),
            ]
        )
    speeds = [[one["samples"] / one["seconds"] for one in run] for run in runs]
    quick = args.quick
    yield spread(f"{name}: mmcl / forward alone", [b / c for _, b, c in speeds], "x", None if quick else 0.95, True)
    yield spread(f"{name}: mmcl / clip_inference", [b / a for a, b, _ in speeds], "x", None if quick else goal, True)
    for number, side in enumerate(("clip_inference", "mmcl", "forward alone")):
        yield spread(f"  {side}", [speed[number] for speed in speeds], "samples/s")
        if side != "clip_inference":  # most of that is starting a process that logs
            each = [1000 * run[number]["cpu"] / run[number]["samples"] for run in runs]
            yield spread(f"  {side}, CPU a sample", each, "ms")
    yield Figure("  clip_inference's workers", workers, "")
    yield from alike(folder)


def memory(args: argparse.Namespace, folder: Path) -> Iterator[Figure]:
    """Of a long export."""
    count = 32 if args.quick else 256
    said, weights = model(folder, "tiny")
    place = shards(args.cache / "pictures", "0.19 Mpx", 16, count)
    case = {"model": said, "weights": weights, "batch_size": BATCH, "part_size": 1024}
    case |= {"shards": [str(path) for path in sorted(place.glob("*.tar"))], "samples": count * PER_SHARD}
    run = measured(sys.executable, "growth", case, folder)
    yield Figure(f"memory above the model, the first quarter of {count * PER_SHARD:,} samples", run["first"], "MB")
    yield Figure("  the rest", run["peak"], "MB")
    yield Figure("  the rest / the first quarter", run["peak"] / run["first"], "x", 1.15)


def figures(args: argparse.Namespace) -> Iterator[Figure]:
    """All of them."""
    peer = interpreter("clip_retrieval", args.cache)
    with tempfile.TemporaryDirectory() as folder:
        for name in [args.only] if args.only else MODELS:
            yield Figure(f"load of the machine before {name}", os.getloadavg()[0], "")
            yield from of_model(name, args, Path(folder), peer)
        if not args.only:
            yield from memory(args, Path(folder))


if __name__ == "__main__":
    main(__doc__, MODELS, "an eighth of the shards", figures, CACHE)
