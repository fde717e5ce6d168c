"""Towers whose weights lie in parts on all processes (FSDP2)."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from mmcl import distributed, marks
from mmcl.errors import MmclError
from mmcl.media import Picture, Sound
from mmcl.model import MultiTower
from mmcl.towers import Tower
from mmcl.towers.depth import block_modules
from mmcl.towers.lora import adapts_attention
from mmcl.training.chunks import uncounted

ROWS = 2  # of a batch that counts nothing: batch normalisation wants more than one
VALUES: dict[str, Callable[[Tensor], Any]] = {  # something that a tower can take, by what it takes
    "image": lambda row: Picture.of(np.full((64, 64, 3), 128, np.uint8)),
    "text": lambda row: "a",
    "audio": lambda row: Sound.of(np.random.default_rng(0).uniform(-0.1, 0.1, 16_000).astype(np.float32), 16_000),
    "vector": torch.ones_like,
}


class Sharded(nn.Module):
    """Towers of which each process keeps a part of the weights, gradients and what the optimizer knows (FSDP2).

    The blocks of each tower are units, and the rest of a tower is one: its weights are gathered from all processes
    before it computes and let go of afterwards, and its gradients are shared when its backward pass is done. So every
    process has to call the same towers in the same order. Each call agrees on them first, host to host: a tower is
    called where any process has rows for it. A process without any brings rows of its own, whose vectors are left out.

    The objective is not sharded, and the gradients are averaged as DDP averages them.

    Args:
        model: the towers, on the CPU or on the device.
        device: where they compute.
        reshard: let go of weights after the forward pass; otherwise after the backward pass, and parts of a batch share
            their gradients in the last one only.
        autocast: in which the towers compute; vectors are then widened to fp32.

    Raises:
        MmclError: a weight cannot be sharded, or a tower takes what no row can be made of.
    """

    def __init__(
        self,
        model: MultiTower,
        device: torch.device,
        reshard: bool,
        autocast: Callable[..., AbstractContextManager[Any]],
    ) -> None:
        super().__init__()
        self.fillers = {m: filler(model.tower(m)).to(device) for m in model.modalities}
        shard_(model, device, reshard)
        self.model, self.device, self.reshards, self.autocast = model, device, reshard, autocast
        self.units = units(model)
        self.sharing, self.owing = True, set[str]()

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Vectors, not normalised, of the rows of each modality that is given; a collective."""
        modalities = self.model.modalities
        called = dict(zip(modalities, distributed.anywhere([m in inputs for m in modalities]), strict=True))
        backwards = torch.is_grad_enabled()
        if backwards and self.sharing:  # gradients that lie here whole are shared in a backward pass
            called |= dict.fromkeys(self.owing, True)
        vectors, nothing = {}, []
        with self.autocast():
            for modality in (m for m in modalities if called[m]):
                tower = self.model.tower(modality)
                with marks.part(f"forward: {modality}"):
                    if modality in inputs:
                        vectors[modality] = _widened(tower(inputs[modality]))
                    else:
                        with uncounted(tower):
                            nothing.append(_widened(tower(self.fillers[modality]))[:0])
        if backwards:
            learning = {
                m for m in modalities if called[m] and any(True for _ in self.model.tower(m).learning_parameters())
            }
            self.owing = set() if self.sharing else self.owing | learning
        first = next(iter(vectors), modalities[0])
        if nothing := [none for none in nothing if none.requires_grad]:
            vectors[first] = torch.cat([*([vectors[first]] if vectors else []), *nothing])
        elif not vectors:
            vectors[first] = torch.zeros(0, self.model.dim, device=self.device, requires_grad=backwards)
        return vectors

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Keep gradients, whole, for a later backward pass to share; where weights are kept whole meanwhile."""
        if self.reshards:  # which was asked for to save memory, of which whole gradients would need as much
            yield
            return
        self._share(False)
        try:
            yield
        finally:
            self._share(True)

    def _share(self, sharing: bool) -> None:
        self.sharing = sharing
        for unit in self.units:
            unit.set_requires_gradient_sync(sharing, recurse=False)
            unit.set_reshard_after_backward(sharing, recurse=False)

    def close(self) -> None:
        """Let go of all whole weights, before they change."""
        for unit in self.units:
            unit.reshard()


def shard_(model: MultiTower, device: torch.device, reshard: bool) -> None:
    """Leave this process its part of each weight of each tower.

    Args:
        model: the towers, the same on every process.
        device: where they compute.
        reshard: let go of a unit's whole weights after its forward pass.

    Raises:
        MmclError: a weight cannot be sharded.
    """
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    for modality in model.modalities:
        tower = model.tower(modality)
        for name, parameter in tower.named_parameters():
            if not parameter.ndim:
                raise MmclError(f"towers.{modality}: {name} is a single number, which FSDP2 cannot shard; use DDP.")
        if any(adapts_attention(module) for module in tower.modules()):
            raise MmclError(
                f"towers.{modality}.policy: lora: adapters of torch's attention are added to its weights in each pass, "
                "which FSDP2 cannot follow; say other targets (such as mlp.c_fc), or use DDP."
            )
        if next(tower.parameters(), None) is not None:
            for unit in [*block_modules(tower.backbone).values(), tower]:
                fully_shard(unit, mesh=mesh, reshard_after_forward=reshard)
            register_fsdp_forward_method(tower, "patches")
    model.to(device)


def units(model: nn.Module) -> list[FSDPModule]:
    """What is gathered at once, of sharded towers; none of whole ones."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


