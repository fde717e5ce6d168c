"""Zero-shot classification: prompts, descriptions, second looks, several labels, groups; ties and mistakes."""

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mmcl.errors import MmclError
from mmcl.evaluators import Embedded, Items, ZeroShot
from mmcl.evaluators.classified import class_found, class_ranks
from mmcl.evaluators.prompts import Described, FollowUp
from mmcl.evaluators.zeroshot import confusion

NAMES = ("red", "green", "blue")


class Words:
    """Embeds a prompt as the sum of the axes of the words that it holds: each new word has the next one."""

    def __init__(self, dim: int = 40) -> None:
        self.axes: dict[str, int] = {}
        self.seen: list[str] = []
        self.dim = dim
        for name in NAMES:
            self.axis(name)

    def axis(self, word: str) -> torch.Tensor:
        return torch.eye(self.dim)[self.axes.setdefault(word, len(self.axes))]

    def embed(self, modality: str, values: Any) -> torch.Tensor:
        assert modality == "text"
        self.seen += values
        return torch.stack([F.normalize(torch.stack([self.axis(w) for w in v.split()]).sum(0), dim=0) for v in values])


def items(labels: list[Any], **more: Any) -> Items:
    texts = {"label": [[one] if isinstance(one, str) else one for one in labels], **more}
    return Items([f"k{i}" for i in range(len(labels))], torch.arange(len(labels)), texts)


def data(vectors: torch.Tensor, labels: list[Any], **more: Any) -> Embedded:
    return Embedded.single({"image": vectors}, items(labels, **more))


def numbers(found: Any) -> dict[str, float]:
    return {name: figure.value for name, figure in found.figures.items()}


def zeroshot(**more: Any) -> ZeroShot:
    given = {"classes": {"r": "red", "g": "green", "b": "blue"}, "templates": ["a {c} thing", "{c}"], **more}
    return ZeroShot("image", **given)


def test_every_template_is_asked_and_the_nearest_class_is_taken() -> None:
    words = Words()
    found = zeroshot().measure(data(torch.eye(40)[[0, 1, 2, 0]], ["r", "g", "b", "g"]), words)
    got = numbers(found)
    assert got["acc1"] == 0.75
    assert got["mean_per_class_recall"] == pytest.approx(2.5 / 3)
    assert got["f1_macro"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert words.seen == ["a red thing", "red", "a green thing", "green", "a blue thing", "blue"]
    assert set(got) == set(zeroshot().metrics())
    example = next(one for one in found.examples if one.group == "worst")
    assert (example.query, example.correct, example.found[0]) == ("k3", ["g"], "r")
    assert found.confusion is not None
    assert found.confusion.counts == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]


def test_class_vectors_are_normalised_means_of_unit_vectors() -> None:
    words = Words()
    vectors = F.normalize(torch.randn(30, 40, generator=torch.Generator().manual_seed(0)), dim=1)
    labels = [["r", "g", "b"][i % 3] for i in range(30)]
    got = numbers(zeroshot().measure(data(vectors, labels), words))
    prompts = [[f"a {n} thing", n] for n in NAMES]
    classes = torch.stack([F.normalize(words.embed("text", p).double().mean(0), dim=0) for p in prompts])
    scores = vectors.double() @ classes.T
    truth = torch.tensor([i % 3 for i in range(30)])
    assert got["acc1"] == pytest.approx((scores.argmax(1) == truth).double().mean().item())
    confidence = (100 * scores).softmax(1).amax(1)
    ece = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            right = (scores.argmax(1) == truth)[inside].double()
            ece += inside.double().mean().item() * abs((right.mean() - confidence[inside].mean()).item())
    assert got["ece"] == pytest.approx(ece, abs=1e-5)


def test_a_tie_is_wrong_and_so_is_what_is_not_a_number() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.1], [0.3, 0.3], [float("nan"), 0.1], [float("nan")] * 2])
    labels = torch.tensor([0, 1, 1, 1, 0])
    ranks = class_ranks(scores, labels)
    assert ranks.tolist() == [1, 2, 2, 2, 2]
    assert class_found(scores, labels, ranks).tolist() == [0, 0, 0, 0, 1]


