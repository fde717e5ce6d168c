"""The numbers of clip-benchmark 1.6.2, of the same model, weights and shards; and where the two differ, which is right.

clip-benchmark runs unchanged, in its own environment (`benchmarks/peers.py`): its commands over folders of its layout,
and its functions on ready vectors (`benchmarks/scorers.py`). `docs/clip_benchmark.md` quotes what is seen here.
"""

import csv
import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import mmcl
from mmcl.tasks import Measured, load_task
from tests.evaluators.clip_benchmark_folders import (
    RETRIEVAL,
    ZEROSHOT,
    array,
    encoded,
    pictures,
    write_folder,
    write_model,
    write_task,
)

pytestmark = pytest.mark.slow  # the first one makes the environment: minutes

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COUNT, CLASSES = 90, 12
NAMES = [f"{size} {thing}" for size in ("small", "red", "old") for thing in ("sea", "dog", "boat", "moon")]
TEMPLATES = ["a photo of the {c}.", "{c}", "a drawing of {c} at night"]
COMMANDS = (  # several commands in one process, with a model of a configuration file
    "import json, sys, open_clip; open_clip.add_model_config(sys.argv[1])\n"
    "from clip_benchmark.cli import main\n"
    "for words in json.loads(sys.argv[2]):\n"
    "    sys.argv[1:] = words\n"
    "    main()\n"
)
EQUAL = 1e-6


def script(name: str) -> ModuleType:
    """A file of `benchmarks/`."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def python() -> Path:
    """That of clip-benchmark's environment."""
    return script("peers").interpreter("clip_benchmark")


def run(command: list[Any]) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


class Data(NamedTuple):
    """Folders of data sets, the model, and what each program says of them."""

    folder: Path
    model: Path
    weights: Path
    theirs: dict[str, dict[str, float]]  # of "fp32/colours", "amp/colours", ...
    ours: Callable[..., Measured]


def labelled(scores: torch.Tensor, seed: int = 0) -> list[int]:
    """Labels of items: a class that is among the first eight of each, so that accuracies lie between 0 and 1."""
    rng = np.random.default_rng(seed)
    order = scores.argsort(1, descending=True)
    return [int(row[rng.integers(8)]) for row in order]


def captions(encoder: Any, images: torch.Tensor, seed: int = 0) -> list[list[str]]:
    """Some captions of each picture, no two alike: texts to which the picture is one of the nearest eight."""
    rng = np.random.default_rng(seed)
    words = [f"{a} {b}" for a in ["red", "green", "blue", "grey", "dark", "pale", "wide", "tall"] for b in NAMES]
    texts = [f"{a} by {b}" for a in words for b in ("night", "day", "sea", "road", "snow")]
    found: list[list[str]] = [[] for _ in images]
    spread = images - images.mean(0)  # or a few pictures would be near to all texts
    near = (encoder.embed("text", texts) @ spread.T).argsort(1, descending=True)[:, :8].tolist()
    for text, some in zip(texts, near, strict=True):
        fewest = min(some, key=lambda row: (len(found[row]), rng.random()))
        if len(found[fewest]) < 5:
            found[fewest].append(text)
    return [some or [f"picture {row}"] for row, some in enumerate(found)]


