"""Time and memory of objectives, beside their forms with full matrices.

Times are of forward and backward together, on unit vectors of 512 dimensions in fp32, two threads: the two sides in
turns in one process, ratios are medians of the pairs. Memory is measured in a fresh process each: the most that was
resident, above what was before (inputs among it) and above the gradients that are returned.

    python benchmarks/objectives.py [--only NAME] [--quick] [--json FILE]
    python benchmarks/objectives.py --table docs/objectives.json     # cost against batch and modalities, for the docs
    python benchmarks/objectives.py --plot docs/objectives.json      # its picture, docs/objectives.png, and its table
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from figures import Figure, spread
from open_clip.loss import ClipLoss
from torch import Tensor

import mmcl

DIM = 512
NAMES = ("text", "image", "audio", "depth", "thermal", "motion")
STAR: dict[str, Any] = {"score": "cosine", "anchor": "text"}  # pairwise InfoNCE of the anchor with each other
Rows = Mapping[str, Tensor]


def rows(batch: int, k: int) -> dict[str, Tensor]:
    """Unit vectors of k modalities that have half in common."""
    torch.manual_seed(0)
    base = torch.randn(batch, DIM)
    return {m: F.normalize(base + torch.randn(batch, DIM), dim=1).requires_grad_() for m in NAMES[:k]}


def step(objective: Callable[[Rows], Tensor], x: Rows) -> float:
    """Seconds of forward and backward."""
    for t in x.values():
        t.grad = None
    start = time.perf_counter()
    objective(x).backward()
    return time.perf_counter() - start


def ours(said: Any) -> Callable[[Rows], Tensor]:
    """An objective of mmcl."""
    objective = mmcl.objective(said)
    return lambda x: objective(x).total


def open_clip() -> Callable[[Rows], Tensor]:
    """open_clip's loss as it is, at the temperature of 0.07."""
    loss, scale = ClipLoss(), torch.tensor(1 / 0.07, requires_grad=True)
    return lambda x: loss(x["image"], x["text"], scale)


def volumes(anchor: Tensor, *others: Tensor) -> Tensor:
    """Volumes as published: a k x k determinant for every pair."""
    n, m = anchor.shape[0], others[0].shape[0]
    own = (anchor * anchor).sum(-1)[:, None].expand(n, m)
    cross = [anchor @ x.T for x in others]
    lines = [torch.stack([own, *cross], -1)]
    for x, c in zip(others, cross, strict=True):
        lines.append(torch.stack([c, *((x * y).sum(-1)[None].expand(n, m) for y in others)], -1))
    return torch.linalg.det(torch.stack(lines, -2)).abs().sqrt()


def published_gram() -> Callable[[Rows], Tensor]:
    """The loss as published: the matrix of volumes once a direction, label smoothing 0.1."""
    temperature = torch.tensor(0.07, requires_grad=True)

    def loss(x: Rows) -> Tensor:
        vectors, y = list(x.values()), torch.arange(x["text"].shape[0])
        logits = (-volumes(*vectors) / temperature, -volumes(*vectors).T / temperature)
        return sum(F.cross_entropy(z, y, label_smoothing=0.1) for z in logits) / torch.tensor(2.0)

    return loss


def floor(batch: int, side: int = 1024) -> Callable[[], None]:
    """The matrix products alone that one pass with recomputation takes: 4 B^2 d multiplications."""
    x, y = (t.detach() for t in rows(batch, 2).values())
    tile, of_x, of_y = torch.empty(side, side), torch.zeros_like(x), torch.zeros_like(y)

    def products() -> None:
        for i in range(0, batch, side):
            for j in range(0, batch, side):
                for _ in range(2):
                    torch.mm(x[i : i + side], y[j : j + side].T, out=tile)
                of_x[i : i + side].addmm_(tile, y[j : j + side])
                of_y[j : j + side].addmm_(tile.T, x[i : i + side])

    return products


def in_turns(
    first: Callable[[], float], second: Callable[[], float], runs: int
) -> tuple[list[float], list[float], list[float]]:
    """Times of both, and their ratios."""
    first(), second()
    pairs = [(first(), second()) for _ in range(runs)]
    return [a for a, _ in pairs], [b for _, b in pairs], [a / b for a, b in pairs]


