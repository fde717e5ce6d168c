"""A batch in parts through the towers, with the gradients of the whole: gradient caching."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import get_device_states, set_device_states

from mmcl.model import MultiTower, embedded
from mmcl.types import Batch, modality_of

Rows = Mapping[str, Tensor]
NONE = slice(0, 0)


class Chunks:
    r"""One batch whose samples go through the towers a few at a time.

    The towers embed all chunks without keeping activations. The objective sees the vectors :math:`z` of the whole
    batch, and its backward pass leaves :math:`\partial L / \partial z`. Then each chunk :math:`c` is embedded once
    more, and

    .. math:: \frac{\partial L}{\partial \theta} = \sum_c
        \frac{\partial L}{\partial z_c} \frac{\partial z_c}{\partial \theta}

    which is the gradient of the whole batch, whatever the objective is: it computes once, with all rows, so that its
    own parameters (temperatures, biases) get theirs once. The second pass draws what the first one drew (dropout).
    Memory for activations is that of one chunk; a step costs one forward pass more. Only the last chunk's backward
    pass shares gradients between processes.

    Batch normalisation sees chunks, as it sees processes, and counts each once in its averages.

    Args:
        model: the towers.
        wrapped: the same as the backward pass needs them (DDP).
        rows: of the names that have any, on the device.
        batch: whose they are.
        size: samples of a chunk.
        autocast: in which the towers compute.
        unshared: in which gradients are not shared.
        parts: how many there are, on every process; each goes through `wrapped`, also where this process has no rows
            of it (sharded towers). As many as have rows, unless told.

    Reference:
        Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP 2021, section
        3.2. https://arxiv.org/abs/2101.06983
    """

    def __init__(
        self,
        model: MultiTower,
        wrapped: nn.Module,
        rows: Rows,
        batch: Batch,
        size: int,
        autocast: Callable[..., AbstractContextManager[Any]] = nullcontext,
        unshared: Callable[..., AbstractContextManager[Any]] = nullcontext,
        parts: int | None = None,
    ) -> None:
        self.model, self.wrapped = model, wrapped
        self.autocast, self.unshared = autocast, unshared
        self.rows = rows
        self.together = parts is not None
        self.places = list(_places(batch, rows, size, parts))
        self.generators: list[_Generators] = []

    @torch.no_grad()
    def embed(self) -> dict[str, Tensor]:
        """Vectors of all rows, by name, without activations; the objective's backward pass leaves gradients at them."""
        self.vectors: dict[str, Tensor] = {}
        with uncounted(self.model), self.autocast():
            model = self.wrapped if self.together else self.model
            for places in self.places:
                part = self.part(places)
                self.generators.append(_Generators(part))
                for name, made in embedded(model, part).items():
                    if name not in self.vectors:  # room for all: parts of their own would leave holes between chunks
                        count = len(self.rows.get(name, made))
                        self.vectors[name] = made.new_empty(count, made.shape[1], dtype=_wide(made.dtype))
                    self.vectors[name][places.get(name, NONE)] = made
        self.after = _Generators(self.part(self.places[-1]))
        return {name: vectors.requires_grad_() for name, vectors in self.vectors.items()}

    def backward(self) -> None:
        """Gradients of the towers, of those that are left at the vectors."""
        learning = {m for m in self.model.modalities if any(True for _ in self.model.tower(m).learning_parameters())}
        for number, (places, generators) in enumerate(zip(self.places, self.generators, strict=True), 1):
            own = {name: place for name, place in places.items() if modality_of(name) in learning}
            last = number == len(self.places)
            if own or last or self.together:
                generators.restore()
                with nullcontext() if last else self.unshared():
                    made = embedded(self.wrapped, self.part(own))
                    torch.autograd.backward(list(made.values()), [self._left(n, x, own) for n, x in made.items()])
        self.after.restore()

    def part(self, places: Mapping[str, slice]) -> dict[str, Tensor]:
        """The rows that lie there."""
        return {name: self.rows[name][place] for name, place in places.items()}

    def _left(self, name: str, made: Tensor, places: Mapping[str, slice]) -> Tensor:
        """The gradient that is left at the vectors of a chunk; zero where the objective does not look at them."""
        gradient = self.vectors[name].grad if name in places else None
        return torch.zeros_like(made) if gradient is None else gradient[places[name]].to(made.dtype)


def _places(batch: Batch, names: Iterable[str], size: int, parts: int | None = None) -> Iterator[dict[str, slice]]:
    """Where the rows of a few samples after another lie, of the names that have any.

    Parts without rows are left out, but for one where there are no others; or there are as many as are asked for.
    """
    begun, nothing = dict.fromkeys(names, 0), True
    for first in range(0, len(batch) if parts is None else parts * size, size):
        counts = {name: int(batch.present[name][first : first + size].sum()) for name in begun}
        part = {name: slice(begun[name], begun[name] + count) for name, count in counts.items() if count}
        begun = {name: begun[name] + count for name, count in counts.items()}
        if part or parts is not None:
            nothing = False
            yield part
    if nothing:
        yield {}


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.itemsize < 4 else dtype


class _Generators:
    """Where the generators of the CPU, and of the devices of some rows, stand."""

    def __init__(self, rows: Rows) -> None:
        self.cpu = torch.get_rng_state()
        self.devices, self.states = get_device_states(*rows.values())

    def restore(self) -> None:
        """Let them stand there again."""
        torch.set_rng_state(self.cpu)
        set_device_states(self.devices, self.states)


@contextmanager
def uncounted(model: nn.Module) -> Iterator[None]:
    """Without taking up anything into running statistics (batch normalisation)."""
    counting = [m for m in model.modules() if m.training and getattr(m, "track_running_stats", False)]
    for module in counting:
        module.track_running_stats = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in counting:
            module.track_running_stats = True  # type: ignore[assignment]