def write_sets(folder: Path, encoder: Any) -> None:
    """The data sets."""
    rng, shown = np.random.default_rng(0), pictures(COUNT)
    files = [{("webp", "png")[i >= 40]: encoded(p, ("webp", "png")[i >= 40])} for i, p in enumerate(shown)]
    texts = encoder.embed("text", [t.replace("{c}", name) for name in NAMES for t in TEMPLATES])
    stands = F.normalize(texts.unflatten(0, (CLASSES, len(TEMPLATES))).mean(1), dim=-1)
    scores = encoder.embed("image", shown) @ stands.T
    labels = labelled(scores)
    said = {"templates": TEMPLATES}
    for name, of, names in (("colours", labels, NAMES), ("turned", [11 - n for n in labels], NAMES[::-1])):
        samples = [{**file, "cls": str(label).encode()} for file, label in zip(files, of, strict=True)]
        write_folder(folder / name, samples, 40, classes=names, **said)
    few = labelled(torch.cat([scores[:, :3]] * 3, 1))  # of three classes
    write_folder(
        folder / "few",
        [{**file, "cls": str(n % 3).encode()} for file, n in zip(files, few, strict=True)],
        40,
        classes=NAMES[:3],
        **said,
    )
    flags = (rng.random((COUNT, CLASSES)) < 0.2).astype(int)
    flags[0] = 1
    nobody = flags.copy()
    nobody[:, 7] = 0
    for name, of in (("several", flags), ("nobody", nobody)):
        samples = [{**file, "npy": array(row)} for file, row in zip(files, of.tolist(), strict=True)]
        write_folder(folder / name, samples, 40, "multilabel", NAMES, TEMPLATES)
    said_of = captions(encoder, encoder.embed("image", shown))
    doubled = [["a picture of the sea", *some[1:]] if i % 3 == 0 else some for i, some in enumerate(said_of)]
    for name, of in (("captions", said_of), ("doubled", doubled)):
        samples = [{**file, "txt": "\n".join(some).encode()} for file, some in zip(files, of, strict=True)]
        write_folder(folder / name, samples, 40, "retrieval")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, python: Path) -> Data:
    folder = tmp_path_factory.mktemp("clip_benchmark")
    model, weights = write_model(folder)
    encoder = mmcl.load(f"open_clip:{model}", "cpu", weights=weights)
    write_sets(folder, encoder)
    base = ["eval", "--model", "small", "--pretrained", weights, "--dataset_root", folder / "{dataset}"]
    base += ["--num_workers", 0, "--batch_size", 16]
    classified = ["--dataset", *(f"wds/{name}" for name in ("colours", "turned", "few", "several", "nobody"))]
    retrieved = ["--task", "zeroshot_retrieval", "--dataset", "wds/captions", "wds/doubled"]
    commands = []
    for mode, more in (("fp32", ["--no_amp"]), ("amp", [])):
        end = [*more, "--output", folder / f"theirs/{mode}_{{dataset}}.json"]
        commands += [[*base, *classified, *end], [*base, *retrieved, "--recall_k", 1, 5, 10, *end]]
    commands.append([*base, *retrieved, "--no_amp", "--output", folder / "theirs/untold_{dataset}.json"])
    (folder / "theirs").mkdir()
    run([python, "-c", COMMANDS, model, json.dumps([[str(w) for w in words] for words in commands])])
    theirs = {
        path.stem.replace("_", "/"): json.loads(path.read_text())["metrics"] for path in folder.glob("theirs/*.json")
    }

    def ours(name: str, **more: Any) -> Measured:
        label = {"captions": "txt", "doubled": "txt", "several": "npy", "nobody": "npy"}.get(name, "cls")
        evaluator = RETRIEVAL if label == "txt" else ZEROSHOT | ({"labels": "several"} if label == "npy" else {})
        return load_task(str(write_task(folder / name, evaluator | more, label))).measure(encoder)

    return Data(folder, model, weights, theirs, ours)


def same(ours: Mapping[str, float], theirs: Mapping[str, float]) -> None:
    """Every number of theirs is ours."""
    names = script("scorers").their_name
    found = {names(name): value for name, value in ours.items()}
    assert theirs
    for name, value in theirs.items():
        assert math.isclose(found[name], value, rel_tol=0, abs_tol=EQUAL), (name, found[name], value)


def apart(scores: torch.Tensor, belongs: torch.Tensor) -> float:
    """How far the best score of what belongs to a query is from any of what does not, at least."""
    best = scores.masked_fill(~belongs, -torch.inf).amax(1, keepdim=True)
    return (scores - best).abs()[~belongs].min().item()


@pytest.mark.parametrize("name", ["colours", "turned", "several", "captions"])
def test_the_same_numbers_of_the_same_model_and_folder(data: Data, name: str) -> None:
    measured = data.ours(name)
    theirs = data.theirs[f"fp32/{name}"]
    same(measured.result, theirs)
    assert all(0.02 < value < 0.98 for value in theirs.values()), theirs  # or any model would have these numbers
    assert set(theirs) == {
        "several": {"mean_average_precision"},
        "captions": {f"{side}_retrieval_recall@{k}" for side in ("image", "text") for k in (1, 5, 10)},
    }.get(name, {"acc1", "acc5", "mean_per_class_recall"})
    if name == "captions":  # no two scores that count are so near that rounding could change their order
        vectors = measured.data.vectors
        scores = vectors["text"] @ vectors["image"].T
        belongs = measured.data.owner["text"][:, None] == torch.arange(COUNT)
        assert min(apart(scores, belongs), apart(scores.T, belongs.T)) > 5e-7
        assert measured.result["n"] == COUNT
        assert len(vectors["text"]) > 2 * COUNT


