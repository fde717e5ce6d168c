"""What an optimizer remembers, as a checkpoint keeps it: tensors, and numbers that JSON can hold."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from mmcl.errors import MmclError
from mmcl.training.sharding import parted

Number = bool | int | float


def settings(optimizer: torch.optim.Optimizer) -> frozenset[str]:
    """What the groups of an optimizer say before its first step: it comes of the recipe."""
    return frozenset(key for group in optimizer.param_groups for key in group)


def remembered(
    optimizer: torch.optim.Optimizer, settings: Collection[str]
) -> tuple[dict[str, Tensor], dict[str, Number]]:
    """Tensors and numbers: ``3.exp_avg`` of parameter 3; ``group.3.step`` and ``group.3.size`` of the group from 3 on.

    Args:
        optimizer: what remembers.
        settings: keys of its groups that are not to be kept.

    Raises:
        MmclError: a slot holds something else.
    """
    state = optimizer.state_dict()
    slots = {f"{number}.{name}": value for number, slot in state["state"].items() for name, value in slot.items()}
    for key, value in slots.items():
        if not isinstance(value, Tensor | Number):
            raise MmclError(f"optimizer: a checkpoint keeps tensors and numbers; {key} is a {type(value).__name__}.")
    groups = {
        f"group.{group['params'][0]}.{name}": value
        for group in state["param_groups"]
        for name, value in {**group, "size": len(group["params"])}.items()
        if group["params"] and name not in settings
    }
    values = slots | groups
    tensors = {key: value for key, value in values.items() if isinstance(value, Tensor)}
    return tensors, {key: value for key, value in values.items() if isinstance(value, Number)}


def restore(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Number]) -> None:
    """Go on from what `remembered` gave, over the same parameters in the same order.

    Groups may be cut otherwise than they were (sharded and whole weights lie in groups of their own).
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    slots: dict[int, dict[str, Any]] = defaultdict(dict)
    kept: dict[int, dict[str, Any]] = defaultdict(dict)
    for key, value in {**tensors, **numbers}.items():
        place, _, name = key.removeprefix("group.").partition(".")
        if key.startswith("group."):
            kept[int(place)][name] = value
        else:
            part = parted(value, parameters[int(place)]) if isinstance(value, Tensor) else value
            slots[int(place)][name] = part
    groups = []
    for group in optimizer.state_dict()["param_groups"]:
        begun = [first for first in kept if group["params"] and first <= group["params"][0]]
        known = kept[max(begun)] if begun else {}
        groups.append(group | {name: value for name, value in known.items() if name != "size"})
    optimizer.load_state_dict({"state": dict(slots), "param_groups": groups})
