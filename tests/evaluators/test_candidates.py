"""Scores of candidates, what beats everything, and groups."""

import pytest
import torch
import torch.nn.functional as F

from mmcl.errors import MmclError
from mmcl.evaluators.candidates import Groups, best, counted, grouped, macro_part, pair_scores, part, words
from tests.evaluators.scores import data, scoring


def test_scores_are_cosines_with_the_query_of_the_item(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    q, rows, owner = F.normalize(torch.randn(5, 33)), F.normalize(torch.randn(40, 33)), torch.randint(5, (40,))
    found = pair_scores(q, owner, rows)
    assert found.dtype == torch.float32
    for i in range(40):
        assert found[i].item() == pytest.approx((q[owner[i]].double() @ rows[i].double()).item(), abs=1e-6)
    monkeypatch.setattr("mmcl.evaluators.candidates.ROWS", 7)
    assert torch.equal(pair_scores(q, owner, rows), found)
    assert pair_scores(q, owner[:0], rows[:0]).shape == (0,)


@pytest.mark.parametrize("dim", [3, 64, 100, 513])
def test_equal_vectors_have_equal_scores_wherever_they_stand(dim: int) -> None:
    torch.manual_seed(dim)
    q, rows = F.normalize(torch.randn(300, dim)), F.normalize(torch.randn(300, dim))
    order = torch.randperm(300)
    assert torch.equal(pair_scores(q, torch.arange(300), rows)[order], pair_scores(q, order, rows[order]))


def test_what_is_not_a_number_beats_everything() -> None:
    scores, of = torch.tensor([0.1, 0.7, torch.nan, 0.9, -0.2]), torch.tensor([0, 0, 1, 1, 3])
    assert best(scores, of, 4).tolist() == [pytest.approx(0.7), torch.inf, -torch.inf, pytest.approx(-0.2)]


def test_an_item_without_any_candidate_is_told() -> None:
    some = data("image", {"text.wrong": [[0.1], [], []], "text.wrong.2": [[0.1, 0.2], [0.3], []]})
    assert counted(data("image", {"a": [[0.1], [0.2, 0.3]]}), ["a"]).tolist() == [1, 2]
    with pytest.raises(MmclError, match=r"item k2 has none of text\.wrong, text\.wrong\.2"):
        counted(some, ["text.wrong", "text.wrong.2"])


def test_words_are_those_of_the_rows() -> None:
    some = data("image", {"text": [[0.1, 0.2], [0.3]]}, {"text": [["a", "b"], ["c"]]})
    assert words(some, "text") == ["a", "b", "c"]
    assert words(some, "image") is None


def test_macro_is_the_mean_of_the_means_of_groups_that_may_count_and_are_large_enough() -> None:
    values = torch.tensor([1, 0, 1, 1, 0, 0, 1])
    group = torch.tensor([0, 0, 0, 1, 2, 2, 3])
    may = torch.tensor([True, True, True, False])
    figure = macro_part(values, torch.arange(7), group, may, 1)
    assert figure.value == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert (figure.n, figure.units) == (3, 7)
    assert macro_part(values, torch.arange(7), group, may, 2).value == pytest.approx((2 / 3 + 0) / 2)
    w = torch.tensor([[1.0, 0, 0, 2, 1, 0, 5]])  # the first group is too small now, and so is the third
    assert macro_part(values, torch.arange(7), group, may, 2).statistic(w).item() == 1


def test_several_values_of_a_unit_are_drawn_together() -> None:
    values, unit = torch.tensor([1, 0, 1, 1]), torch.tensor([0, 0, 1, 2])
    w = torch.tensor([[3.0, 1, 0]])
    group, may = torch.tensor([0, 1, 1, 1]), torch.tensor([True, True])
    assert macro_part(values, unit, group, may, 1).statistic(w).item() == pytest.approx((1 + 1 / 4) / 2)
    inside = torch.tensor([True, True, False, False])
    assert part(values, unit, inside).statistic(w).item() == 0.5
    assert part(values, unit, inside).n == 2
    assert part(values, unit, inside).units == 3


def test_groups_are_numbered_question_by_question() -> None:
    items = data("image", {"text": [[0.1], [0.2]]}, {"by": [["b"], ["a"]]}).items
    group, names = grouped(Groups(field="by"), items, torch.tensor([0, 0, 1]))
    assert (group.tolist(), names) == ([1, 1, 0], ["a", "b"])


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"without": ["onn"]}, "without: no question is of the group 'onn'; did you mean 'on'"),
        ({"named": ["under"]}, "named: no question is of the group 'under'. Groups that field 'by' has: in, on."),
        ({"named": ["at"]}, "named: no question is of the group 'at'"),
        ({"least": 4}, "no group of field 'by' is left: `least` is 4, the largest has 3 questions"),
        ({"least": 2, "without": ["on"]}, "no group of field 'by' is left"),
    ],
)
def test_groups_that_mean_nothing_are_told(said: dict[str, list[str]], message: str) -> None:
    groups, asked = ["on", "on", "in", "at"], [1, 2, 1, 0]
    Groups(field="by", least=3).check(groups, asked)
    with pytest.raises(MmclError, match=message):
        Groups.model_validate({"field": "by", **said}).check(groups, asked)


def test_scoring_vectors_score_what_they_say() -> None:
    assert (scoring([0.3, -0.5]).norm(dim=1) - 1).abs().max() < 1e-6