def timed(work: Callable[[], None]) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def memory(said: Any, batch: int, k: int) -> tuple[float, float]:
    """(MB, seconds) of one step in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", json.dumps([said, batch, k])],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    mb, seconds = json.loads(done.stdout.splitlines()[-1])
    return mb, seconds


def measure(said: Any, batch: int, k: int) -> None:
    """What `memory` asks of a process."""
    objective = ours(said) if said != "published" else published_gram()
    step(objective, rows(64, k))
    x = rows(batch, k)
    resident = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    seconds = step(objective, x)
    returned = sum(t.numel() * 4 for t in x.values()) / 1e6
    print(json.dumps([_status("VmHWM") - resident - returned, seconds]))


def _status(field: str) -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) * 1024 / 1e6


def softmax(quick: bool) -> Iterator[Figure]:
    """Symmetric InfoNCE of cosines."""
    batch, runs = (1024, 3) if quick else (8192, 7)
    x = rows(batch, 2)
    mine, theirs = ours("clip"), open_clip()
    a, b, ratios = in_turns(lambda: step(mine, x), lambda: step(theirs, x), runs)
    yield spread(f"softmax B={batch}: mmcl / open_clip.ClipLoss", ratios, "x", 0.5)
    yield spread("  mmcl", a, "s")
    yield spread("  open_clip.ClipLoss", b, "s")
    products = floor(batch)
    _, _, shares = in_turns(lambda: timed(products), lambda: step(mine, x), runs)
    yield spread("  share of the floor, its matrix products alone", shares, "")
    _, _, shares = in_turns(lambda: timed(products), lambda: step(theirs, x), runs)
    yield spread("  the floor / open_clip.ClipLoss", shares, "")
    yield Figure(f"softmax B={batch}: extra memory", memory("clip", batch, 2)[0], "MB", 100)
    if not quick:
        mb, seconds = memory("clip", 32768, 2)
        yield Figure("softmax B=32768: extra memory", mb, "MB", 700, said=f"{seconds:.0f} s")


def gram(quick: bool) -> Iterator[Figure]:
    """Volumes with one anchor."""
    batch, runs = (512, 3) if quick else (2048, 5)
    for k in (3, 4):
        x = rows(batch, k)
        mine, published, pairwise = ours("gram_volume"), published_gram(), ours(STAR)
        _, _, ratios = in_turns(lambda: step(published, x), lambda: step(mine, x), runs)  # noqa: B023
        yield spread(f"gram k={k} B={batch}: as published / mmcl", ratios, "x", 6, more=True)
        yield Figure(f"gram k={k} B={batch}: extra memory", memory("gram_volume", batch, k)[0], "MB", 100)
        yield Figure("  as published", memory("published", batch, k)[0], "MB")
        _, _, ratios = in_turns(lambda: step(mine, x), lambda: step(pairwise, x), 2 * runs)  # noqa: B023
        yield spread(f"gram k={k} B={batch}: / pairwise InfoNCE with the anchor", ratios, "x", 1.3)
    if not quick:
        mb, seconds = memory("gram_volume", 16384, 4)
        yield Figure("gram k=4 B=16384: extra memory", mb, "MB", 800, said=f"{seconds:.0f} s")


def others(quick: bool) -> Iterator[Figure]:
    """What owes linear memory and no time: the whole matrix of 8192 rows is 268 MB."""
    batch = 1024 if quick else 8192
    for name, k in (
        ("siglip", 2),
        ("triangle", 3),
        ("symile", 3),
        ("cuaxu", 2),
        ("meru_contrastive", 2),
        ("hn_nce", 2),
    ):
        mb, seconds = memory(name, batch, k)
        yield Figure(f"{name} B={batch}: extra memory", mb, "MB", said=f"{seconds:.1f} s")


def table(path: Path, quick: bool) -> None:
    """Cost against batch and number of modalities."""
    batches, numbers = ((256, 512), (2, 3)) if quick else ((1024, 2048, 4096, 8192, 16384, 32768), (2, 3, 4, 5, 6))
    found = []
    cells = [(b, k) for b in batches for k in numbers if k <= {16384: 4, 32768: 2}.get(b, 6)]  # minutes each beyond
    for said, k, batch in [(s, k, b) for b, k in cells for s in ("gram_volume", "pairwise")]:
        mb, seconds = memory(STAR if said == "pairwise" else said, batch, k)
        found.append({"objective": said, "k": k, "batch": batch, "seconds": round(seconds, 3), "MB": round(mb)})
        print(found[-1], flush=True)
        path.write_text(json.dumps(found, indent=1) + "\n")


def plot(path: Path) -> None:
    """Picture of a table beside it, and the table in Markdown."""
    found = json.loads(path.read_text())
    numbers = sorted({row["k"] for row in found})
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for color, k in zip(plt.cm.viridis(np.linspace(0, 0.85, len(numbers))), numbers, strict=True):
        for said, style in (("gram_volume", "-"), ("pairwise", ":")):
            line = sorted((r["batch"], r["seconds"], r["MB"]) for r in found if (r["k"], r["objective"]) == (k, said))
            for axis, column in zip(axes, (1, 2), strict=True):
                label = f"{k} modalities" if said == "gram_volume" else None
                axis.plot([r[0] for r in line], [r[column] for r in line], style, color=color, marker=".", label=label)
    for axis, what in zip(axes, ("seconds, forward and backward", "extra memory, MB"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="batch", ylabel=what)
        axis.set_xticks(ticks := sorted({row["batch"] for row in found}), [f"{t:,}" for t in ticks], minor=False)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend(title="gram (dotted: pairwise)")
    figure.savefig(path.with_suffix(".png"), dpi=110)
    print("| batch |" + "".join(f" {k}: gram | pairwise |" for k in numbers))
    print("|---|" + "---|---|" * len(numbers))
    cells = {(r["batch"], r["k"], r["objective"]): f"{r['seconds']:.3g} s, {r['MB']} MB" for r in found}
    for batch in sorted({row["batch"] for row in found}):
        row = (cells.get((batch, k, said), "") for k in numbers for said in ("gram_volume", "pairwise"))
        print(f"| {batch:,} | " + " | ".join(row) + " |")


FIGURES: dict[str, Callable[[bool], Iterator[Figure]]] = {"softmax": softmax, "gram": gram, "others": others}


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=FIGURES, help="one of the figures")
    parser.add_argument("--quick", action="store_true", help="small batches, to see that it works")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--table", type=Path, help="write cost against batch and modalities there, and nothing else")
    parser.add_argument("--plot", type=Path, help="draw the table that --table wrote, and print it")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(2)
    if args.measure:
        measure(*json.loads(args.measure))
    elif args.plot:
        plot(args.plot)
    elif args.table:
        table(args.table, args.quick)
    else:
        names = [args.only] if args.only else FIGURES
        found = [figure.shown().record() for name in names for figure in FIGURES[name](args.quick)]
        if args.json:
            args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
