"""What mmcl's evaluators and clip-benchmark's own functions say of the same ready vectors, each in its own process.

    python benchmarks/scorers.py SIDE FOLDER... [--intervals]      # SIDE: mmcl, or clip_benchmark in its environment

A folder holds `case.json` and `vectors.safetensors` (`write_case`). Prints a JSON list with a record a folder: the
`metrics`, under clip-benchmark's names, and what measuring took, imports and reading aside: `seconds`, `cpu` (seconds
of all threads), `peak` (MB: the most that was resident, above what was before: the vectors, and the libraries).

The towers are stand-ins on both sides: a text is a number, and its vector is that row of a table. clip-benchmark gets
them through the model, the tokenizer and the loader that its `evaluate` takes, in batches of 64, its default; mmcl as a
task hands them to an evaluator.
"""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

BATCH = 64
NAMES = {"text_to_image/recall@": "image_retrieval_recall@", "image_to_text/recall@": "text_retrieval_recall@"}


class Case(NamedTuple):
    """What is measured."""

    said: Mapping[str, Any]
    """`task`: `retrieval` (`at`; of mmcl `equal_texts` and `captions`, the words of each text) or `zeroshot`
    (`templates`, how many) or `linear_probe` (`c`, of mmcl); `amp`: whether clip-benchmark computes as it does unless
    it is told `--no_amp`."""
    tensors: Mapping[str, Tensor]
    """Of retrieval `images`, `texts` and `owner`, each text's image, ascending; of zero-shot classification `images`,
    `texts` (class by class, a row a template) and `labels` (numbers, or rows of flags); of the probe `images`,
    `labels`, `train_images` and `train_labels`."""


