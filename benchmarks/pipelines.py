"""One run of one side, from tar shards to batches of 256 pairs of tokens and normalised pictures, in its own process.

    python benchmarks/pipelines.py SIDE FOLDER WORKERS BATCHES

Prints JSON: seconds to the first batch (imports aside), and then over BATCHES more the seconds of wall and of CPU time
per sample. The mmcl and the open_clip side run the same loop over the same shards with the same tokens.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

BATCH = 256
SIZE = 224
CROP = (0.9, 1.0)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
Pair = tuple[torch.Tensor, torch.Tensor]


def of_mmcl(folder: Path, workers: int) -> Callable[[], Iterator[Pair]]:
    """Our stream, and the normalisation that the tower does."""
    from open_clip import SimpleTokenizer

    from mmcl.data import Source, Stream
    from mmcl.media import ImageTransform, Normalize
    from mmcl.types import Transform

    tokenizer = SimpleTokenizer()

    class Tokens(Transform):
        def empty(self, rows: int) -> torch.Tensor:
            return torch.zeros(rows, 77, dtype=torch.long)

        def __call__(self, value: str, draw: Any, out: torch.Tensor) -> None:
            tokens = [tokenizer.sot_token_id, *tokenizer.encode(value)[:75], tokenizer.eot_token_id]
            out.zero_()[: len(tokens)] = torch.tensor(tokens)

    def batches() -> Iterator[Pair]:
        stream = Stream(
            Source(shards=str(folder), modalities={"image": "jpg", "text": "txt"}),
            batch_size=BATCH,
            workers=workers,
            endless=True,
            transforms={"image": ImageTransform(SIZE, crop=CROP), "text": Tokens()},
        )
        normalize = Normalize(MEAN, STD)
        for batch in stream:
            assert not batch.bad, batch.bad[:3]
            yield normalize(batch["image"]), batch["text"]

    return batches


def of_open_clip(folder: Path, workers: int) -> Callable[[], Iterator[Pair]]:
    """open_clip's own training pipeline, as its trainer makes it."""
    from open_clip import SimpleTokenizer, image_transform
    from open_clip_train.data import get_wds_dataset

    shards = sorted(path.name for path in folder.glob("*.tar"))

    def batches() -> Iterator[Pair]:
        args = SimpleNamespace(
            train_data=f"{folder}/{{{shards[0][:-4]}..{shards[-1][:-4]}}}.tar",
            train_num_samples=10**8,
            train_data_upsampling_factors=None,
            dataset_resampled=False,
            seed=0,
            batch_size=BATCH,
            workers=workers,
            world_size=1,
        )
        preprocess = image_transform(SIZE, is_train=True, mean=MEAN, std=STD)
        yield from get_wds_dataset(args, preprocess, is_train=True, tokenizer=SimpleTokenizer()).dataloader

    return batches


def run_floor(folder: Path, count: int) -> float:
    """CPU seconds a picture of what nobody can leave out: decoding at our scale, and resizing, in reused memory."""
    import numpy as np
    import simplejpeg
    from pictures import jpegs

    from mmcl.media.image import SCALES, SPARE, resize

    pictures = jpegs(folder, count)
    row, memory = torch.empty(SIZE, SIZE, 3, dtype=torch.uint8), np.empty(16 << 20, np.uint8)
    side = (sum(CROP) / 2) ** 0.5
    start = time.process_time()
    for data in pictures:
        height, width = (int(side) for side in simplejpeg.decode_jpeg_header(data)[:2])
        scale = next((s for s in SCALES if side * min(height, width) / SIZE >= SPARE * s), 1)
        rows, columns = (-(-height // scale), -(-width // scale)) if scale > 1 else (0, 0)
        pixels = simplejpeg.decode_jpeg(
            data, min_height=rows, min_width=columns, min_factor=scale, fastupsample=True, buffer=memory
        )
        h, w = (round(side * full) for full in pixels.shape[:2])
        resize(torch.from_numpy(pixels[:h, :w]), row)
    return (time.process_time() - start) / len(pictures)


def cpu() -> float:
    """Seconds of this process and of its children that ended."""
    return sum(os.times()[:4])


def run(batches: Callable[[], Iterator[Pair]], count: int) -> dict[str, float]:
    """Measure one side."""
    begun = time.perf_counter()
    iterator = batches()
    pictures, tokens = next(iterator)
    first = time.perf_counter() - begun
    assert pictures.shape == (BATCH, 3, SIZE, SIZE)
    assert pictures.dtype == torch.float32
    assert tokens.shape == (BATCH, 77)
    assert 0.2 < pictures.std() < 3
    wall_then, cpu_then = time.perf_counter(), cpu()
    for _ in range(count):
        next(iterator)
    samples = max(count, 1) * BATCH
    return {
        "first": first,
        "wall": (time.perf_counter() - wall_then) / samples,
        "cpu": (cpu() - cpu_then) / samples,
    }


if __name__ == "__main__":
    side, place, workers, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    if side == "floor":
        found = {"cpu": run_floor(place, count * BATCH)}
    else:
        found = run({"mmcl": of_mmcl, "open_clip": of_open_clip}[side](place, workers), count)
    print(json.dumps(found), flush=True)
    os._exit(0)  # an endless stream's workers need not be waited for