def test_what_it_writes_is_built_into_one_table_with_theirs(data: Data, python: Path) -> None:
    tasks = [str(data.folder / f"{name}.yaml") for name in ("colours", "several", "captions", "few")]
    for path in tasks:
        if not Path(path).exists():
            data.ours(Path(path).stem)
    out = data.folder / "written"
    model = ["--weights", data.weights, "--format", "clip_benchmark", "--out", out]
    run([sys.executable, "-m", "mmcl", "eval", f"open_clip:{data.model}", "--on", *tasks, *model, "--no-cache"])
    written = sorted(out.glob("*.json"))
    assert len(written) == 4
    theirs = [data.folder / f"theirs/fp32_{Path(path).stem}.json" for path in tasks]
    build = ["build", *written, *theirs, "--output", data.folder / "both.csv"]
    run([python, "-c", COMMANDS, data.model, json.dumps([[str(word) for word in build]])])
    rows: dict[str, list[dict[str, str]]] = {}
    with (data.folder / "both.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["dataset"], []).append(row)
    assert set(rows) == {f"wds/{Path(path).stem}" for path in tasks}
    compared = 0
    for one, other in rows.values():
        assert one["task"] == other["task"]
        assert one["language"] == other["language"]
        for name, value in other.items():
            if name.startswith(("acc", "mean", "image_retrieval", "text_retrieval")) and value not in ("", "nan"):
                assert math.isclose(float(one[name]), float(value), rel_tol=0, abs_tol=EQUAL), name
                compared += 1
    assert compared == 3 + 1 + 6 + 2


# ---- metrics alone: the same vectors to both


def classification(items: int, classes: int, templates: int, seed: int, several: bool = False) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    prompts = torch.randn(classes * templates, 64, generator=g)
    belongs = torch.randint(classes, (items,), generator=g)
    images = F.normalize(torch.randn(items, 64, generator=g) + 0.6 * prompts[belongs * templates], dim=-1)
    labels = torch.rand(items, classes, generator=g) < 0.1 if several else belongs
    if several:
        labels[torch.arange(items), belongs] = True
    return {"images": images, "texts": prompts, "labels": labels.long()}


def pairs(images: int, seed: int) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    owner = torch.repeat_interleave(torch.arange(images), torch.randint(1, 6, (images,), generator=g))
    shown = F.normalize(torch.randn(images, 64, generator=g), dim=-1)
    texts = F.normalize(0.25 * shown[owner] + torch.randn(len(owner), 64, generator=g) / 8, dim=-1)
    return {"images": shown, "texts": texts, "owner": owner}


def turned(x: Mapping[str, Any], templates: int) -> dict[str, Any]:
    """The same classes in the other order."""
    texts = x["texts"].unflatten(0, (-1, templates)).flip(0)
    return {"images": x["images"], "texts": texts.flatten(0, 1), "labels": len(texts) - 1 - x["labels"]}


def alike(x: Mapping[str, Any]) -> dict[str, Any]:
    """A model that makes one vector of everything."""
    one = F.normalize(torch.randn(64, generator=torch.Generator().manual_seed(0)), dim=0)
    return {**x, "images": one.expand(len(x["images"]), -1), "texts": one.expand(len(x["texts"]), -1)}


def learnt(seed: int) -> dict[str, Any]:
    """Vectors of 20 classes that overlap, to learn from and to test."""
    g = torch.Generator().manual_seed(seed)
    centres, found = torch.randn(20, 64, generator=g), {}
    for name in ("train_", ""):
        labels = torch.randint(20, (2000,), generator=g)
        found[f"{name}labels"] = labels
        found[f"{name}images"] = F.normalize(0.35 * centres[labels] + torch.randn(2000, 64, generator=g), dim=-1)
    return found


RANKED: dict[str, Any] = {"task": "retrieval", "at": [1, 5, 10]}
NAMED: dict[str, Any] = {"task": "zeroshot", "templates": 7}
NEAR = classification(3000, 200, 7, 5)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "retrieval": (RANKED, pairs(400, 1)),
    "retrieval at more": (RANKED | {"at": [2, 3, 50]}, pairs(211, 2)),
    "classes": (NAMED, classification(3000, 100, 7, 3)),
    "several": (NAMED, classification(1000, 40, 7, 4, several=True)),
    "near": (NAMED, NEAR),
    "near, amp": (NAMED | {"amp": True}, NEAR),
    "near, amp, turned": (NAMED | {"amp": True}, turned(NEAR, 7)),
    "ranked, amp": (RANKED | {"amp": True}, pairs(400, 1)),
    "probe": ({"task": "linear_probe", "c": 1.0}, learnt(8)),
    "alike, ranked": (RANKED, alike(pairs(101, 6))),
    "alike, classes": (NAMED, alike(classification(997, 13, 7, 7))),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, python: Path) -> dict[str, tuple[dict[str, float], Any]]:
    """What clip-benchmark says of each case, and a function of what mmcl does."""
    folder, scorers = tmp_path_factory.mktemp("cases"), script("scorers")
    folders = [scorers.write_case(folder / name, *case) for name, case in CASES.items()]
    records = json.loads(run([python, BENCHMARKS / "scorers.py", "clip_benchmark", *folders]))
    return {
        name: (record["metrics"], scorers.of_mmcl(scorers.read_case(path))())
        for name, path, record in zip(CASES, folders, records, strict=True)
    }


