"""Few shots from the prompts on: against the equation, scikit-learn, and the ends of its pull."""

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from mmcl.errors import MmclError
from mmcl.evaluators import EVALUATORS, FewShot
from mmcl.evaluators.base import Embedded
from mmcl.evaluators.few_shot import Fit, fit_from
from mmcl.evaluators.figures import values
from mmcl.evaluators.labelled import Labelled, labelled
from mmcl.evaluators.probing import Probe, judge_linear
from tests.evaluators.clusters import assert_weights_are_repetitions, clusters, items, reordered

TRAIN, TEST = list("abcdef") * 8, list("aabcdefff") * 6
CLASSES = {c: f"name {c}" for c in "abcdef"}
TEMPLATES = ["a {c}", "{c}!"]
PULLS = [0.01, 0.1, 1e4]


class Words:
    """Embeds a prompt near the centre of the class that it names; the template moves it."""

    def embed(self, modality: str, values: Sequence[str]) -> torch.Tensor:
        assert modality == "text"
        rows = []
        for value in values:
            c = value.split("name ")[1][0]
            centre = torch.randn(8, generator=torch.Generator().manual_seed(ord(c)))
            noise = torch.randn(8, generator=torch.Generator().manual_seed(sum(map(ord, value))))
            rows.append(centre + 1.2 * noise)
        return F.normalize(torch.stack(rows), dim=-1)


def start() -> torch.Tensor:
    """Class vectors, by loops."""
    rows = []
    for name in CLASSES.values():
        total = torch.zeros(8)
        for template in TEMPLATES:
            total += Words().embed("text", [template.replace("{c}", name)])[0]
        rows.append(total / total.norm())
    return torch.stack(rows)


def known(noise: float = 0.9) -> Labelled:
    train = clusters(TRAIN, TEST, noise).train
    assert train is not None
    return labelled(train, "image", "label")


def test_no_shot_is_the_zero_shot_classifier() -> None:
    data = clusters(TRAIN, TEST)
    found = FewShot("image", CLASSES, TEMPLATES, shots=[1]).measure(data, Words()).figures
    scores = data.vectors["image"] @ start().T
    labels = torch.tensor(["abcdef".index(c) for c in TEST])
    zero = (scores.argmax(1) == labels).double().mean().item()
    assert 0.3 < zero < 0.95
    assert found["0_shot/acc1"].value == zero


def test_the_fit_is_the_minimum_of_its_equation() -> None:
    few, pull, scale, w0 = known().shots(2, 0), 0.3, 20.0, start().double().numpy()
    x, y = few.vectors.double().numpy(), few.labels.tolist()

    def objective(flat: np.ndarray) -> float:
        w = flat.reshape(w0.shape)
        loss = 0.0
        for row, label in zip(x, y, strict=True):
            logits = scale * (w @ row)
            loss += (math.log(sum(math.exp(z - logits.max()) for z in logits)) + logits.max() - logits[label]) / len(x)
        return loss + pull / (2 * len(w0)) * sum(scale**2 * ((w[c] - w0[c]) ** 2).sum() for c in range(len(w0)))

    best = minimize(objective, w0.ravel(), method="BFGS", options={"gtol": 1e-6})
    learnt = fit_from(few, start(), pull, scale)
    assert learnt.converged
    np.testing.assert_allclose(learnt.weight.numpy().ravel(), best.x, atol=2e-4)
    assert objective(learnt.weight.double().numpy().ravel()) <= best.fun + 1e-7


def test_from_zero_on_it_is_the_logistic_regression_of_scikit_learn() -> None:
    few, pull = known().shots(4, 0), 0.05
    learnt = fit_from(few, torch.zeros(6, 8), pull, 1.0)
    model = LogisticRegression(C=6 / (len(few) * pull), fit_intercept=False, tol=1e-9, max_iter=5000)
    model.fit(few.vectors.double().numpy(), few.labels.numpy())
    np.testing.assert_allclose(learnt.weight.numpy(), model.coef_, atol=1e-3)


def test_a_strong_pull_stays_and_a_weak_one_learns() -> None:
    few = known().shots(8, 0)
    torch.testing.assert_close(fit_from(few, start(), 1e6, 100.0).weight, start(), atol=1e-5, rtol=0)
    distances = [(fit_from(few, start(), pull, 100.0).weight - start()).norm().item() for pull in (1.0, 0.1, 0.01)]
    assert distances == sorted(distances)
    probe = Probe(fit_from(few, start(), 1e-3, 100.0).weight, torch.zeros(6), True, 0)
    before = judge_linear(Probe(start(), torch.zeros(6), True, 0), few.vectors, few.labels)
    after = judge_linear(probe, few.vectors, few.labels)
    assert (after.ranks == 1).sum() > (before.ranks == 1).sum()


def test_a_solver_that_did_not_converge_is_told() -> None:
    assert not fit_from(known().shots(8, 0), start(), 1e-3, 100.0, max_iter=2).converged
    found = FewShot("image", CLASSES, TEMPLATES, shots=[2], fit=Fit(max_iter=1)).measure(clusters(TRAIN, TEST), Words())
    assert found.details["converged"] is False