def test_lists_and_files_have_numbers_for_labels_and_a_class_may_have_prompts_of_its_own() -> None:
    files = {
        "names.txt": "red\ngreen\nblue\n",
        "t.txt": "{c}\n",
        "p.json": json.dumps({"red": ["red"], "green": ["green", "a green"], "blue": ["blue"]}),
        "c.json": json.dumps({"r": "red", "g": "green", "b": "blue"}),
    }
    read = files.__getitem__
    vectors = torch.eye(40)[[0, 1, 2]]
    for classes, templates, labels in [
        ("names.txt", "t.txt", ["0", "1", "2"]),
        (list(NAMES), ["{c}"], ["0", "1", "2"]),
        ("c.json", "p.json", ["r", "g", "b"]),
    ]:
        task = ZeroShot("image", classes, templates, read=read)
        assert numbers(task.measure(data(vectors, labels), Words()))["acc1"] == 1.0
    with pytest.raises(MmclError, match="class 'g' has none"):
        ZeroShot("image", {"r": "red", "g": "grey"}, {"red": ["red"]})


def test_descriptions_and_their_controls() -> None:
    said = {"r": ["a warm thing", "fire"], "g": ["grass"], "b": ["used at sea", "has waves"]}
    words = Words()
    task = zeroshot(templates=[], described=Described(descriptors=said, template="{c} {which}"), aggregate="scores")
    vectors = torch.eye(40)[[0, 1, 2]]
    assert numbers(task.measure(data(vectors, ["r", "g", "b"]), words))["acc1"] == 1.0
    assert words.seen == [
        "red which is a warm thing",
        "red which has fire",
        "green which has grass",
        "blue which is used at sea",
        "blue which has waves",
    ]
    nameless = zeroshot(templates=[], described=Described(descriptors=said, template="{c} {d}", control="nameless"))
    assert nameless.prompts_of_classes["g"] == ["an object grass"]
    shuffled = zeroshot(templates=[], described=Described(descriptors=said, template="{c}: {d}", control="shuffled"))
    for label, name in (("r", "red"), ("g", "green"), ("b", "blue")):
        given = [prompt.removeprefix(f"{name}: ") for prompt in shuffled.prompts_of_classes[label]]
        assert given != said[label]
        assert given in said.values()
    with pytest.raises(MmclError, match="leave the other out"):
        zeroshot(described=Described(descriptors=said))
    with pytest.raises(MmclError, match="descriptors: class 'b' has none"):
        zeroshot(templates=[], described=Described(descriptors={"r": ["x"], "g": ["y"]}))


@pytest.mark.parametrize("aggregate", ["scores", "best"])
def test_scores_of_prompts_are_put_together(aggregate: str) -> None:
    prompts = {"red": ["red", "red fire"], "green": ["green", "green grass"], "blue": ["blue", "blue sea sky"]}
    words, g = Words(), torch.Generator().manual_seed(1)
    vectors = F.normalize(torch.randn(40, 40, generator=g), dim=1)
    truth = torch.randint(0, 3, (40,), generator=g)
    task = zeroshot(templates=prompts, aggregate=aggregate)
    got = numbers(task.measure(data(vectors, [["r", "g", "b"][i] for i in truth]), words))
    each = [vectors.double() @ words.embed("text", p).double().T for p in prompts.values()]
    scores = torch.stack([one.mean(1) if aggregate == "scores" else one.amax(1) for one in each], 1)
    assert got["acc1"] == pytest.approx((scores.argmax(1) == truth).double().mean().item())


def test_a_second_look_at_the_best_classes() -> None:
    pairs = [{"classes": ["r", "g"], "prompts": [["warm"], ["cool", "leafy"]]}]
    read = {"pairs.json": json.dumps(pairs)}.__getitem__
    words = Words()
    item = F.normalize(words.axis("green") + 0.9 * words.axis("red") + 0.5 * words.axis("warm"), dim=0)
    plain = zeroshot(templates=["{c}"])
    again = zeroshot(templates=["{c}"], follow_up=FollowUp(pairs="pairs.json", top=2), read=read)
    assert numbers(plain.measure(data(item[None], ["r"]), words))["acc1"] == 0.0
    found = again.measure(data(item[None], ["r"]), words)
    assert numbers(found)["acc1"] == 1.0
    assert found.details["not_followed_up"] == 0
    # the confidence is that of the second look, in which one class is as good as sure
    assert numbers(found)["ece"] == pytest.approx(0.0, abs=0.02)
    other = F.normalize(words.axis("blue") + 0.5 * words.axis("red"), dim=0)  # blue and red: no prompts tell them apart
    found = again.measure(data(other[None], ["b"]), words)
    assert numbers(found)["acc1"] == 1.0
    assert found.details["not_followed_up"] == 1
    with pytest.raises(MmclError, match="is no pair of classes and prompts"):
        zeroshot(follow_up=FollowUp(pairs="x"), read=lambda name: '[{"classes": ["r", "nobody"]}]')


