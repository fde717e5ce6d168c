"""Damaged files: 10,000 mutated inputs through the whole path, from a shard on the disk to a batch.

Goal: no crash, no hang, no exception but the error for a file that is no tar, and every sample accounted for: it is in
a batch, with each of its modalities present or listed as bad with a reason, or its shard is listed as damaged.

    python benchmarks/fuzz.py [--cases 10000] [--json FILE]
"""

import argparse
import io
import json
import multiprocessing
import os
import resource
import struct
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image

from mmcl.data import Source, Stream
from mmcl.errors import MmclError
from mmcl.media import AudioTransform, ImageTransform
from mmcl.types import Batch

SECONDS = 20  # a case may take, on a busy machine
MEMORY = 12 << 30  # bytes of address space: what asks for more is a bomb
KEYS = [f"k{i}" for i in range(4)]
IMAGES = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF"}
SOUNDS: dict[str, tuple[str, str | None]] = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", None),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", None),
}
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]


def image(kind: str) -> bytes:
    """A small picture with some structure."""
    y, x = np.mgrid[0:37, 0:53]
    pixels = np.stack([(x * 5) % 256, (y * 7) % 256, (x * y) % 256], -1).astype(np.uint8)
    Image.fromarray(pixels).save(out := io.BytesIO(), kind)
    return out.getvalue()


def sound(kind: str, subtype: str | None) -> bytes:
    """A quarter of a second of a tone."""
    tone = 0.3 * np.sin(np.arange(4_000) / 9).astype(np.float32)
    soundfile.write(out := io.BytesIO(), tone, 16_000, format=kind, subtype=subtype)
    return out.getvalue()


def array() -> bytes:
    """A few numbers."""
    np.save(out := io.BytesIO(), np.arange(12, dtype=np.float32).reshape(3, 4))
    return out.getvalue()


def files() -> dict[str, bytes]:
    """One file of every kind."""
    made = {extension: image(kind) for extension, kind in IMAGES.items()}
    made |= {extension: sound(*kind) for extension, kind in SOUNDS.items()}
    return made | {"npy": array(), "json": json.dumps({"caption": ["a", "b"], "n": {"m": 1.5}}).encode()}