def write_case(folder: Path, said: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """A folder that both sides read."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "case.json").write_text(json.dumps(said))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "vectors.safetensors")
    return folder


def read_case(folder: Path) -> Case:
    """What `write_case` wrote."""
    return Case(json.loads((folder / "case.json").read_text()), load_file(folder / "vectors.safetensors"))


def row_of(prompt: str, templates: int) -> int:
    """The row of the table of a prompt: `3 17` is the third template of class 17."""
    template, name = prompt.split()
    return int(name) * templates + int(template)


def of_clip_benchmark(case: Case) -> Callable[[], dict[str, float]]:
    """clip-benchmark's `evaluate`, unchanged."""
    if case.said["task"] == "linear_probe":
        return lambda: _their_probe(case)
    from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval

    x, said, amp = case.tensors, case.said, bool(case.said.get("amp", False))
    last = torch.eye(x["images"].shape[1])

    class Model:
        """Towers whose last layer is a product, which autocast computes in bf16."""

        def encode_image(self, rows: Tensor) -> Tensor:
            return rows @ last if amp else rows

        def encode_text(self, numbers: Tensor) -> Tensor:
            return x["texts"][numbers] @ last if amp else x["texts"][numbers]

    starts = range(0, len(x["images"]), BATCH)
    if said["task"] == "retrieval":
        ends = torch.searchsorted(x["owner"], torch.arange(len(x["images"])), right=True).tolist()
        texts = [[str(row) for row in range(a, b)] for a, b in zip([0, *ends], ends, strict=False)]
        loader: Any = [(x["images"][s : s + BATCH], texts[s : s + BATCH]) for s in starts]
        return lambda: zeroshot_retrieval.evaluate(
            Model(), loader, lambda some: torch.tensor([int(t) for t in some]), "cpu", amp, said["at"]
        )

    class Loader(list):
        dataset = SimpleNamespace(classes=names_of_classes(case))

    loader = Loader([(x["images"][s : s + BATCH], x["labels"][s : s + BATCH]) for s in starts])
    count = said["templates"]
    return lambda: zeroshot_classification.evaluate(
        Model(),
        loader,
        lambda some: torch.tensor([row_of(prompt, count) for prompt in some]),
        names_of_classes(case),
        [f"{template} {{c}}" for template in range(count)],
        "cpu",
        amp,
    )


def _their_probe(case: Case) -> dict[str, float]:
    """What its `linear_probe.evaluate` does with vectors, unless it is told otherwise; that asks for a GPU.

    `train` moves to a GPU what it is given; here it stays where it is.
    """
    from clip_benchmark.metrics import linear_probe as probe
    from torch.utils.data import DataLoader, TensorDataset

    torch.nn.Module.cuda = torch.Tensor.cuda = lambda self, *_: self  # type: ignore[method-assign]
    x = case.tensors
    known, asked = (TensorDataset(x[f"{name}images"], x[f"{name}labels"]) for name in ("train_", ""))
    classes = int(x["train_labels"].max()) + 1
    shuffled = DataLoader(known, batch_size=BATCH, shuffle=True)
    model = probe.train(shuffled, x["images"].shape[1], classes, 0, 0.1, 10, False, "cpu", 0)
    logits, target = probe.infer(model, DataLoader(asked, batch_size=BATCH), False, "cpu")
    acc1, acc5 = probe.accuracy(logits.float(), target.float(), topk=(1, 5))
    recall = probe.balanced_accuracy_score(target, logits.argmax(axis=1))
    return {"lp_acc1": acc1, "lp_acc5": acc5, "lp_mean_per_class_recall": recall}


def names_of_classes(case: Case) -> list[str]:
    """Their numbers."""
    return [str(number) for number in range(len(case.tensors["texts"]) // case.said["templates"])]


class Table:
    """Embeds prompts by rows of a table.

    Args:
        case: whose texts and templates these are.
    """

    def __init__(self, case: Case) -> None:
        self.rows, self.templates = case.tensors.get("texts"), case.said.get("templates", 0)

    def embed(self, modality: str, values: Sequence[str]) -> Tensor:
        """Unit vectors."""
        assert self.rows is not None
        return F.normalize(self.rows[torch.tensor([row_of(prompt, self.templates) for prompt in values])], dim=-1)


def of_mmcl(case: Case, with_intervals: bool = False) -> Callable[[], dict[str, float]]:
    """An evaluator of mmcl, as a task calls it."""
    from mmcl.evaluators import Embedded, Evaluator, Items, LinearProbe, Retrieval, ZeroShot, intervals

    x, said = case.tensors, case.said
    count = len(x["images"])
    keys, ids = [str(number) for number in range(count)], torch.arange(count)
    evaluator: Evaluator
    if said["task"] == "retrieval":
        words = said.get("captions") or [str(row) for row in range(len(x["texts"]))]
        texts: list[list[str]] = [[] for _ in keys]
        for word, owner in zip(words, x["owner"].tolist(), strict=True):
            texts[owner].append(word)
        items = Items(keys, ids, {"text": texts})
        evaluator = Retrieval(("text", "image"), at=said["at"], equal_texts=said.get("equal_texts", True))
        data = Embedded(items, {"image": x["images"], "text": x["texts"]}, {"image": ids, "text": x["owner"]})
    elif said["task"] == "linear_probe":
        both = []
        for name in ("train_", ""):
            labels = {"label": [[str(label)] for label in x[f"{name}labels"].tolist()]}
            own = torch.arange(len(x[f"{name}images"]))
            items = Items([str(number) for number in own.tolist()], own, labels)
            both.append(Embedded.single({"image": x[f"{name}images"]}, items, both[0] if both else None))
        data, evaluator = both[1], LinearProbe("image", **({"c": said["c"]} if "c" in said else {}))
    else:
        several = x["labels"].ndim == 2
        labels = {} if several else {"label": [[str(label)] for label in x["labels"].tolist()]}
        items = Items(keys, ids, labels, {"label": x["labels"].float()} if several else {})
        evaluator = ZeroShot(
            "image",
            names_of_classes(case),
            [f"{template} {{c}}" for template in range(said["templates"])],
            labels="several" if several else "one",
        )
        data = Embedded.single({"image": x["images"]}, items)
    evaluator.check(items, data.train and data.train.items)
    probed = "lp_" if said["task"] == "linear_probe" else ""

    def measure() -> dict[str, float]:
        figures = evaluator.measure(data, Table(case)).figures
        if with_intervals:
            intervals(figures)
        return {f"{probed}{their_name(name)}": figure.value for name, figure in figures.items()}

    return measure


def their_name(metric: str) -> str:
    """What clip-benchmark calls a metric."""
    return next((f"{new}{metric.removeprefix(old)}" for old, new in NAMES.items() if metric.startswith(old)), metric)


def timed(measure: Callable[[], dict[str, float]]) -> dict[str, Any]:
    """The record of one measurement."""
    import resident  # where this is a script

    before, wall, cpu = resident.begin(), time.perf_counter(), time.process_time()
    metrics = measure()
    took = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return {"metrics": metrics, **took, "peak": resident.above(before)}


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=["mmcl", "clip_benchmark"])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--intervals", action="store_true", help="mmcl's 95 %% bootstrap intervals, too")
    args = parser.parse_args()
    found = []
    for folder in args.folders:
        case = read_case(folder)
        measure = of_clip_benchmark(case) if args.side == "clip_benchmark" else of_mmcl(case, args.intervals)
        with contextlib.redirect_stdout(sys.stderr):  # where clip-benchmark tells what it does
            found.append(timed(measure))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
