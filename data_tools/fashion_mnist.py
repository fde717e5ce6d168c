"""The data set "fashion_mnist": ten kinds of clothes in 70,000 grey pictures of 28 by 28 pixels, under the MIT licence.

It is read from Debian's package dataset-fashion-mnist. A sample: ``png``, and ``json`` with ``label`` (a number),
``name`` (of the kind, as one would say it). Keys are the split and the place in its file.

Xiao et al., "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms", 2017.
https://arxiv.org/abs/1708.07747
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _debian import unpacked

from mmcl.data import write_shards
from mmcl.layouts import Mnist

KINDS = (
    "t-shirt", "pair of trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
    "ankle boot")  # fmt: skip
SPLITS = ("train", "test")
PER_SHARD = 5_000


def samples(root: Path, split: Any) -> Iterator[dict[str, Any]]:
    """One split in webdataset's form, in the order of its file."""
    for row in Mnist(split).samples(root):
        label = int(row.pop("cls"))
        yield {**row, "json": {"label": label, "name": KINDS[label]}}


def build(out: Path, source: Path | None = None) -> None:
    """Write ``out/train``, ``out/test``, and last ``out/manifest.json``.

    Args:
        out: folder to make.
        source: the .deb, a folder that holds it, or a folder with its content; without it, apt-get downloads it.
    """
    with unpacked("dataset-fashion-mnist", source) as content:
        installed = content / "usr/share/datasets/fashion-mnist"
        root = installed if installed.is_dir() else content
        for split in SPLITS:
            if not (out / split / "manifest.json").exists():
                write_shards(samples(root, split), out / split, samples_per_shard=PER_SHARD)
    counts = {split: json.loads((out / split / "manifest.json").read_text())["samples"] for split in SPLITS}
    (out / "manifest.json").write_text(json.dumps(counts))
