"""Unit vectors in clusters, one a class, and the items that they belong to."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl.evaluators.base import Embedded, Evaluator, Items


def items(labels: Sequence[str], prefix: str = "x", ids: Sequence[int] | None = None) -> Items:
    """Items of some classes."""
    keys = [f"{prefix}{number:04}" for number in range(len(labels))]
    return Items(keys, torch.tensor(range(len(labels)) if ids is None else ids), {"label": [[name] for name in labels]})


def vectors(labels: Sequence[str], seed: int, noise: float = 0.9, dim: int = 8) -> Tensor:
    """Around a centre that belongs to the name of the class."""
    generator = torch.Generator().manual_seed(seed)
    centres = {c: torch.randn(dim, generator=torch.Generator().manual_seed(sum(map(ord, c)))) for c in set(labels)}
    rows = torch.stack([centres[c] for c in labels])
    return F.normalize(rows + noise * torch.randn(rows.shape, generator=generator), dim=-1)


def clusters(train: Sequence[str], test: Sequence[str], noise: float = 0.9, seed: int = 0) -> Embedded:
    """Pictures to learn from, and pictures to test on."""
    known = Embedded.single({"image": vectors(train, seed, noise)}, items(train, "train"))
    return Embedded.single({"image": vectors(test, seed + 1, noise)}, items(test, "test"), known)


def repeated(data: Embedded, times: Sequence[int]) -> Embedded:
    """Each test item as often as it was drawn."""
    chosen = torch.arange(len(data.items)).repeat_interleave(torch.tensor(times))
    drawn = items([data.items.one("label")[i] for i in chosen.tolist()], "drawn")
    return Embedded.single({m: x[chosen] for m, x in data.vectors.items()}, drawn, data.train)


def reordered(data: Embedded, order: Tensor) -> Embedded:
    """The same items in another order; one row each of every modality."""
    whole = data.items
    some = Items(
        [whole.keys[i] for i in order.tolist()],
        whole.ids[order],
        {"label": [whole.several("label")[i] for i in order.tolist()]},
    )
    return Embedded.single({m: x[order] for m, x in data.vectors.items()}, some, data.train)


class Nobody:
    """Embeds nothing: for evaluators that do not prompt."""

    def embed(self, modality: str, values: Sequence[str]) -> Tensor:
        raise AssertionError("nothing is prompted")


def assert_weights_are_repetitions(evaluator: Evaluator, data: Embedded, embedder: object = Nobody()) -> None:
    """Every figure under weights is the figure of the data with each item that often."""
    generator = torch.Generator().manual_seed(5)
    found = evaluator.measure(data, embedder).figures  # type: ignore[arg-type]
    for _ in range(3):
        times = torch.randint(0, 3, (len(data.items),), generator=generator)
        again = evaluator.measure(repeated(data, times.tolist()), embedder).figures  # type: ignore[arg-type]
        assert again.keys() == found.keys()
        for name, figure in found.items():
            got = figure.statistic(times[None].double())
            torch.testing.assert_close(got.item(), again[name].value, rtol=1e-12, atol=1e-12, equal_nan=True, msg=name)
