"""Spectrograms beside transformers' feature extractors, and what the seam around an encoder costs.

The two sides run in turns in one process, on one thread; ratios are medians of the pairs.

    python benchmarks/towers.py [--only NAME] [--quick] [--json FILE]
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import Figure, spread
from transformers import ClapFeatureExtractor, WhisperFeatureExtractor

from mmcl.media import MELS, LogMel
from mmcl.model import MultiTower
from mmcl.towers import TOWERS, Tower


def seconds(work: Callable[[], Any], times: int = 1) -> float:
    """That one call takes."""
    start = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - start) / times


def in_turns(
    first: Callable[[], Any], second: Callable[[], Any], runs: int, times: int = 1
) -> list[tuple[float, float]]:
    """Seconds of both."""
    first(), second()
    return [(seconds(first, times), seconds(second, times)) for _ in range(runs)]


def logmel(quick: bool) -> Iterator[Figure]:
    """Batches of 16 sounds, as long as the models hear."""
    batch, runs = (2, 2) if quick else (16, 9)
    noise = np.random.default_rng(0)
    for name, goal, extractor in (
        ("clap", 3.0, ClapFeatureExtractor(frequency_min=50, truncation="rand_trunc")),
        ("whisper", 1.5, WhisperFeatureExtractor()),
    ):
        waves = (0.1 * noise.standard_normal((batch, 480_000))).astype(np.float32)
        rows, mel, said = torch.from_numpy(waves), LogMel(MELS[name]), list(waves)

        def theirs(extractor: Any = extractor, said: Any = said) -> Any:
            return extractor(said, sampling_rate=extractor.sampling_rate, return_tensors="pt")

        pairs = in_turns(theirs, lambda: mel(rows), runs)  # noqa: B023
        kind = type(extractor).__name__
        yield spread(f"log-mel {name}, {batch} sounds: {kind} / mmcl", [a / b for a, b in pairs], "x", goal, more=True)
        yield spread("  mmcl, a sound", [1e3 * b / batch for _, b in pairs], "ms")
        yield spread(f"  {kind}, a sound", [1e3 * a / batch for a, _ in pairs], "ms")
        pairs = in_turns(lambda: mel.masked(rows), lambda: mel(rows), runs)  # noqa: B023
        yield spread("  masked / of full rows", [a / b for a, b in pairs], "x")


class Nothing(torch.nn.Module):
    """What a backbone is asked for, and no work."""

    takes, patchy, varies, width = "vector", False, False, 8

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows."""
        return rows


def seam(quick: bool) -> Iterator[Figure]:
    """Calls of a tower above its backbone's own, and of a model of several towers of which one is asked."""
    runs, times = (2, 100) if quick else (15, 5_000)
    rows = torch.zeros(4, 8, requires_grad=True)  # as what a backbone that learns makes
    nothing: Any = Nothing()
    tower = Tower(nothing)
    alone, many = (MultiTower({f"m{i}": Tower(nothing) for i in range(n)}, 8) for n in (1, 8))
    pairs = in_turns(lambda: tower(rows), lambda: nothing(rows), runs, times)
    yield spread("seam: Tower above its backbone", [1e6 * (a - b) for a, b in pairs], "us")
    pairs = in_turns(lambda: alone({"m0": rows}), lambda: tower(rows), runs, times)
    yield spread("seam: MultiTower above its tower", [1e6 * (a - b) for a, b in pairs], "us")
    pairs = in_turns(lambda: many({"m0": rows}), lambda: alone({"m0": rows}), runs, times)
    yield spread("seam: seven absent modalities", [1e6 * (a - b) for a, b in pairs], "us")
    small = {"name": "vit", "image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "heads": 2}
    backbone: Any = TOWERS.check(small).made(dim=8)
    picture = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    with torch.no_grad():
        pairs = in_turns(lambda: tower(rows), lambda: backbone(picture), runs, times // 50)
    yield spread("seam: Tower / a ViT of two layers, one picture", [a / b for a, b in pairs], "", 0.05)


FIGURES: dict[str, Callable[[bool], Iterator[Figure]]] = {"logmel": logmel, "seam": seam}


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=FIGURES, help="one of the figures")
    parser.add_argument("--quick", action="store_true", help="few, to see that it works")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = [args.only] if args.only else FIGURES
    found = [figure.shown().record() for name in names for figure in FIGURES[name](args.quick)]
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