def mutated(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Some damage, often in the first bytes, where headers are."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        end = len(out) if rng.random() < 0.5 else min(len(out), 128)
        place = int(rng.integers(0, max(end, 1)))
        kind = rng.choice(["flip", "extreme", "cut", "insert", "delete", "splice", "repeat", "zero"])
        size = int(rng.integers(1, 64))
        if kind == "flip" and out:
            out[place] ^= 1 << int(rng.integers(8))
        elif kind == "extreme":
            width, order = rng.choice(["B", "H", "I", "Q"]), rng.choice(["<", ">"])
            value = EXTREMES[int(rng.integers(len(EXTREMES)))] % (1 << 8 * struct.calcsize(width))
            packed = struct.pack(f"{order}{width}", value)
            out[place : place + len(packed)] = packed
        elif kind == "cut":
            del out[place:]
        elif kind == "insert":
            out[place:place] = rng.bytes(size)
        elif kind == "delete":
            del out[place : place + size]
        elif kind == "splice":
            out[place:] = other[int(rng.integers(0, max(len(other), 1))) :]
        elif kind == "repeat":
            out[place:place] = out[place : place + size] * int(rng.integers(1, 200))
        elif kind == "zero":
            out[place : place + size] = bytes(min(size, len(out) - place))
    return bytes(out)


def shard(members: dict[str, bytes], format: int, long_names: bool) -> bytes:
    """A tar of four samples with the same members."""
    with tarfile.open(fileobj=(out := io.BytesIO()), mode="w", format=format) as tar:
        for key in KEYS:
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{'long/' * 30 if long_names else ''}{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def case(seed: int, kinds: dict[str, bytes], folder: Path) -> str:
    """One damaged input; what became of it.

    Raises:
        AssertionError: something is not accounted for.
    """
    rng = np.random.default_rng(seed)
    extension = str(rng.choice([*kinds, "tar", "tar", "tar"]))
    name = extension if extension != "tar" else str(rng.choice(list(kinds)))
    other = kinds[str(rng.choice(list(kinds)))]
    members = {"txt": b"text", name: kinds[name] if extension == "tar" else mutated(kinds[name], other, rng)}
    long_names = bool(rng.random() < 0.3)
    format = tarfile.GNU_FORMAT if long_names else list(FORMATS.values())[int(rng.integers(3))]
    data = shard(members, format, long_names)
    if extension == "tar":
        data = mutated(data, data, rng)
    path = folder / f"{seed}.tar"
    path.write_bytes(data)
    where = "json:caption" if name == "json" else name
    transforms = {"value": ImageTransform(32, crop=(0.5, 1.0))} if name in IMAGES else {}
    transforms |= {"value": AudioTransform(8_000, 0.2)} if name in SOUNDS else {}
    source = Source(shards=str(path), modalities={"value": where, "text": "txt"})
    try:
        batches = list(Stream(source, batch_size=3, seed=seed, workers=int(seed % 2), transforms=transforms))
    except MmclError as error:
        told = ("no uncompressed tar", "hold no samples", "no sample of")
        if extension != "tar" or not any(words in str(error) for words in told):
            raise
        return "no tar"
    finally:
        for left in folder.glob(f"{seed}.tar*"):
            left.unlink()
    expected = {f"{'long/' * 30 if long_names else ''}{key}" for key in KEYS}
    return account(batches, expected, whole=extension != "tar")


def account(batches: list[Batch], expected: set[str], whole: bool) -> str:
    """See that everything is there or listed.

    Raises:
        AssertionError: it is not.
    """
    bad = [one for batch in batches for one in batch.bad]
    listed = {(one.key, one.modality) for one in bad}
    keys = {key for batch in batches for key in batch.keys}
    for batch in batches:
        for modality, there in batch.present.items():
            for key, here in zip(batch.keys, there.tolist(), strict=True):
                assert here or (key, modality) in listed, f"{modality} of {key} is absent without a reason"
        if isinstance(batch["value"], torch.Tensor):
            assert batch["value"].isfinite().all()
    assert not whole or keys == expected
    shard_told, renamed = any(not one.modality for one in bad), keys - expected
    assert keys >= expected or shard_told or renamed, f"{expected - keys} are missing without a word"
    return "damaged, told" if bad else "fine"


def work(seeds: list[int], current: Any, results: Any) -> None:
    """Run cases; `current` says which one, so that a crash or a hang has a name."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders talk to the standard error themselves
    kinds = files()
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            current[0], current[1] = seed, time.time()
            try:
                results.put((seed, case(seed, kinds, Path(folder))))
            except BaseException as error:
                results.put((seed, f"FAILED {type(error).__name__}: {error}"))
    current[0] = -1


def run(seeds: list[int], processes: int = 2, say: Callable[[str], None] = print) -> Counter[str]:
    """Outcomes of cases, run in processes of their own."""
    context = multiprocessing.get_context("fork")
    outcomes: Counter[str] = Counter()
    waiting = [seeds[i : i + 200] for i in range(0, len(seeds), 200)]
    running: list[tuple[Any, Any, Any, list[int]]] = []
    while waiting or running:
        while waiting and len(running) < processes:
            chunk, current, results = waiting.pop(0), context.Array("d", [-1.0, time.time()]), context.Queue()
            process = context.Process(target=work, args=(chunk, current, results))
            process.start()
            running.append((process, current, results, chunk))
        time.sleep(0.02)
        for entry in list(running):
            process, current, results, chunk = entry
            seen = outcomes.total()
            while not results.empty():
                seed, outcome = results.get()
                chunk.remove(seed)
                outcomes[outcome.partition(":")[0]] += 1
                if outcome.startswith("FAILED"):
                    say(f"seed {seed}: {outcome}")
            hung = time.time() - current[1] > SECONDS and process.is_alive() and current[0] >= 0
            if hung:
                process.kill()
            if hung or (not process.is_alive() and results.empty() and outcomes.total() == seen):
                process.join()
                running.remove(entry)
                if chunk:  # it died, or was killed, with a case in its hands
                    culprit = int(current[0])
                    outcomes["HANG" if hung else "CRASH"] += 1
                    say(f"seed {culprit}: {'hangs' if hung else f'crash, exit code {process.exitcode}'}")
                    chunk.remove(culprit)
                    waiting.append(chunk)
    return outcomes


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    start = time.time()
    outcomes = run(list(range(options.first, options.first + options.cases)), len(os.sched_getaffinity(0)))
    for outcome, count in outcomes.most_common():
        print(f"{count:>8,}  {outcome}")
    print(f"{outcomes.total():,} cases in {time.time() - start:.0f} s")
    wrong = sum(count for outcome, count in outcomes.items() if outcome.isupper() or outcome.startswith("FAILED"))
    total = outcomes.total()
    lost = {
        "figure": "crashes, hangs, exceptions, samples lost in silence",
        "value": wrong,
        "unit": "cases",
        "goal": "0",
    }
    figures = [
        {"figure": "mutated inputs", "value": total, "unit": "cases", "goal": ">= 10,000", "holds": total >= 10_000},
        {**lost, "holds": wrong == 0},
    ]
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
