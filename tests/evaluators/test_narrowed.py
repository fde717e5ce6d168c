"""Retrieval without some of the gallery, and among a few: against sorting, as CIRR's protocol does it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import mmcl
from mmcl.errors import MmclError
from mmcl.evaluators import Embedded, Items, Retrieval
from mmcl.evaluators.figures import values
from mmcl.tasks import load_task
from mmcl.types import sample_id
from tests.evaluators.clip_benchmark_folders import write_model
from tests.layouts.others import cirr

DIRECTION = "image+text_to_image.target"


class Nobody:
    def embed(self, modality: str, values: Any) -> torch.Tensor:
        raise AssertionError("nothing is prompted")


Lists = list[list[int]]


def data(queried: torch.Tensor, shown: torch.Tensor, targets: list[int], without: Lists, among: Lists) -> Embedded:
    """Queries q0, q1, ... and pictures p0, p1, ..., by their vectors."""
    queries, pictures = len(queried), len(shown)
    names = [f"p{i}" for i in range(pictures)]
    shows = [names[t] for t in targets] + names
    said = {
        name: [[names[i] for i in some] for some in rows] + [[]] * pictures
        for name, rows in (("reference", without), ("members", among))
    }
    keys = [f"q{i}" for i in range(queries)] + names
    vectors = {"text": queried, "image": shown}
    owner = {"text": torch.arange(queries), "image": queries + torch.arange(pictures)}
    return Embedded(Items(keys, torch.tensor([sample_id(one) for one in shows]), said), vectors, owner)


def task(**said: Any) -> Retrieval:
    default = {"both": False, "distractors": True, "without": "reference", "subset": {"field": "members", "at": [1, 2]}}
    from mmcl.evaluators import EVALUATORS

    part = EVALUATORS.check({"name": "retrieval", "modalities": ["text", "image"], "at": [1, 3], **default, **said})
    return part.build()


def measured(*case: Any, **said: Any) -> dict[str, float]:
    one, there = task(**said), data(*case)
    one.check(there.items)
    found = one.measure(there, Nobody())
    assert set(found.figures) == set(one.metrics())
    return {name.partition("/")[2]: value for name, value in values(found.figures).items()}


def scored(*scores: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors with these scores, of which the squares of each picture's must not be more than 1."""
    s = torch.tensor(scores).T
    rest = (1 - s.square().sum(1, keepdim=True)).sqrt()
    return torch.eye(len(scores), len(scores) + 1), torch.cat([s, rest], 1)


def test_by_hand() -> None:
    both = scored([0.9, 0.4, 0.3, 0.2, 0.1], [0.1, 0.9, 0.5, 0.2, 0.0])
    # the first one's own picture p0 is left out: p1, p2, p3; among p0, p2, p3 it is the second
    found = measured(*both, [3, 2], [[0], [1]], [[0, 2, 3], [1, 2, 4]])
    assert found["mrr"] == pytest.approx((1 / 3 + 1) / 2)
    assert found["recall@1"] == 0.5
    assert found["recall@3"] == 1.0
    assert found["recall_subset@1"] == 0.5
    assert found["recall_subset@2"] == 1.0
    kept = measured(*both, [3, 2], [[0], [1]], [[0, 2, 3], [1, 2, 4]], without=None)
    assert kept["mrr"] == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert kept["recall_subset@2"] == 0.5  # p0 and p1 are in the way again


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_it_is_what_sorting_says(draw: st.DataObject) -> None:
    queries, pictures = draw.draw(st.integers(1, 4)), draw.draw(st.integers(3, 7))
    pool = F.normalize(torch.randn(9, 3, generator=torch.Generator().manual_seed(draw.draw(st.integers(0, 99)))), dim=1)
    pool[4] = torch.nan
    queried = pool[5 : 5 + queries]
    shown = pool[[draw.draw(st.integers(0, 4)) for _ in range(pictures)]]  # equal ones tie
    scores = (queried.double() @ shown.double().T).round(decimals=5).tolist()
    targets = [draw.draw(st.integers(0, pictures - 1)) for _ in range(queries)]
    some = st.lists(st.integers(0, pictures - 1), max_size=3)
    without = [[i for i in draw.draw(some) if i != t] for t in targets]
    without[0] = without[0] or [(targets[0] + 1) % pictures]
    among = [[*draw.draw(some), t] for t in targets]

    def rank(query: int, places: set[int]) -> float:
        own = scores[query][targets[query]]
        if np.isnan(own):
            return np.inf
        return 1 + sum(not scores[query][i] < own for i in places - {targets[query]})

    found = measured(queried, shown, targets, without, among)
    ranks = [rank(q, set(range(pictures)) - set(without[q])) for q in range(queries)]
    inner = [rank(q, set(among[q]) - set(without[q])) for q in range(queries)]
    if not np.isinf(ranks).any():
        assert found["mrr"] == pytest.approx(np.mean([1 / r for r in ranks]))
        assert found["median_rank"] == np.median(ranks)
    if pictures > 3:
        assert found["recall@3"] == pytest.approx(np.mean([r <= 3 for r in ranks]))
    assert found["recall_subset@2"] == pytest.approx(np.mean([r <= 2 for r in inner]))