@pytest.mark.parametrize("name", ["retrieval", "retrieval at more", "classes", "several", "near"])
def test_the_same_numbers_of_the_same_vectors(found: dict[str, Any], name: str) -> None:
    theirs, ours = found[name]
    same(ours, theirs)
    assert all(0.02 < value < 0.98 for value in theirs.values()), theirs


def test_linear_probes_find_as_much_within_noise(found: dict[str, Any]) -> None:
    """Theirs is ten epochs of AdamW without decay, ours L-BFGS to its end, here with a C that is given."""
    theirs, ours = found["probe"]
    noise = 3 * (0.25 / 2000) ** 0.5
    assert set(theirs) == {"lp_acc1", "lp_acc5", "lp_mean_per_class_recall"}
    for name, value in theirs.items():
        assert 0.5 < value < 0.99
        assert abs(ours[name] - value) < noise, (name, ours[name], value)


# ---- where the two differ


def test_mixed_precision_makes_ties_which_the_order_of_the_classes_decides(found: dict[str, Any], data: Data) -> None:
    """bf16 has three digits: many logits are equal, and the first of them counts. In fp32 the order does not matter."""
    exact, one, other = (found[name][0] for name in ("near", "near, amp", "near, amp, turned"))
    assert one["acc1"] != other["acc1"]  # of the same classes
    assert one["acc1"] != exact["acc1"]
    assert found["near, amp"][1] == found["near"][1]
    same(found["near, amp, turned"][1], exact)
    assert data.theirs["fp32/colours"] == data.theirs["fp32/turned"]
    assert data.theirs["amp/colours"] != data.theirs["amp/turned"]
    same(data.ours("turned").result, data.theirs["fp32/colours"])


def test_mixed_precision_changes_recalls(found: dict[str, Any], data: Data) -> None:
    assert found["ranked, amp"][0] != found["retrieval"][0]
    assert data.theirs["amp/captions"] != data.theirs["fp32/captions"]


def test_a_model_that_tells_nothing_apart_is_not_right(found: dict[str, Any]) -> None:
    """Of equal scores theirs takes what topk gives; ours counts them against the model."""
    theirs, ours = found["alike, ranked"]
    assert all(theirs[f"{side}_retrieval_recall@10"] > 0 for side in ("image", "text"))
    assert {ours[name] for name in theirs} == {0.0}
    theirs, ours = found["alike, classes"]
    assert theirs["acc5"] > 0.2
    assert {ours[name] for name in theirs} == {0.0}


def test_only_recall_at_5_unless_told(data: Data) -> None:
    assert set(data.theirs["untold/captions"]) == {"image_retrieval_recall@5", "text_retrieval_recall@5"}


def test_a_caption_of_several_pictures_belongs_to_all_of_them(data: Data) -> None:
    """Theirs counts the other pictures with the same caption as wrong, though no model can tell the captions apart.

    `equal_texts: false` gives its numbers of captions that ask. Of pictures that ask, equal captions tie: theirs takes
    what topk gives, ours counts them against the model.
    """
    theirs, apart = data.theirs["fp32/doubled"], data.ours("doubled", equal_texts=False).result
    same(apart, {name: value for name, value in theirs.items() if name.startswith("image")})
    together = data.ours("doubled").result
    for k in (1, 5, 10):
        assert together[f"text_to_image/recall@{k}"] >= theirs[f"image_retrieval_recall@{k}"] - EQUAL
        assert apart[f"image_to_text/recall@{k}"] <= theirs[f"text_retrieval_recall@{k}"] + EQUAL
        assert together[f"image_to_text/recall@{k}"] >= theirs[f"text_retrieval_recall@{k}"] - EQUAL
    assert together["text_to_image/recall@10"] > theirs["image_retrieval_recall@10"] + 0.01


def test_classes_without_items_do_not_count(data: Data) -> None:
    """Theirs counts an average precision of 0 for a class that no item has; it has none."""
    theirs, ours = data.theirs["fp32/nobody"]["mean_average_precision"], data.ours("nobody").result
    assert ours["mean_average_precision"] == pytest.approx(theirs * CLASSES / (CLASSES - 1), abs=EQUAL)
    assert ours.about["counts"]["mean_average_precision"] == CLASSES - 1


def test_accuracy_at_5_of_three_classes_is_left_out(data: Data) -> None:
    """Theirs writes NaN, which is no JSON."""
    theirs, ours = data.theirs["fp32/few"], data.ours("few").result
    assert math.isnan(theirs["acc5"])
    assert "acc5" not in ours
    same(ours, {name: theirs[name] for name in ("acc1", "mean_per_class_recall")})
    text = (data.folder / "theirs/fp32_few.json").read_text()
    with pytest.raises(ValueError, match="NaN"):
        json.loads(text, parse_constant=lambda word: (_ for _ in ()).throw(ValueError(word)))
