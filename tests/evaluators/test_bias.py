from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators.base import EVALUATORS, Embedded, Items
from mmcl.evaluators.bias import WEAT, Chosen, difference, effect_size, permutation_p
from mmcl.evaluators.figures import intervals

PROMPTS = {"doctor": [1.0, 0.0, 0.0], "engineer": [0.8, 0.0, 0.6], "nurse": [0.0, 1.0, 0.0]}


class Words:
    def embed(self, modality: str, values: Any) -> Tensor:
        assert modality == "text"
        return torch.tensor([PROMPTS[value] for value in values])


def weat(**said: Any) -> WEAT:
    men, women = ({"modality": "image", "field": "who", "values": [value]} for value in ("man", "woman"))
    default = {"targets": [men, women], "attributes": [["doctor", "engineer"], ["nurse"]]}
    return EVALUATORS.check({"name": "weat", **default, **said}).build()


def people(n: int = 12, ids: Tensor | None = None) -> Embedded:
    g = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(n, 3, generator=g), dim=1)
    who = [["man"] if i % 3 == 0 else ["woman"] if i % 3 == 1 else ["neither"] for i in range(n)]
    items = Items([f"k{i}" for i in range(n)], torch.arange(n) if ids is None else ids, {"who": who})
    return Embedded.single({"image": rows}, items)


def reference(x: list[Tensor], y: list[Tensor], a: list[Tensor], b: list[Tensor]) -> tuple[float, float]:
    """Effect and one-sided p of all splits, in loops."""

    def s(w: Tensor) -> float:
        cos = [[(w @ v / w.norm() / v.norm()).item() for v in side] for side in (a, b)]
        return float(np.mean(cos[0]) - np.mean(cos[1]))

    sx, sy = [s(w) for w in x], [s(w) for w in y]
    both = sx + sy
    splits = [set(chosen) for chosen in combinations(range(len(both)), len(sx))]
    larger = 0
    for chosen in splits:
        first, second = ([v for i, v in enumerate(both) if (i in chosen) == is_in] for is_in in (True, False))
        larger += np.mean(first) - np.mean(second) >= np.mean(sx) - np.mean(sy) - 1e-12
    return float((np.mean(sx) - np.mean(sy)) / np.std(both, ddof=1)), larger / len(splits)


def test_effect_and_p_by_hand() -> None:
    x, y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, -1.0])
    assert difference(x, y).value == 1.0
    assert effect_size(x, y).value == pytest.approx(1.0 / (2 / 3) ** 0.5)  # squares 1 + 0 + 0 + 1 over n - 1 = 3
    assert permutation_p(x, y) == pytest.approx(2 / 6)  # {1, 0} with either 0; the others fall short
    assert permutation_p(y, x) == pytest.approx(1.0)
    assert permutation_p(torch.zeros(3), torch.zeros(3)) == 1.0


def test_the_largest_effect_is_about_two() -> None:
    assert effect_size(torch.ones(50), -torch.ones(50)).value == pytest.approx(2 * (99 / 100) ** 0.5)
    assert effect_size(torch.ones(2), torch.ones(2)).value != effect_size(torch.ones(2), torch.ones(2)).value  # NaN


@pytest.mark.parametrize(("n", "m"), [(2, 6), (3, 7), (4, 8), (5, 6), (6, 7), (8, 2)])
def test_targets_that_are_one_vector_have_no_effect_however_they_are_rounded(n: int, m: int) -> None:
    g = torch.Generator().manual_seed(n)
    target, apart = (F.normalize(torch.randn(2, 768, generator=g), dim=1).double()).unbind()
    s, t = target @ apart, (target * apart).sum()  # the same number, summed in another order
    x, y = torch.full((n,), s.item()).double(), torch.full((m,), t.item()).double() + 1e-16
    assert np.isnan(effect_size(x, y).value)
    assert permutation_p(x, y) == permutation_p(y, x) == 1.0
    assert difference(x, y).value == pytest.approx(0.0, abs=1e-15)


def test_it_is_the_equation_across_modalities() -> None:
    data = people()
    rows = data.vectors["image"].double()
    x, y = [rows[i] for i in range(0, 12, 3)], [rows[i] for i in range(1, 12, 3)]
    a = [torch.tensor(PROMPTS[name]).double() for name in ("doctor", "engineer")]
    b = [torch.tensor(PROMPTS["nurse"]).double()]
    effect, p = reference(x, y, a, b)
    found = weat().measure(data, Words())
    assert set(found.figures) == set(weat().metrics())
    assert found.figures["effect_size"].value == pytest.approx(effect, rel=1e-5)
    assert found.details["p"] == pytest.approx(p)
    assert found.details["exact"]
    assert found.details["targets"] == [4, 4]
    assert found.figures["effect_size"].units == 8
    low, high = intervals(found.figures)["effect_size"]
    assert low < effect < high