def test_several_labels() -> None:
    task = zeroshot(templates=["{c}"], labels="several")
    vectors = F.normalize(torch.randn(12, 40, generator=torch.Generator().manual_seed(2)), dim=1)
    flags = torch.rand(12, 3, generator=torch.Generator().manual_seed(3)) < 0.5
    named = [[label for label, flag in zip("rgb", row, strict=True) if flag] for row in flags.tolist()]
    by_name = numbers(task.measure(data(vectors, named), Words()))
    vector = Items([f"k{i}" for i in range(12)], torch.arange(12), {}, {"label": flags.float()})
    assert numbers(task.measure(Embedded.single({"image": vectors}, vector), Words())) == by_name
    assert task.headline == "mean_average_precision"
    assert set(by_name) == {"mean_average_precision"}
    wide = Items(["k"], torch.arange(1), {}, {"label": torch.ones(1, 4)})
    with pytest.raises(MmclError, match="labels of the data have 4 numbers, but 3 classes"):
        task.check(wide)


def test_the_worst_group() -> None:
    vectors, labels = torch.eye(40)[[0, 1, 1, 2]], ["r", "g", "b", "b"]
    groups = {"group": [["x"], ["x"], ["y"], ["y"]]}
    task = zeroshot(groups="group")
    assert "group" in task.fields()
    got = numbers(task.measure(data(vectors, labels, **groups), Words()))
    assert got["acc1"] == 0.75
    assert got["worst_group_acc1"] == 0.5
    assert got["group_gap_acc1"] == 0.5
    assert set(got) == set(task.metrics())
    with pytest.raises(MmclError, match="all items have the same group"):
        task.check(items(labels, group=[["x"]] * 4))


def test_labels_that_are_no_class_are_named_before_anything_is_embedded() -> None:
    with pytest.raises(MmclError, match=r"not among the 3 classes: reddish, x.*did you mean 'r'|reddish, x"):
        zeroshot().check(items(["r", "x", "reddish"]))
    with pytest.raises(MmclError, match="item k1 has 2 texts in label"):
        zeroshot().check(items(["r", ["g", "b"]]))


@pytest.mark.parametrize(("classes", "templates"), [({}, ["{c}"]), ({"a": "a"}, []), ({"a": "a"}, ["no place"])])
def test_a_zero_shot_task_without_sense_is_refused(classes: dict[str, str], templates: list[str]) -> None:
    with pytest.raises(MmclError, match="needs classes|needs templates|no \\{c\\}"):
        ZeroShot("image", classes, templates)


@pytest.mark.parametrize("classes", [["red", ""], {"r": "red", "g": "  "}])
def test_a_class_without_a_name_is_refused(classes: Any) -> None:
    with pytest.raises(MmclError, match=r"classes: label '[1g]' has no name"):
        ZeroShot("image", classes, ["{c}"])


def test_of_many_classes_those_with_the_most_mistakes_are_shown() -> None:
    labels = torch.arange(100)
    found = labels.clone()
    found[7], found[9] = 9, 7
    table = confusion([f"c{i}" for i in range(100)], labels, found)
    assert len(table.classes) == 60
    assert {"c7", "c9"} <= set(table.classes)


def test_who_gives_names_in_a_list_is_told_which_labels_they_have() -> None:
    said = Items(["a", "b"], torch.arange(2), {"label": [["letter"], ["digit"]]})
    evaluator = ZeroShot("image", ["letter", "digit"], ["{c}"])
    with pytest.raises(
        MmclError, match=r"2 classes: digit, letter\. The classes have the labels 0, 1 \(those of a list"
    ):
        evaluator.check(said)
