"""The linear probe, beside scikit-learn on the same data."""

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from mmcl.errors import MmclError
from mmcl.evaluators import EVALUATORS, LinearProbe
from mmcl.evaluators.base import Embedded
from mmcl.evaluators.figures import values
from mmcl.evaluators.labelled import labelled
from mmcl.evaluators.probing import Sweep
from tests.evaluators.clusters import Nobody, assert_weights_are_repetitions, clusters, items, reordered, vectors

TRAIN, TEST = list("abcdef") * 10, list("aabcdefff") * 6


def test_figures_are_those_of_scikit_learn() -> None:
    data = clusters(TRAIN, TEST)
    assert data.train is not None
    found = LinearProbe("image", c=5.0).measure(data, Nobody())
    model = LogisticRegression(C=5.0, tol=1e-7).fit(data.train.vectors["image"].double().numpy(), TRAIN)
    said = model.predict(data.vectors["image"].double().numpy())
    got = values(found.figures)
    assert 0.5 < got["acc1"] < 1
    assert got["acc1"] == pytest.approx(np.mean(said == np.array(TEST)))
    assert got["mean_per_class_recall"] == pytest.approx(balanced_accuracy_score(TEST, said))
    assert set(got) == set(LinearProbe("image").metrics())
    assert found.confusion is not None
    assert np.trace(found.confusion.counts) == round(got["acc1"] * len(TEST))
    assert [example.correct[0] for example in found.examples] == [
        TEST[i] for i in torch.linspace(0, len(TEST) - 1, 10).round().long()
    ]


def test_what_was_tried_is_told_as_json() -> None:
    found = LinearProbe("image", seeds=[0, 1]).measure(clusters(TRAIN, TEST), Nobody())
    told = json.loads(json.dumps(found.details))
    assert told["converged"] == all(fit["converged"] for fit in told["fits"])
    assert [fit["seed"] for fit in told["fits"]] == [0, 1]
    assert found.figures["acc1"].value == pytest.approx(np.mean([fit["acc1"] for fit in told["fits"]]))
    assert {"c", "tried", "at_edge", "held_out_rows", "iterations", "rows"} <= set(told["fits"][0])
    assert told["fits"][0]["tried"] != told["fits"][1]["tried"]  # another part is held out


def test_one_solver_that_did_not_converge_is_told() -> None:
    data, seeds = clusters(TRAIN, TEST), [0, 1, 2, 3]
    whole = LinearProbe("image", c=10.0, shots=3, seeds=seeds).measure(data, Nobody()).details
    assert whole["converged"]
    steps = [fit["iterations"] for fit in whole["fits"]]
    assert len(set(steps)) > 1
    few = LinearProbe("image", c=10.0, shots=3, seeds=seeds, max_iter=max(steps) - 1).measure(data, Nobody()).details
    assert [fit["converged"] for fit in few["fits"]] == [count < max(steps) for count in steps]
    assert few["converged"] is False


def test_weights_are_repetitions() -> None:
    assert_weights_are_repetitions(LinearProbe("image", c=1.0, shots=3, seeds=[0, 1]), clusters(TRAIN, TEST))


def test_the_order_of_items_changes_nothing() -> None:
    data = clusters(TRAIN, TEST)
    assert data.train is not None
    order = torch.randperm(len(TRAIN), generator=torch.Generator().manual_seed(1))
    mixed = Embedded(data.items, data.vectors, data.owner, reordered(data.train, order))
    for probe in (LinearProbe("image", c=1.0, shots=4), LinearProbe("image", c=Sweep(low=0.1, high=10, per_decade=2))):
        assert values(probe.measure(data, Nobody()).figures) == values(probe.measure(mixed, Nobody()).figures)


def test_shots_are_drawn_anew_for_each_seed() -> None:
    data = clusters(TRAIN, TEST)
    assert data.train is not None
    fits = LinearProbe("image", c=1.0, shots=2, seeds=[0, 1, 2]).measure(data, Nobody()).details["fits"]
    assert [fit["rows"] for fit in fits] == [12, 12, 12]
    few = labelled(data.train, "image", "label").shots(2, 1)
    model = LogisticRegression(C=1.0, tol=1e-7).fit(few.vectors.double().numpy(), few.labels.numpy())
    said = np.array([few.classes[i] for i in model.predict(data.vectors["image"].double().numpy())])
    assert fits[1]["acc1"] == pytest.approx(np.mean(said == np.array(TEST)))


def test_a_class_of_one_example_is_learnt_and_has_no_say_in_the_choice() -> None:
    train = [*(list("abcde") * 10), "f"]
    data = clusters(train, TEST, noise=0.3)
    found = LinearProbe("image").measure(data, Nobody())
    assert found.details["fits"][0]["held_out_rows"] == 10
    assert found.confusion is not None
    assert sum(row[5] for row in found.confusion.counts) > 0


def test_chance_on_labels_without_sense() -> None:
    """A probe of what says nothing is at chance, whatever C: nothing of the test data is learnt from."""
    train, test = list("abcd") * 50, list("abcd") * 100
    known = Embedded.single({"image": vectors(["x"] * 200, 0, 3.0)}, items(train, "train"))
    data = Embedded.single({"image": vectors(["x"] * 400, 1, 3.0)}, items(test, "test"), known)
    assert LinearProbe("image").measure(data, Nobody()).figures["acc1"].value == pytest.approx(0.25, abs=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shots": 1}, "of one example a class"),
        ({"c": 1.0, "seeds": [1]}, "nothing is drawn"),
        ({"c": {"low": 2, "high": 1}}, "low must lie below"),
        ({"seeds": [1, 1]}, "given twice"),
    ],
)
def test_settings_without_sense_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(MmclError, match=message):
        EVALUATORS.check({"name": "linear_probe", "modality": "image", **arguments}).build()


def test_what_cannot_be_learnt_is_told_at_once() -> None:
    with pytest.raises(MmclError, match="`train:` source"):
        LinearProbe("image").check(items(["a"]))
    with pytest.raises(MmclError, match="`train:` source"):
        LinearProbe("image").measure(Embedded.single({"image": torch.eye(2)}, items(["a", "b"])), Nobody())
    with pytest.raises(MmclError, match="never show g"):
        LinearProbe("image").check(items(["a", "g"]), items(TRAIN))
    with pytest.raises(MmclError, match="give `c`"):
        LinearProbe("image").check(items(["a"]), items(["a", "b"]))
    LinearProbe("image", c=1.0).check(items(["a"]), items(["a", "b"]))
    with pytest.raises(MmclError, match="11 different training examples"):
        LinearProbe("image", shots=11).check(items(["a"]), items(TRAIN))
