"""The two sides of a retrieval: rows that ask, rows that are found, and which of them belong together."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.evaluators.base import Embedded
from mmcl.evaluators.ranking import Relevant


class Side(NamedTuple):
    """Rows of one modality, or of several that ask together."""

    vectors: list[Float[Tensor, "rows dim"]]
    """Of each modality."""
    item: Int[Tensor, " rows"]
    """Number of the item that each row is of."""
    texts: list[str] | None
    """Of the rows, where they are texts and nothing else."""

    def __len__(self) -> int:
        return len(self.item)

    def take(self, rows: Int[Tensor, " some"]) -> "Side":
        """Some of the rows."""
        texts = None if self.texts is None else [self.texts[row] for row in rows.tolist()]
        return Side([vectors[rows] for vectors in self.vectors], self.item[rows], texts)


def side(data: Embedded, names: Sequence[str], distinct: bool) -> Side:
    """The rows of some modalities.

    Args:
        data: the items.
        names: of the modalities. Of one an item may have several rows: each of them stands with the item's one row of
            every other.
        distinct: whether rows of items with equal ids are one row, the first.

    Raises:
        MmclError: items have several rows of two modalities.
    """
    count = len(data.items)
    often = [m for m in names if len(data.owner[m]) > len(data.owner[m].unique())]
    if len(often) > 1:
        raise MmclError(f"items have several rows of {' and of '.join(often)}; of one modality of a side they may.")
    lead = often[0] if often else names[0]
    item = data.owner[lead]
    places = {}
    for m in names:
        at = torch.full((count,), -1)
        at[data.owner[m]] = torch.arange(len(data.owner[m]))
        places[m] = torch.arange(len(item)) if m == lead else at[item]
    whole = torch.stack(list(places.values())).amin(0) >= 0
    texts = None
    if len(names) == 1 and lead in data.items.texts:
        texts = _texts(data, lead)
    rows = [data.vectors[m] if m == lead else data.vectors[m][places[m].clamp(min=0)] for m in names]
    found = Side(rows, item, texts)
    if not whole.all():
        found = found.take(whole.nonzero()[:, 0])
    return found.take(_first_of_each(data.items.ids[found.item])) if distinct else found


def _texts(data: Embedded, modality: str) -> list[str] | None:
    """The text of each row; None where it cannot be said which is which."""
    texts = [text for several in data.items.texts[modality] for text in several]
    return texts if len(texts) == len(data.owner[modality]) else None


def _first_of_each(ids: Int[Tensor, " rows"]) -> Int[Tensor, " kept"]:
    _, first = np.unique(ids.numpy(), return_index=True)
    return torch.from_numpy(np.sort(first))


def belonging(queries: Side, gallery: Side, ids: Int[Tensor, " items"], equal_texts: bool) -> Relevant:
    """What belongs to each query: rows of items that show the same thing.

    Args:
        queries: rows that ask.
        gallery: rows that are found.
        ids: of the items; equal ones show the same thing.
        equal_texts: whether a text belongs to every item that has it word for word, and not only to its own.
    """
    of_queries, of_gallery = ids[queries.item].numpy(), ids[gallery.item].numpy()
    pairs = [joined(np.arange(len(queries)), of_queries, of_gallery)]
    if equal_texts:
        pairs += [joined(*claims, of_gallery) for claims in _claims(queries, of_queries)]
        pairs += [joined(*claims, of_queries)[:, ::-1] for claims in _claims(gallery, of_gallery)]
    return Relevant.of_pairs(np.concatenate(pairs), len(queries))


def _claims(one: Side, ids: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(row, id of a thing that has its text, too), for texts that several things have."""
    if one.texts is None:
        return []
    often = {text for text, count in Counter(one.texts).items() if count > 1}
    rows = [row for row, text in enumerate(one.texts) if text in often] if often else []
    having: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        having[one.texts[row]].add(int(ids[row]))
    found = [(row, n) for row in rows if len(having[one.texts[row]]) > 1 for n in having[one.texts[row]]]
    if not found:
        return []
    return [tuple(np.array(found, dtype=np.int64).T)]


def joined(rows: np.ndarray, numbers: np.ndarray, others: np.ndarray) -> Int[np.ndarray, "pairs two"]:
    """Pairs of a row and the number of each of the others with an equal number."""
    order = np.argsort(others, kind="stable")
    low, high = (np.searchsorted(others[order], numbers, end) for end in ("left", "right"))
    counts = high - low
    within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    return np.stack([np.repeat(rows, counts), order[np.repeat(low, counts) + within]], 1)
