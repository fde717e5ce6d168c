"""What an optimizer remembers, as a checkpoint keeps it: tensors, and numbers that JSON can hold."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmcl.errors import MmclError

Number = bool | int | float


def remembered(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Number]]:
    """Tensors and numbers: ``3.exp_avg`` of the parameter with number 3, ``group.0.step`` of a whole group.

    What else groups hold is settings, and comes of the recipe.

    Raises:
        MmclError: a slot holds something else.
    """
    state = optimizer.state_dict()
    slots = {f"{number}.{name}": value for number, slot in state["state"].items() for name, value in slot.items()}
    for key, value in slots.items():
        if not isinstance(value, Tensor | Number):
            raise MmclError(f"optimizer: a checkpoint keeps tensors and numbers; {key} is a {type(value).__name__}.")
    settings = {*optimizer.defaults, "params", "lr_factor"}
    groups = {
        f"group.{number}.{name}": value
        for number, group in enumerate(state["param_groups"])
        for name, value in group.items()
        if name not in settings
    }
    values = slots | groups
    tensors = {key: value for key, value in values.items() if isinstance(value, Tensor)}
    return tensors, {key: value for key, value in values.items() if isinstance(value, Number)}


def restore(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Number]) -> None:
    """Go on from what `remembered` gave, over the same parameters in the same order."""
    slots: dict[int, dict[str, Any]] = {}
    groups = [dict(group) for group in optimizer.state_dict()["param_groups"]]
    for key, value in {**tensors, **numbers}.items():
        place, _, name = key.partition(".")
        if place == "group":
            number, _, name = name.partition(".")
            groups[int(number)][name] = value
        else:
            slots.setdefault(int(place), {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": groups})