def test_prompts_may_be_targets_and_items_attributes() -> None:
    data = people()
    men, women = (Chosen(modality="image", field="who", values=[value]) for value in ("man", "woman"))
    evaluator = WEAT((["doctor", "engineer"], ["nurse", "doctor "]), (men, women))
    PROMPTS["doctor "] = [0.0, 0.6, 0.8]
    rows = data.vectors["image"].double()
    prompts = {name: torch.tensor(v).double() for name, v in PROMPTS.items()}
    x, y = [prompts["doctor"], prompts["engineer"]], [prompts["nurse"], prompts["doctor "]]
    effect, p = reference(x, y, [rows[i] for i in range(0, 12, 3)], [rows[i] for i in range(1, 12, 3)])
    found = evaluator.measure(data, Words())
    assert found.figures["effect_size"].value == pytest.approx(effect, rel=1e-5)
    assert found.details["p"] == pytest.approx(p)
    assert evaluator.modalities() == ["image"]
    assert evaluator.fields() == ["who"]
    assert evaluator.prompted() == ["text"]
    assert WEAT((men, women), (men, women)).prompted() == []


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=7, max_size=7).filter(lambda w: sum(w[:3]) > 1 and sum(w[3:]) > 1))
def test_under_weights_it_is_that_of_the_targets_drawn(weights: list[int]) -> None:
    s = torch.tensor([0.3, 0.1, -0.2, 0.0, 0.4, -0.5, 0.25]).double()
    x, y = (np.repeat(part.numpy(), w) for part, w in ((s[:3], weights[:3]), (s[3:], weights[3:])))
    expected = (x.mean() - y.mean()) / np.concatenate([x, y]).std(ddof=1)
    w = torch.tensor([weights]).double()
    if np.ptp(np.concatenate([x, y])) > 0:
        assert effect_size(s[:3], s[3:]).statistic(w).item() == pytest.approx(expected)
    assert difference(s[:3], s[3:]).statistic(w).item() == pytest.approx(x.mean() - y.mean())


def test_p_that_is_drawn_is_near_p_of_all_and_the_same_each_time() -> None:
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(9, generator=g) + 0.4, torch.randn(8, generator=g)
    exact, drawn = permutation_p(x, y, 24310), permutation_p(x, y, 4000, seed=3)  # 17 choose 9
    assert exact * 24310 == pytest.approx(round(exact * 24310))
    assert drawn * 4001 == pytest.approx(round(drawn * 4001))
    assert drawn == pytest.approx(exact, abs=0.03)
    assert permutation_p(x, y, 4000, seed=3) == drawn
    assert permutation_p(x + 100, y, 4000) == pytest.approx(1 / 4001)


def test_items_that_show_the_same_are_one_target() -> None:
    whole = people()
    found = weat().measure(whole, Words())
    twice = torch.arange(12).repeat(2)
    rows = whole.vectors["image"].repeat(2, 1)
    who = whole.items.several("who") * 2
    doubled = Embedded.single({"image": rows}, Items([f"k{i}" for i in range(24)], twice, {"who": who}))
    again = weat().measure(doubled, Words())
    assert again.details["p"] == found.details["p"]
    assert again.details["targets"] == [4, 4]
    assert again.figures["effect_size"].value == pytest.approx(found.figures["effect_size"].value)


def test_what_cannot_be_measured_is_refused() -> None:
    items = people().items
    with pytest.raises(MmclError, match="no item has child in who; there are: man, neither, woman"):
        weat(attributes=[{"modality": "image", "field": "who", "values": ["child"]}, ["nurse"]]).check(items)
    with pytest.raises(MmclError, match="both attributes name nurse"):
        weat(attributes=[["doctor", "nurse"], ["nurse"]])
    with pytest.raises(MmclError, match="both targets name man"):
        weat(targets=[{"modality": "image", "field": "who", "values": ["man"]}] * 2)
    with pytest.raises(MmclError, match="second targets need two different"):
        weat(targets=[["doctor", "engineer"], ["nurse"]]).check(items)
    with pytest.raises(MmclError, match="items of 4 ids are targets of both kinds"):
        weat().check(people(ids=torch.arange(12) // 3).items)
    broken = people()
    broken.vectors["image"][3] = torch.nan
    with pytest.raises(MmclError, match="not finite"):
        weat().measure(broken, Words())
