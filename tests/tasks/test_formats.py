"""Results as JSON that every reader takes, as CSV and markdown, and as CLIP_benchmark and DataComp write them."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from mmcl.tasks import Result, formats

NAN, INFINITE = float("nan"), float("inf")


def result(numbers: dict[str, float], evaluator: str = "zeroshot", **more: Any) -> Result:
    about = {
        "task": "a/task",
        "title": "which is it",
        "version": 2,
        "language": "en",
        "headline": next(iter(numbers)),
        "evaluator": evaluator,
        "score": "cosine",
        "precision": {"towers": "float32", "scores": "float32"},
        "counts": dict.fromkeys(numbers, 40),
        "details": {},
        **more,
    }
    return Result({**numbers, "n": 40}, about)


def strictly(text: str) -> Any:
    """What a reader that knows no NaN reads."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


ONE = result({"acc1": 0.75, "acc5": 0.9}, intervals={"acc1": [0.7, 0.8]})
BROKEN = result({"acc1": NAN, "acc5": INFINITE}, details={"deep": [{"low": -INFINITE, "fine": 1.5}]})


def test_json_holds_everything_and_null_where_there_is_no_number() -> None:
    said = strictly(formats.as_json({"m": {"a/task": ONE, "b/task": BROKEN}}))
    assert said["a/task"] == ONE.to_json()
    assert said["b/task"]["acc1"] is None
    assert said["b/task"]["acc5"] is None
    assert said["b/task"]["about"]["details"] == {"deep": [{"low": None, "fine": 1.5}]}
    assert Result.of_json(said["a/task"]) == ONE
    assert Result.of_json(said["a/task"]).about == ONE.about


def test_json_of_several_models_is_by_model_and_digits_are_all_there() -> None:
    third = result({"acc1": 1 / 3})
    said = strictly(formats.as_json({"m": {"t": ONE}, "k": {"t": third}}))
    assert list(said) == ["m", "k"]
    assert said["k"]["t"]["acc1"] == 1 / 3


@pytest.mark.parametrize("value", [NAN, INFINITE, -INFINITE])
def test_strict_writes_null(value: float) -> None:
    assert formats.strict({"a": [value, (1, value)], "b": {"c": value}}) == '{"a": [null, [1, null]], "b": {"c": null}}'


def test_csv_has_a_row_a_number() -> None:
    named = result({"text_to_image/recall@10": 0.5, "median_rank": 3.0}, "retrieval", score='gram, "k"')
    rows = list(csv.DictReader(io.StringIO(formats.as_csv({"m, 1": {"a": ONE}, "k": {"b": named}}))))
    assert [(row["model"], row["task"], row["metric"], row["value"]) for row in rows] == [
        ("m, 1", "a", "acc1", "0.75"),
        ("m, 1", "a", "acc5", "0.9"),
        ("k", "b", "text_to_image/recall@10", "0.5"),
        ("k", "b", "median_rank", "3.0"),
    ]
    assert (rows[0]["low"], rows[0]["high"]) == ("0.7", "0.8")
    assert (rows[1]["low"], rows[1]["high"]) == ("", "")
    assert {row["n"] for row in rows} == {"40"}
    assert [row["headline"] for row in rows] == ["True", "False", "True", "False"]
    assert rows[2]["score"] == 'gram, "k"'
    assert rows[0]["towers"] == "float32"


def test_markdown_of_one_model_has_every_number_and_of_several_the_headlines() -> None:
    alone = formats.as_markdown({"m": {"a": ONE}}).splitlines()
    assert alone == [
        "| task | metric | n | m |",
        "|---|---|---|---|",
        "| a | acc1 | 40 | 0.750 [0.700, 0.800] |",
        "| a | acc5 | 40 | 0.900 |",
    ]
    both = formats.as_markdown({"m": {"a": ONE}, "k": {"a": BROKEN, "b": ONE}}).splitlines()
    assert both[2:] == [
        "| a | acc1 | 40 | 0.750 [0.700, 0.800] | nan |",
        "| b | acc1 | 40 | - | 0.750 [0.700, 0.800] |",
    ]
    assert len({line.count("|") for line in both}) == 1


def test_clip_benchmarks_keys() -> None:
    said = formats.clip_benchmark("open_clip:ViT-B-32", "laion2b_s34b_b79k", ONE, "wds/cifar10")
    assert {key: value for key, value in said.items() if key != "about"} == {
        "dataset": "wds/cifar10",
        "model": "ViT-B-32",
        "pretrained": "laion2b_s34b_b79k",
        "task": "zeroshot_classification",
        "metrics": {"acc1": 0.75, "acc5": 0.9},
        "language": "en",
    }
    assert said["about"] == ONE.about


@pytest.mark.parametrize(
    ("evaluator", "ours", "task", "theirs"),
    [
        ("retrieval", "text_to_image/recall@5", "zeroshot_retrieval", "image_retrieval_recall@5"),
        ("retrieval", "image_to_text/recall@10", "zeroshot_retrieval", "text_retrieval_recall@10"),
        ("retrieval", "image_to_text/mrr", "zeroshot_retrieval", "image_to_text/mrr"),
        ("retrieval", "text_to_audio/recall@1", "zeroshot_retrieval", "text_to_audio/recall@1"),
        ("zeroshot", "mean_average_precision", "zeroshot_classification", "mean_average_precision"),
        ("linear_probe", "acc1", "linear_probe", "lp_acc1"),
        ("knn", "acc1", "knn", "acc1"),
    ],
)
def test_clip_benchmarks_names(evaluator: str, ours: str, task: str, theirs: str) -> None:
    said = formats.clip_benchmark("runs/mine", None, result({ours: 0.25}, evaluator), "a/b")
    assert said["task"] == task
    assert said["metrics"] == {theirs: 0.25}
    assert said["pretrained"] == ""


def test_clip_benchmarks_files_are_strict_and_one_each(tmp_path: Path) -> None:
    said = [formats.clip_benchmark("runs/m", None, one, key) for one, key in ((ONE, "wds/a"), (BROKEN, "wds/b"))]
    paths = formats.write_clip_benchmark(tmp_path / "new" / "folder", said)
    assert len(set(paths)) == 2
    assert {path.parent for path in paths} == {tmp_path / "new" / "folder"}
    read = [strictly(path.read_text()) for path in paths]
    assert read[0]["metrics"] == {"acc1": 0.75, "acc5": 0.9}
    assert read[1]["metrics"] == {"acc1": None, "acc5": None}


def test_datacomps_line() -> None:
    said = formats.datacomp(ONE, "cifar10")
    assert said == {
        "key": "cifar10",
        "dataset": "which is it",
        "metrics": {"acc1": 0.75, "acc5": 0.9, "main_metric": 0.75},
    }
    assert "\n" not in formats.strict(said)
    assert strictly(formats.strict(formats.datacomp(BROKEN, "b")))["metrics"]["main_metric"] is None