@contextmanager
def opened(model: nn.Module, reshard: bool) -> Iterator[None]:
    """All weights whole, so that processes may use towers as they like, without gradients; a collective.

    Costs the memory of the weights.

    Args:
        model: sharded towers.
        reshard: as they were sharded.
    """
    found = units(model)
    for unit in found:
        unit.unshard()
        unit.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for unit in found:
            unit.set_reshard_after_forward(reshard, recurse=False)
            unit.reshard()


def local(tensor: Tensor) -> Tensor:
    """What of a tensor lies on this process."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors, those that are sharded gathered to the CPU of the first process one after another; a collective.

    Other processes get those that are not sharded.
    """
    first, found = distributed.rank() == 0, {}
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            full = tensor.full_tensor().detach()
            found |= {name: full.cpu()} if first else {}
        else:
            found[name] = tensor
    return found


def parted(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, sharded as another one is that has its shape; as it is, where that is whole."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def load_(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """`load_state_dict` of whole tensors, also into a module that is sharded."""
    own = module.state_dict()
    module.load_state_dict({k: parted(t, own[k]) if k in own else t for k, t in state.items()})


def apart_(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Let no group hold sharded and whole parameters at once, which no kernel takes; their numbers stay."""
    groups = []
    for group in optimizer.param_groups:
        parts = [[p for p in group["params"] if isinstance(p, DTensor) == sharded] for sharded in (True, False)]
        assert [*parts[0], *parts[1]] == group["params"] or not all(parts), "towers come before the objective"
        groups += [{**group, "params": part} for part in parts if part] or [group]
    optimizer.param_groups[:] = groups
    return optimizer


def total_norm(gradients: Iterable[Tensor]) -> Tensor:
    """Norm of gradients side by side, sharded or not; a collective where some are sharded."""
    gradients = list(gradients)
    shards = [local(g) for g in gradients if isinstance(g, DTensor)]
    others = torch.nn.utils.get_total_norm([g for g in gradients if not isinstance(g, DTensor)])
    if not shards:
        return others
    own = torch.nn.utils.get_total_norm(shards)
    return (distributed.total(own.square()) + others.to(own.device).square()).sqrt()


def clip_(gradients: Iterable[Tensor], limit: float, norm: Tensor) -> None:
    """Scale gradients, sharded or not, so that their norm is at most a limit; as torch clips."""
    torch._foreach_mul_([local(g) for g in gradients], (limit / (norm + 1e-6)).clamp(max=1.0))  # type: ignore[reportPrivateImportUsage]


def _widened(vectors: Tensor) -> Tensor:
    return vectors.float() if vectors.dtype.itemsize < 4 else vectors


def filler(tower: Tower) -> Tensor:
    """Rows that a tower can take, for a process that has none.

    Raises:
        MmclError: nothing is known that it could take.
    """
    if tower.takes not in VALUES:
        raise MmclError(
            f"a tower that takes {tower.takes} cannot be sharded (FSDP2): no row can be made for it; use DDP."
        )
    transform = tower.transform(train=True)
    rows = transform.empty(ROWS)
    for row in rows:
        transform(VALUES[tower.takes](row), lambda: np.random.default_rng(0), row)
    return transform.finish(rows, torch.ones(ROWS, dtype=torch.bool))