def test_hubs_are_corrected_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmcl.evaluators.ranking.ROWS", 2)  # several tiles
    g = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(12, 8, generator=g), dim=1)
    there = data(rows[:5], rows[5:], [0, 1, 2, 3, 4], [[6]] * 5, [[0, 1, 2, 3, 4, 5]] * 5)
    bank = F.normalize(torch.randn(20, 8, generator=g), dim=1)
    train = Embedded.single({"text": bank}, Items([str(i) for i in range(20)], torch.arange(20)))
    there = Embedded(there.items, there.vectors, there.owner, train)
    part = {"name": "nnn", "alpha": 0.7, "k": 3}
    found = values(task(hubs=part).measure(there, Nobody()).figures)
    scores = rows[:5] @ rows[5:].T - 0.7 * (rows[5:] @ bank.T).topk(3).values.mean(1)
    scores[:, 6] = -9
    ranks = (scores >= scores.diag()[:, None]).sum(1).double()
    assert found["text_to_image/mrr"] == pytest.approx((1 / ranks).mean().item())


def test_mistakes_are_told() -> None:
    scores = scored([0.9, 0.8, 0.7])
    with pytest.raises(MmclError, match="`both: false`, and no `grades`"):
        Retrieval(("text", "image"), without="reference")
    with pytest.raises(MmclError, match="1 queries leave out what belongs to them; the first is item q0"):
        measured(*scores, [1], [[1]], [[1, 2]])
    with pytest.raises(MmclError, match="of what 1 queries name, nothing belongs to them; the first is item q0"):
        measured(*scores, [1], [[0]], [[0, 2]])
    with pytest.raises(MmclError, match="reference: no item names anything"):
        measured(*scores, [1], [[]], [[1, 2]])
    wrong = data(*scores, [1], [[0]], [[1, 2]])
    wrong.items.texts["members"][0].append("p7.png")
    with pytest.raises(MmclError, match=r"members: item q0 names 'p7\.png': no item has this `identity`"):
        task().check(wrong.items)


def test_cirr_in_miniature_is_its_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMCL_CACHE", str(tmp_path / "cache"))
    cirr(tmp_path / "data" / "cirr")
    write_model(tmp_path)
    encoder = mmcl.load(f"open_clip:{tmp_path / 'small.json'}", "cpu", weights=tmp_path / "weights.safetensors")
    found = load_task("retrieval/cirr", str(tmp_path / "data")).measure(encoder, with_intervals=True)
    result = found.result
    assert (result["n"], result.about["counts"][f"{DIRECTION}/recall_subset@1"]) == (9, 2)
    assert result.about["headline"] == f"{DIRECTION}/recall@5"
    vectors = found.data.vectors
    asked = F.normalize(vectors["image"].double() + vectors["text"].double(), dim=1)
    scores = (asked @ vectors["image.target"].double().T).tolist()
    for q, row in enumerate(scores):  # query q shows picture q, and wants the next one; the seventh is of no group
        row[q] = -np.inf
        order = sorted(range(7), key=lambda i, row=row: -row[i])
        scores[q] = [order.index(q + 1) + 1, [i for i in order if i < 6].index(q + 1) + 1]
    for k in (1, 5):
        assert result[f"{DIRECTION}/recall@{k}"] == np.mean([rank <= k for rank, _ in scores])
    for k in (1, 2, 3):
        assert result[f"{DIRECTION}/recall_subset@{k}"] == np.mean([rank <= k for _, rank in scores])
    for example in found.examples:
        assert len(example["found"]) == 5
        own = example["query"].replace("query_01206", "picture_dev-")
        assert not [one for one in example["found"] if one.startswith(own)]