def test_more_shots_are_better_and_figures_are_means_over_seeds() -> None:
    evaluator = FewShot("image", CLASSES, TEMPLATES, shots=[1, 8], fit=Fit(scale=10))
    found = evaluator.measure(clusters(TRAIN, TEST, noise=0.7), Words())
    got = values(found.figures)
    assert set(got) == set(evaluator.metrics())
    assert evaluator.headline == "8_shot/acc1"
    assert got["8_shot/acc1"] > got["0_shot/acc1"] + 0.05
    fits = json.loads(json.dumps(found.details))["fits"]
    assert [(fit["shots"], fit["seed"]) for fit in fits] == [(k, seed) for k in (1, 8) for seed in (0, 1, 2)]
    assert got["1_shot/acc1"] == pytest.approx(np.mean([fit["acc1"] for fit in fits[:3]]))
    assert len({fit["acc1"] for fit in fits[:3]}) > 1


def test_the_pull_is_chosen_among_the_shots_alone() -> None:
    data = clusters(TRAIN, TEST, noise=0.7)
    evaluator = FewShot("image", CLASSES, TEMPLATES, shots=[3, 8], fit=Fit(pull=PULLS, scale=10), seeds=[0])
    for fit in evaluator.measure(data, Words()).details["fits"]:
        best = max(fit["tried"], key=lambda row: (round(row["accuracy"], 9), -row["loss"]))
        assert fit["pull"] == best["pull"] < 1e4
        stuck = next(row for row in fit["tried"] if row["pull"] == 1e4)
        few = known(0.7).shots(fit["shots"], 0)
        zero = judge_linear(Probe(start(), torch.zeros(6), True, 0), few.vectors, few.labels).ranks == 1
        assert stuck["accuracy"] == pytest.approx(zero.double().mean().item())  # each shot is held out once
        loss = F.cross_entropy(10 * few.vectors @ start().T, few.labels).item()
        assert stuck["loss"] == pytest.approx(loss, rel=1e-3)
        given = FewShot(
            "image", CLASSES, TEMPLATES, shots=[fit["shots"]], fit=Fit(pull=fit["pull"], scale=10), seeds=[0]
        )
        assert given.measure(data, Words()).details["fits"][0]["acc1"] == fit["acc1"]


def test_what_is_held_out_is_not_learnt_from() -> None:
    data = clusters(TRAIN, TEST, noise=1.5)
    evaluator = FewShot("image", CLASSES, TEMPLATES, shots=[3], fit=Fit(pull=PULLS, scale=10), seeds=[0])
    row = evaluator.measure(data, Words()).details["fits"][0]["tried"][0]
    few, right, seen = known(1.5).shots(3, 0), 0, 0
    place = few.places(0)
    for held in range(3):
        weight = fit_from(few.where(place != held), start(), PULLS[0], 10).weight
        found = (few.vectors @ weight.T).argmax(1) == few.labels
        right, seen = right + int(found[place == held].sum()), seen + int(found[place != held].sum())
    assert row["accuracy"] == pytest.approx(right / 18)
    assert right < seen / 2  # it is another number where what is held out is learnt from


def test_weights_are_repetitions() -> None:
    evaluator = FewShot("image", CLASSES, TEMPLATES, shots=[2], seeds=[0, 1])
    assert_weights_are_repetitions(evaluator, clusters(TRAIN, TEST), Words())


def test_the_order_of_items_changes_nothing() -> None:
    data = clusters(TRAIN, TEST)
    assert data.train is not None
    order = torch.randperm(len(TRAIN), generator=torch.Generator().manual_seed(1))
    mixed = Embedded(data.items, data.vectors, data.owner, reordered(data.train, order))
    evaluator = FewShot("image", CLASSES, TEMPLATES, shots=[1, 4])
    assert values(evaluator.measure(data, Words()).figures) == values(evaluator.measure(mixed, Words()).figures)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": {"a": "a"}}, "two classes or more"),
        ({"templates": []}, "needs templates"),
        ({"templates": ["no place"]}, r"no \{c\}"),
        ({"shots": [4, 1]}, "from few to many"),
        ({"shots": [2, 2]}, "each once"),
        ({"fit": {"pull": [0.1, 1]}}, "of one shot none can be held out"),
        ({"seeds": [0, 0]}, "given twice"),
    ],
)
def test_settings_without_sense_are_refused(arguments: dict[str, object], message: str) -> None:
    said = {"name": "few_shot", "modality": "image", "classes": CLASSES, "templates": TEMPLATES, **arguments}
    with pytest.raises(MmclError, match=message):
        EVALUATORS.check(said).build()


def test_what_cannot_be_learnt_is_told_at_once() -> None:
    evaluator = FewShot("image", CLASSES, TEMPLATES, shots=[1, 8])
    evaluator.check(items(["a"]), items(TRAIN))
    with pytest.raises(MmclError, match="`train:` source"):
        evaluator.check(items(["a"]))
    with pytest.raises(MmclError, match="not among the classes: g"):
        evaluator.check(items(["a"]), items([*TRAIN, "g"]))
    with pytest.raises(MmclError, match="8 different training examples of each class are needed; f has 7"):
        evaluator.check(items(["a"]), items(TRAIN[:-1]))
    more = FewShot("image", {**CLASSES, "z": "name z"}, TEMPLATES, shots=[1])
    with pytest.raises(MmclError, match="z has 0"):
        more.check(items(["a"]), items(TRAIN))
