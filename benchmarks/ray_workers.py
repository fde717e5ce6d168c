"""Exports by one worker of Ray and by two, and by this process alone: samples a second, and the bytes.

Clusters are of this machine (`ray.cluster_utils`): one node of one processor, or two of them, so that an actor has one
thread for its towers; another reads and decodes. Pictures and captions are those of `embedding.py`, ViT-B-32 of
open_clip has random weights. Samples a second are counted from the instant at which a quarter of the parts was whole to
that of the last one, by the times of the files: opening the model is left out. On a machine of two processors decoding
and Ray's own processes have none of their own. All exports must be the same bytes, or it ends with 1.

    python benchmarks/ray_workers.py [--quick] [--pairs N] [--json FILE] [--cache DIR]
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embedding import model
from figures import Figure, main, spread
from peers import CACHE
from pictures import PER_SHARD, shards

import mmcl
from mmcl.data import Source
from mmcl.embed import embed_shards

NAME, SHARDS, PART = "ViT-B-32", 4, 16


def exported(folder: Path, place: Path, nodes: int) -> tuple[float, bytes]:
    """Samples a second of an export on so many nodes of Ray, none for this process; and its manifest.

    The manifest has the digests of all files.
    """
    said, weights = model(folder, NAME)
    encoder = mmcl.load(f"open_clip:{said}", weights=weights, device="cpu")
    source = Source(shards=str(place), modalities={"image": "jpg", "text": "txt"})
    out = folder / f"{nodes}"
    shutil.rmtree(out, ignore_errors=True)
    more: dict[str, Any] = {}
    if nodes:
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        more = {"engine": "ray", "address": cluster.address}
    try:
        embed_shards(encoder, source, out, dtype="fp16", batch_size=PART, part_size=PART, workers=1, **more)
    finally:
        if nodes:
            ray.shutdown()
            cluster.shutdown()
    ended = sorted(path.stat().st_mtime for path in (out / "img_emb").glob("*.npy"))
    first = len(ended) // 4
    return PART * (len(ended) - 1 - first) / (ended[-1] - ended[first]), (out / "manifest.json").read_bytes()


def figures(args: argparse.Namespace) -> Iterator[Figure]:
    """All of them."""
    os.environ |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "RAY_DISABLE_METRICS_COLLECTION": "1"}
    count = 1 if args.quick else SHARDS
    place = shards(args.cache / "pictures", "0.19 Mpx", count, count)
    yield Figure("load of the machine before", os.getloadavg()[0], "")
    with tempfile.TemporaryDirectory() as folder:
        runs = [[exported(Path(folder), place, nodes) for nodes in (1, 2)] for _ in range(args.pairs)]
        alone = exported(Path(folder), place, 0)
    if len({manifest for run in [*runs, [alone]] for _, manifest in run}) > 1:
        sys.exit("exports differ")
    goal = None if args.quick or (os.cpu_count() or 1) < 2 else 1.7
    yield spread(f"{NAME}: 2 workers / 1", [two[0] / one[0] for one, two in runs], "x", goal, True)
    for number, said in enumerate(("1 worker", "2 workers")):
        yield spread(f"  {said}", [run[number][0] for run in runs], "samples/s")
    yield Figure("  this process alone, two threads", alone[0], "samples/s")
    yield Figure("  samples", count * PER_SHARD, "")


if __name__ == "__main__":
    main(__doc__, [NAME], "a quarter of the shards", figures, CACHE)
