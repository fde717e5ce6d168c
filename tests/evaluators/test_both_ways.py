"""One product gives the ranks of both directions that two give, ties and what is no number included."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmcl.evaluators import Embedded, Items, Retrieval, ranking
from mmcl.evaluators import retrieval as module
from mmcl.evaluators.both_ways import Cosines, ranks_both_ways, turned_round
from mmcl.evaluators.ranking import Relevant, relevant_ranks


def rows(count: int, dim: int, seed: int, coarse: bool) -> Tensor:
    """Unit vectors; coarse ones are often equal, and tie."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(-1, 2, (count, dim), generator=g).float() if coarse else torch.randn(count, dim, generator=g)
    return F.normalize(x, dim=-1)


def belonging(queries: int, gallery: int, seed: int, most: int) -> Relevant:
    """At least one for each query, and for each row of the gallery."""
    g = torch.Generator().manual_seed(seed)
    pairs = torch.cat(
        [
            torch.stack([torch.arange(queries), torch.randint(gallery, (queries,), generator=g)], 1),
            torch.stack([torch.randint(queries, (gallery,), generator=g), torch.arange(gallery)], 1),
            torch.stack([torch.randint(n, (most * queries,), generator=g) for n in (queries, gallery)], 1),
        ]
    )
    return Relevant.of_pairs(pairs.numpy(), queries)


def both(q: Tensor, g: Tensor, relevant: Relevant) -> None:
    """See that both ways are those of two passes."""
    found = ranks_both_ways(Cosines(q, g), relevant)
    assert found is not None
    turned = turned_round(relevant, len(g))
    for ranks, scores, of, gallery in (
        (found[0], Cosines(q, g), relevant, len(g)),
        (found[1], lambda start, end: (g @ q.T)[start:end].clone(), turned, len(q)),
    ):
        exact = relevant_ranks(scores, of, gallery)
        assert torch.equal(ranks, exact)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 10**6), st.integers(0, 4))
def test_coarse_vectors_that_tie(queries: int, gallery: int, seed: int, most: int) -> None:
    """Of quarters and halves products are exact, so that both products have the same scores."""
    g = torch.Generator().manual_seed(seed)
    q, x = (torch.randint(-2, 3, (n, 4), generator=g).float() / 4 for n in (queries, gallery))
    both(q, x, belonging(queries, gallery, seed, most))


@pytest.mark.parametrize("cells", [1, 700, 2**23])
def test_vectors_of_any_size_tile_by_tile(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "CELLS", cells)
    both(rows(301, 64, 1, False), rows(157, 64, 2, False), belonging(301, 157, 3, 2))


def test_what_is_not_a_number() -> None:
    q, g = (torch.randint(-2, 3, (n, 4), generator=torch.Generator().manual_seed(n)).float() / 4 for n in (30, 20))
    q[3], g[5] = torch.nan, torch.nan
    both(q, g, belonging(30, 20, 4, 1))


def test_turned_round_is_the_relation_from_the_other_side() -> None:
    relevant = belonging(30, 20, 5, 2)
    turned = turned_round(relevant, 20)
    pairs = {(q, int(r)) for q in range(30) for r in relevant.rows[relevant.starts[q] : relevant.starts[q + 1]]}
    back = {(int(q), r) for r in range(20) for q in turned.rows[turned.starts[r] : turned.starts[r + 1]]}
    assert pairs == back
    again = turned_round(turned, 30)
    assert all(map(torch.equal, again, relevant))


class Rounded(Cosines):
    """A library that rounds small products otherwise."""

    def tile(self, *args: Any, **more: Any) -> Tensor:
        return super().tile(*args, **more) * (1 if len(args) == 3 else 1 + 1e-6)


def test_a_library_that_rounds_small_products_otherwise_gives_no_result() -> None:
    relevant = belonging(30, 20, 6, 1)
    assert ranks_both_ways(Rounded(rows(30, 64, 1, False), rows(20, 64, 2, False)), relevant) is None


@pytest.mark.parametrize("modalities", [("text", "image"), ("image", "text")])
def test_retrieval_has_the_numbers_of_two_products(modalities: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where equal texts, and equal things, belong together."""
    count = 120
    owner = torch.arange(count).repeat_interleave(3)
    images = rows(count, 64, 7, False)
    texts = F.normalize(0.2 * images[owner] + rows(len(owner), 64, 8, False), dim=-1)
    words = [f"text {i % 100}" for i in range(len(owner))]
    items = Items(
        [str(i) for i in range(count)],
        torch.arange(count) // 2,
        {"text": [words[3 * i : 3 * i + 3] for i in range(count)]},
    )
    data = Embedded(items, {"image": images, "text": texts}, {"image": torch.arange(count), "text": owner})
    found = []
    for name in (None, "ranks_both_ways"):
        if name is not None:
            monkeypatch.setattr(module, name, lambda *_: None)
        found.append(Retrieval(modalities).measure(data, Nobody()))
    one, two = ({name: figure.value for name, figure in each.figures.items()} for each in found)
    assert one == two
    assert 0 < one["text_to_image/recall@10"] < 1
    assert found[0].examples == found[1].examples


class Nobody:
    """Embeds nothing."""

    def embed(self, modality: str, values: Any) -> Tensor:
        raise AssertionError
