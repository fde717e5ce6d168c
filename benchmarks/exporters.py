"""One export of shards, by mmcl or by clip-retrieval's clip_inference, or the forward of the towers alone.

    python benchmarks/exporters.py SIDE CASE.json      # mmcl, growth, forward; clip_retrieval in its environment

A case says `model` (the name of an open_clip model, or of the JSON file beside it), `weights`, `shards` (paths), `out`,
`batch_size`, `part_size`, `workers`, `samples`. Prints a JSON record: `seconds`, `cpu` (seconds of all threads and
processes), `peak` (MB: the most that was resident in this process above what was before), `samples`. Imports, opening
the model and one batch of each tower to warm up are before that on every side. `growth` is `mmcl`, a quarter of the
parts first and then the others; its peak is of the others, and `first` of the quarter.

The seconds of clip_inference are those that it counts itself (`total_duration` of its stats: reading, inference and
writing, batch by batch), since starting and ending its process that logs takes longer than a small export.
"""

import contextlib
import json
import resource
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import resident

Case = dict[str, Any]
Run = Callable[[], dict[str, Any]]
"""An export, and what it says of itself: `samples`, perhaps `seconds`."""


def of_mmcl(case: Case) -> Run:
    """`mmcl embed`, as its command line does it."""
    embed = _embed(case)

    def run() -> dict[str, Any]:
        return {"samples": embed()["samples"]}

    return run


def of_growth(case: Case) -> Run:
    """The same, in two calls."""
    embed = _embed(case)

    def run() -> dict[str, Any]:
        before = resident.begin()
        embed(parts=(0, 4))
        first = resident.above(before)
        now = resident.begin()
        samples = embed()["samples"]
        return {"first": first, "peak": resident.above(now) + now - before, "samples": samples}

    return run


def _embed(case: Case) -> Callable[..., Any]:
    """The function, with a warm model."""
    import mmcl
    from mmcl.data import Source
    from mmcl.embed import embed_shards

    encoder = mmcl.load(f"open_clip:{case['model']}", weights=case["weights"], device="cpu")
    encoder.embed("text", ["warm"] * case["batch_size"])
    encoder.embed("image", [_red()] * case["batch_size"])
    source = Source(shards=case["shards"], modalities={"image": "jpg", "text": "txt"})
    settings = {name: case[name] for name in ("batch_size", "workers")}
    return partial(embed_shards, encoder, source, case["out"], dtype="fp16", part_size=case["part_size"], **settings)


def of_forward(case: Case) -> Run:
    """Rows that are ready through both towers, and nothing else."""
    import mmcl

    encoder = mmcl.load(f"open_clip:{case['model']}", weights=case["weights"], device="cpu")
    rows = {
        "image": encoder.rows("image", [_red()] * case["batch_size"]),
        "text": encoder.rows("text", ["a red old temple in the garden"] * case["batch_size"]),
    }
    for modality, some in rows.items():
        encoder.embed_rows(modality, some)

    def run() -> dict[str, Any]:
        done = 0
        while done < case["samples"]:
            for modality, some in rows.items():
                encoder.embed_rows(modality, some)
            done += case["batch_size"]
        return {"samples": done}

    return run


def of_clip_retrieval(case: Case) -> Run:
    """clip_inference's worker, unchanged; its model is opened, and warm, before: it keeps that by its arguments."""
    import open_clip
    from all_clip import load_clip
    from clip_retrieval.clip_inference.worker import worker

    name = case["model"]
    if name.endswith(".json"):
        open_clip.add_model_config(name)
        name = Path(name).stem
    model = {"clip_model": f"open_clip:{name}/{case['weights']}", "use_jit": False, "clip_cache_path": None}
    load_clip(warmup_batch_size=case["batch_size"], **model)
    load_clip(warmup_batch_size=1, **model)

    def run() -> dict[str, Any]:
        worker(
            tasks=[0],
            input_dataset=case["shards"],
            output_folder=case["out"],
            output_partition_count=1,
            input_format="webdataset",
            batch_size=case["batch_size"],
            num_prepro_workers=case["workers"],
            **model,
        )
        stats = json.loads(Path(case["out"], "stats", "0.json").read_text())
        return {"samples": stats["sample_count"], "seconds": stats["total_duration"]}

    return run


def _red() -> Any:
    from PIL import Image

    return Image.new("RGB", (500, 375), "red")


def cpu() -> float:
    """Seconds of this process and of those that have ended."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in both)


def main() -> None:
    """See above."""
    side, case = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    shutil.rmtree(case["out"], ignore_errors=True)
    sides = {"mmcl": of_mmcl, "growth": of_growth, "forward": of_forward, "clip_retrieval": of_clip_retrieval}
    with contextlib.redirect_stdout(sys.stderr):
        run = sides[side](case)
        before, wall, used = resident.begin(), time.perf_counter(), cpu()
        said = run()
        record = {"seconds": time.perf_counter() - wall, "cpu": cpu() - used, "peak": resident.above(before)}
    print(json.dumps({**record, **said}))


if __name__ == "__main__":
    main()
