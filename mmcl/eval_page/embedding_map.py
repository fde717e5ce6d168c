"""A map of a task's vectors: each item a point on a plane."""

import math
from collections import Counter
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mmcl.evaluators.base import Embedded
from mmcl.plots import COLORS, as_svg

POINTS = 1000  # of a map, over all modalities
NEIGHBOURS = 10  # of which it is told how far t-SNE keeps them
MARKS = {"o": "●", "s": "■", "^": "▲", "D": "◆"}  # matplotlib's name, and what stands in the legend
OTHER, SEVERAL = "#b9bdc6", "several labels"
FEWEST = 12  # points of a map
WIDTH = 4.6  # inches


class Kind(NamedTuple):
    """Points that look alike, for the legend."""

    label: str
    color: str
    mark: str
    n: int


class Map(NamedTuple):
    """A map, drawn; or why there is none."""

    about: str
    svg: str = ""
    kinds: list[Kind] = []


class Points(NamedTuple):
    """What is drawn: the rows of some modalities of some items."""

    vectors: Float[Tensor, "points dim"]
    item: Int[Tensor, " points"]
    modality: list[str]


def embedding_map(data: Embedded, label: str | None, title: str) -> Map:
    """Vectors of items, spread evenly over the data, on a plane.

    Of items with labels by t-SNE, which shows what is near what: each class has its color. Of several modalities by
    PCA, which shows how far they lie apart: each has its mark, and lines join what is of one item. Both are the same
    each time.

    Args:
        data: items, after the towers.
        label: the field of their labels.
        title: of the map, for names in the SVG.

    Reference:
        van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 9, 2008.
    """
    points, said = chosen(data)
    if len(points.item) < FEWEST:
        return Map(f"There is no map of {len(points.item)} vectors: it takes {FEWEST}.")
    plane, kept = principal(points.vectors)
    if plane is None:
        return Map(f"There is no map: all {len(points.item)} vectors lie in one place.")
    labels = None if label is None or label not in data.items.texts else data.items.texts[label]
    if labels is None:
        about = f"PCA of {said}: the two axes of the largest variance hold {kept:.0%} of it."
    else:
        plane, trust = neighbourly(points.vectors, plane)
        about = (
            f"t-SNE of {said}: what is near is alike; far distances say nothing. Trustworthiness {trust:.2f} (1: the "
            f"{NEIGHBOURS} nearest on the map are the nearest indeed)."
        )
    wide, high = (plane.amax(0) - plane.amin(0)).tolist()
    figure = Figure(figsize=(WIDTH, WIDTH * min(max(high / wide, 0.4), 1.0)))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    if len(set(points.modality)) > 1:
        _joined(axes, plane, points)
        about += " Lines join what is of one item."
    kinds = _drawn(axes, plane, points, None if labels is None else [labels[i] for i in points.item.tolist()])
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_axis_off()
    return Map(about, as_svg(figure, title), kinds)


def chosen(data: Embedded) -> tuple[Points, str]:
    """The rows that are drawn, and which they are in words; of an item with several of a modality the first.

    Modalities of which vectors have another width than the first cannot be on its map, and are told.
    """
    width = next(iter(data.vectors.values())).shape[1]
    drawn = [m for m, vectors in data.vectors.items() if vectors.shape[1] == width]
    count = min(len(data.items), max(POINTS // len(drawn), 1))
    items = torch.linspace(0, len(data.items) - 1, count).round().long()
    vectors, item, modality, lost = list[Tensor](), list[Tensor](), list[str](), 0
    for m in drawn:
        first = torch.full((len(data.items),), -1)
        rows = torch.arange(len(data.owner[m])).flip(0)
        first[data.owner[m].flip(0)] = rows
        some = items[first[items] >= 0]
        finite = data.vectors[m][first[some]].isfinite().all(1)
        lost += int((~finite).sum())
        vectors.append(data.vectors[m][first[some]][finite].double())
        item.append(some[finite])
        modality += [m] * int(finite.sum())
    said = f"{count:,} of {len(data.items):,} items" if count < len(data.items) else f"{count:,} items"
    if lost:
        said += f" (left out, as their vectors are not finite: {lost})"
    if others := [m for m in data.vectors if m not in drawn]:
        said += f", without {', '.join(others)}, of which vectors have another width"
    return Points(torch.cat(vectors), torch.cat(item), modality), said


def principal(vectors: Float[Tensor, "points dim"]) -> tuple[Float[Tensor, "points 2"] | None, float]:
    """The two principal components, and the share of the variance that they keep; None where there is no variance."""
    centred = vectors - vectors.mean(0)
    if centred.abs().max() < 1e-6:
        return None, math.nan
    if centred.shape[1] < 2:
        centred = torch.nn.functional.pad(centred, (0, 1))
    _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))  # an axis may point either way: always the same one
    plane = centred @ (axes * largest.sign()).T
    return plane, float(sizes[:2].square().sum() / sizes.square().sum())


