"""What a pass through the towers costs, counted without computing it: tensors have shapes here, and no memory."""

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_backward_flop_count, sdpa_flop_count
from torch.utils.weak import WeakIdKeyDictionary

from mmcl.losses import Objective
from mmcl.model import MultiTower
from mmcl.types import Embeddings

aten: Any = torch.ops.aten
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


def _convolution_backward(gradient: Any, rows: Any, weight: Any, *more: Any, **_: Any) -> int:
    """As much again as the forward pass for the rows, and for the weights, where these are asked for."""
    transposed, asked = more[4], more[7]
    return conv_flop_count(rows, weight, gradient, transposed) * sum(asked[:2])


FORMULAS: dict[Any, Any] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten.convolution_backward: _convolution_backward,
}
"""What torch's counter lacks, and what it counts too high: weights of a convolution in groups (depthwise)."""


def counting() -> FlopCounterMode:
    """Torch's counter of floating-point operations: products of matrices, convolutions, attention."""
    return FlopCounterMode(display=False, custom_mapping=FORMULAS)


@dataclass(frozen=True)
class Passes:
    """A forward and a backward pass through all towers."""

    forward: dict[str, int]
    """Floating-point operations by modality, of all its rows; a multiply-add is two."""
    backward: dict[str, int]
    """The same; what is computed again for it (activation checkpointing) is in it."""
    activations: int
    """Bytes that lie there for the backward pass, once the forward pass is over."""
    peak: int
    """Bytes at the worst instant, of activations and the weights' gradients together."""


class Living(TorchDispatchMode):
    """Counts the bytes of tensors that are made while it is entered: those that are alive, and the most there were.

    What an operation needs only while it computes is not seen.

    Args:
        known: tensors that do not count, nor do views of them.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen = WeakIdKeyDictionary()
        for tensor in known:
            self._seen[tensor.untyped_storage()] = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """One operation."""
        made = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._count, made)
        return made

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        self._seen[storage] = True
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, size).atexit = False

    def _gone(self, size: int) -> None:
        self.now -= size


@contextmanager
def pretending(*modules: nn.Module) -> Iterator[None]:
    """Modules that were built on the meta device, as if they lay on a CPU from here on.

    So they take the kernels and types of numbers that they take in training: attention without a matrix of all
    scores, autocast.
    """
    parts = [part for module in modules for part in module.modules()]  # peft's compute something, to list them
    with FakeTensorMode():
        made: dict[int, Tensor] = {}  # tied weights stay tied
        for part in parts:
            held: list[dict[str, Any]] = [part._parameters, part._buffers]
            for tensors in held:
                for name, tensor in tensors.items():
                    if tensor is not None:
                        tensors[name] = made.setdefault(id(tensor), _pretended(tensor))
        yield


def _pretended(tensor: Tensor) -> Any:
    fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    return nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake


def passes(model: MultiTower, shapes: Mapping[str, tuple[torch.Size, torch.dtype]], precision: str) -> Passes:
    """Cost of a forward and a backward pass, as the towers learn now; within `pretending`.

    The towers go forward one after the other and then backward, the last one first, as autograd does it.

    Args:
        model: the towers.
        shapes: of the rows of each modality.
        precision: ``fp32``, ``bf16`` or ``fp16``.
    """
    rows = {m: torch.empty(shape, dtype=dtype) for m, (shape, dtype) in shapes.items()}
    forward, backward = {}, dict.fromkeys(rows, 0)
    living = Living([*model.parameters(), *model.buffers(), *rows.values()])
    made: dict[str, Tensor] = {}
    with living:
        for modality, some in rows.items():
            lower = torch.autocast("cpu", TYPES.get(precision), enabled=precision in TYPES)
            with counting() as counter, lower:
                made[modality] = model.tower(modality)(some).float()
            forward[modality] = counter.get_total_flops()
        activations = living.now
        for modality in reversed(list(made)):
            vectors = made.pop(modality)
            if vectors.requires_grad:
                with counting() as counter:
                    vectors.backward(torch.empty_like(vectors))
                backward[modality] = counter.get_total_flops()
            del vectors
    return Passes(forward, backward, activations, living.peak)


def objective_peak(objective: Objective, record: Embeddings) -> int:
    """Bytes at the worst instant of an objective's forward and backward pass: vectors, gradients and what lies between.

    Computed in earnest: what an objective does depends on its numbers.

    Args:
        objective: on the record's device.
        record: of a step; its vectors count.
    """
    living = Living([*objective.parameters(), *objective.buffers()])
    with living:
        everyone = {name: x.clone().requires_grad_() for name, x in record.all.items()}
        local = {name: x[record.own] for name, x in everyone.items()}
        objective(replace(record, all=everyone, local=local)).total.backward()
    return living.peak


class _Stepping(Living):
    """The same of an optimizer that asks for a number on the host: it counts steps, and any count will do."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """One operation."""
        return (
            1.0 if func is aten._local_scalar_dense.default else super().__torch_dispatch__(func, types, args, kwargs)
        )


def optimizer_step(optimizer: torch.optim.Optimizer) -> tuple[int, int]:
    """Bytes that an optimizer keeps, and bytes that it needs beside them while it steps; within `pretending`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    living = _Stepping([*parameters, *(p.grad for p in parameters if p.grad is not None)])
    with living:
        optimizer.step()
    kept = [value for slot in optimizer.state.values() for value in slot.values() if isinstance(value, Tensor)]
    slots = sum(tensor.numel() * tensor.element_size() for tensor in kept)
    return slots, max(living.peak - slots, 0)
