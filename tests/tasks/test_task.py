"""A task over real shards: what it says, what it refuses before anything is embedded, and what it leaves out."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mmcl.errors import MmclError
from mmcl.evaluators import Items
from mmcl.model import Encoder
from mmcl.tasks import Result, expand_suites, find_spec, load_task
from tests.tasks.conftest import COUNT, LABELLED, PAIRS, RETRIEVAL, ZEROSHOT, Write, sample


class Unasked(Encoder):
    """A model that must not be asked."""

    def embed_rows(self, modality: str, rows: torch.Tensor) -> torch.Tensor:
        raise AssertionError("embedded")


def refused(path: Path, small: Encoder, told: str) -> None:
    """Measuring ends with a message, and nothing is embedded before."""
    with pytest.raises(MmclError, match=told):
        load_task(str(path)).measure(Unasked(small.model))


def test_a_result_says_what_a_reader_must_know(small: Encoder, samples: list[Any], task: Write) -> None:
    path = task(samples, RETRIEVAL, PAIRS, "version: 3\nheadline: picture_to_caption/mrr")
    result = load_task(str(path)).measure(small, with_intervals=True).result
    assert result["n"] == COUNT
    assert result.about["version"] == 3
    assert result.about["score"] == "cosine"
    assert result.about["precision"] == {"towers": "float32", "scores": "float32"}
    assert result.headline == result["picture_to_caption/mrr"]
    ends = result.interval("picture_to_caption/mrr")
    assert ends is not None
    assert ends[0] <= result.headline <= ends[1]
    assert result.about["counts"]["picture_to_caption/mrr"] == COUNT
    assert Result.of_json(result.to_json()) == result


def test_numbers_are_those_of_the_vectors(small: Encoder, samples: list[Any], task: Write) -> None:
    measured = load_task(str(task(samples, RETRIEVAL, PAIRS))).measure(small)
    texts = small.embed("caption", [one["txt"] for one in samples])
    torch.testing.assert_close(measured.data.vectors["caption"], texts)
    scores = texts @ measured.data.vectors["picture"].T
    rank = 1 + (scores >= scores.diag()[:, None]).sum(1) - 1
    assert measured.result["caption_to_picture/mrr"] == pytest.approx((1 / rank).mean().item())


def test_several_captions_of_a_sample(small: Encoder, task: Write) -> None:
    samples = [sample(number, captions=1 + number % 3) for number in range(COUNT)]
    path = task(samples, RETRIEVAL, "modalities: {picture: png, caption: 'txt:lines'}, captions: all")
    measured = load_task(str(path)).measure(small)
    lines = [line for one in samples for line in one["txt"].split("\n")]
    assert measured.result.about["counts"]["caption_to_picture/mrr"] == len(lines)
    assert measured.data.owner["caption"].tolist() == [i for i in range(COUNT) for _ in range(1 + i % 3)]
    torch.testing.assert_close(measured.data.vectors["caption"], small.embed("caption", lines))
    first = load_task(str(task(samples, RETRIEVAL, PAIRS.replace("txt", "'txt:lines'"), name="first"))).measure(small)
    assert first.result.about["counts"]["caption_to_picture/mrr"] == COUNT
    assert first.data.items.texts["caption"][2] == [samples[2]["txt"].split("\n")[0]]


def test_labels_and_classes_that_do_not_match(small: Encoder, samples: list[Any], task: Write) -> None:
    samples[4]["cls"] = "hebrew"
    refused(task(samples, ZEROSHOT, LABELLED), small, r"task .*task.yaml: labels of the data.*3 classes: hebrew")


def test_a_sample_without_something(small: Encoder, samples: list[Any], task: Write) -> None:
    del samples[3]["png"], samples[17]["png"]
    refused(task(samples, RETRIEVAL, PAIRS), small, r"0003 of .*00000.tar has no picture \(png\); 0017 .*`optional`")
    left = f"{PAIRS}, optional: [picture]"
    result = load_task(str(task(samples, RETRIEVAL, left, name="left"))).measure(small).result
    assert (result["n"], result["skipped"]) == (COUNT - 2, 2)


def test_a_sample_without_a_label_or_a_caption(small: Encoder, samples: list[Any], task: Write) -> None:
    del samples[3]["cls"]
    refused(task(samples, ZEROSHOT, LABELLED), small, r"0003.*label")
    samples[5]["txt"] = "  "
    refused(task(samples, RETRIEVAL, PAIRS, name="blank"), small, r"0005 has no caption \(txt\)")
    samples[5]["txt"] = b"\xff\xff"
    refused(task(samples, RETRIEVAL, PAIRS, name="bytes"), small, r"0005: text is not UTF-8")


def test_a_picture_that_cannot_be_decoded_is_left_out_and_told(small: Encoder, samples: list[Any], task: Write) -> None:
    samples[7]["png"] = b"no picture"
    result = load_task(str(task(samples, RETRIEVAL, PAIRS))).measure(small).result
    assert (result["n"], result["skipped"]) == (COUNT - 1, 1)
    assert [bad["key"] for bad in result.about["skipped"]["bad"]] == ["0007"]
    without = [one for one in samples if one["__key__"] != "0007"]
    again = load_task(str(task(without, RETRIEVAL, PAIRS, name="without"))).measure(small).result
    assert {k: v for k, v in result.items() if k != "skipped"} == pytest.approx(dict(again))


def test_labels_may_be_optional_and_what_lacks_them_is_left_out(
    small: Encoder, samples: list[Any], task: Write
) -> None:
    del samples[3]["cls"], samples[4]["cls"]
    result = load_task(str(task(samples, ZEROSHOT, f"{LABELLED}, optional: [label]"))).measure(small).result
    assert (result["n"], result["skipped"]) == (COUNT - 2, 2)


def test_nothing_is_learnt_from_what_is_measured(small: Encoder, samples: list[Any], task: Write) -> None:
    path = task(samples, "{name: knn, modality: picture, k: 3}", LABELLED)
    said = path.read_text()
    shards = path.parent / "shards" / "task"
    path.write_text(f"{said}train: {{shards: '{shards}/00001.tar', {LABELLED}}}\n")
    refused(path, small, r"train: .*00001.tar is a shard of the data that are measured, too")
    other = task(samples, RETRIEVAL, PAIRS, name="other").parent / "shards" / "other"
    path.write_text(f"{said}train: {{shards: '{other}', {LABELLED}}}\n")
    assert load_task(str(path)).measure(small).result["n"] == COUNT


def test_vectors_of_several_labels(small: Encoder, samples: list[Any], task: Write) -> None:
    several = ZEROSHOT.replace("templates", "labels: several, templates")
    result = load_task(str(task(samples, several, "modalities: {picture: png, label: npy}"))).measure(small).result
    assert set(result) == {"mean_average_precision", "n"}


@pytest.mark.parametrize(
    ("evaluator", "data", "more", "told"),
    [
        (RETRIEVAL, PAIRS, "headline: acc1", "headline: there is no acc1; known: caption_to_picture/recall@1"),
        (RETRIEVAL, PAIRS, "train: {shards: x, modalities: {caption: txt}}", "learns nothing: leave `train` out"),
        (RETRIEVAL, "modalities: {picture: png}", "", "data.modalities does not say where caption lies"),
        (ZEROSHOT.replace("classes: {greek", "classes: {x"), LABELLED, "", "labels of the data.*greek"),
        (ZEROSHOT.replace("templates: ['{c}', 'a {c}']", "templates: no.txt"), LABELLED, "", "there is no file no.txt"),
        ("{name: nosuch}", PAIRS, "", "no evaluator is called 'nosuch'"),
    ],
)
def test_mistakes_of_a_task(
    small: Encoder, samples: list[Any], task: Write, evaluator: str, data: str, more: str, told: str
) -> None:
    refused(task(samples, evaluator, data, more), small, told)


def test_a_modality_that_the_model_lacks(small: Encoder, samples: list[Any], task: Write) -> None:
    refused(
        task(samples, RETRIEVAL.replace("caption", "smell"), PAIRS.replace("caption", "smell")), small, "needs smell"
    )


def test_prompts_lie_beside_the_task_or_below_its_root(
    small: Encoder, samples: list[Any], task: Write, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "names.txt").write_text("greek\nlatin\narrow\n")
    (tmp_path / "forms.txt").write_text("{c}\na {c}\n")
    for number, one in enumerate(samples):
        one["cls"] = str(number % 3)
    files = "{name: zeroshot, modality: picture, prompts: caption, classes: names.txt, templates: forms.txt}"
    by_file = load_task(str(task(samples, files, LABELLED, f"root: {tmp_path / 'root'}"))).measure(small).result
    by_name = [{**one, "cls": ("greek", "latin", "arrow")[number % 3]} for number, one in enumerate(samples)]
    said = load_task(str(task(by_name, ZEROSHOT, LABELLED, name="said"))).measure(small).result
    assert dict(by_file) == dict(said)


def test_where_missing_data_can_be_had(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(
        f"title: t\nevaluator: {RETRIEVAL}\nroot: {tmp_path}/nowhere\nget: https://host/set\n"
        f"data: {{shards: test, {PAIRS}}}\n"
    )
    with pytest.raises(MmclError, match=r"nowhere is not there .*Get it: https://host/set"):
        load_task(str(path))


def test_data_may_lie_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    for root, shards, expected in [
        (None, "data/glyphs/test", "/mnt/sets/glyphs/test"),
        ("data/wds_cars", "test", "/mnt/sets/wds_cars/test"),
        ("data/wds_cars", "/abs/test", "/abs/test"),
        (None, "database/test", "database/test"),
        ("https://host/set", "test", "https://host/set/test"),
    ]:
        said = "" if root is None else f"root: {root}\n"
        path.write_text(f"title: t\nevaluator: {RETRIEVAL}\n{said}data: {{shards: {shards}, {PAIRS}}}\n")
        assert find_spec(str(path), "/mnt/sets/")[0].data.shards == expected


def test_names_of_tasks_and_suites() -> None:
    assert expand_suites(["glyphs/retrieval", "glyphs/script", "glyphs/retrieval"]) == [
        "glyphs/retrieval",
        "glyphs/script",
    ]
    with pytest.raises(
        MmclError, match="no task or suite is called 'glyphs/retrievl'; did you mean 'glyphs/retrieval'"
    ):
        expand_suites(["glyphs/retrievl"])


def test_an_item_with_several_texts_where_one_is_needed() -> None:
    with pytest.raises(MmclError, match="item k has 2 texts in label"):
        Items(["k"], torch.arange(1), {"label": [["a", "b"]]}).one("label")