def neighbourly(
    vectors: Float[Tensor, "points dim"], start: Float[Tensor, "points 2"]
) -> tuple[Float[Tensor, "points 2"], float]:
    """t-SNE from a plane to begin with, and its trustworthiness."""
    from sklearn.manifold import TSNE, trustworthiness

    first = (start / start[:, 0].std() * 1e-4).float().numpy()
    options: dict[str, Any] = {"init": first, "perplexity": min(30.0, (len(vectors) - 1) / 3), "random_state": 0}
    found = TSNE(**options).fit_transform(vectors.numpy())
    nearest = min(NEIGHBOURS, (len(vectors) - 1) // 2)
    return torch.from_numpy(found).double(), float(trustworthiness(vectors.numpy(), found, n_neighbors=nearest))


def _joined(axes: Axes, plane: Tensor, points: Points) -> None:
    """Lines from each item's first point to its others: one path, with gaps."""
    first: dict[int, int] = {}
    path = list[Tensor]()
    gap = torch.full((2,), math.nan, dtype=torch.float64)
    for place, item in enumerate(points.item.tolist()):
        start = first.setdefault(item, place)
        if start != place:
            path += [plane[start], plane[place], gap]
    if path:
        x, y = torch.stack(path).T.numpy()
        axes.plot(x, y, color=OTHER, linewidth=0.4, alpha=0.7)


def _drawn(axes: Axes, plane: Tensor, points: Points, labels: list[list[str]] | None) -> list[Kind]:
    """Points, and what they are: modalities, or classes, of which the largest have a look of their own."""
    modalities = list(dict.fromkeys(points.modality))
    if labels is None:
        named = list(zip(points.modality, points.modality, strict=True))
        looks = {(m, m): (COLORS[(i + 2) % len(COLORS)], _mark(i)) for i, m in enumerate(modalities)}
    else:
        texts = [some[0] if len(some) == 1 else SEVERAL for some in labels]
        named = list(zip(texts, points.modality, strict=True))
        looks = _looks(texts, modalities)
    places: dict[tuple[str, str] | None, list[int]] = {None: [], **{name: [] for name in looks}}
    for place, name in enumerate(named):
        places[name if name in looks else None].append(place)
    kinds = list[Kind]()
    for name, own in places.items():
        if own:
            color, mark = (OTHER, "o") if name is None else looks[name]
            axes.plot(*plane[own].T.numpy(), mark, color=color, markersize=3.6, markeredgewidth=0, alpha=0.85)
            if name is None:
                said = f"{len({named[i][0] for i in own})} other classes"
            else:
                said = name[0] if labels is None or len(modalities) == 1 else " ".join(name)
            kinds.append(Kind(said, color, MARKS[mark], len(own)))
    return kinds[1:] + kinds[:1] if places[None] else kinds


def _looks(texts: list[str], modalities: list[str]) -> dict[tuple[str, str], tuple[str, str]]:
    """Color and mark of the largest classes, the largest first; marks tell modalities apart, or else more classes."""
    sizes = Counter(dict.fromkeys(sorted(set(texts)), 0))  # of equally large ones the first in the alphabet
    sizes.update(texts)
    several = len(modalities) > 1
    shown = sizes.most_common(len(COLORS) * (1 if several else len(MARKS)))
    return {
        (text, m): (COLORS[i % len(COLORS)], _mark(j if several else i // len(COLORS)))
        for i, (text, _) in enumerate(shown)
        for j, m in enumerate(modalities)
    }


def _mark(number: int) -> str:
    return list(MARKS)[number % len(MARKS)]
