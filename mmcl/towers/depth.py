"""How deep each parameter of an encoder lies, by the names that open_clip, timm and transformers give to blocks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from mmcl.errors import MmclError

BLOCK = re.compile(r"(?:^|\.)(resblocks|blocks?|layers?|stages?|h)\.?(\d+)\.")
INNER = re.compile(
    r"(?:(?:blocks|layers)\.)?(\d+)\."
)  # a block of a stage: layers.1.blocks.0, stages.1.layers.0, layer1.0
STAGES = {"layer", "layers", "stage", "stages"}  # what blocks may lie in; T5's block.0.layer.1 is a part of a block
STEM = re.compile(
    r"emb|token|patch|stem|batch_norm|(?:^|\.)(?:wte|wpe|shared|mel)\."
)  # before the blocks, wherever listed
LAST = re.compile(r"(?:^|[._])proj(?:ection)?(?:\.|$)")  # after the blocks, though open_clip lists it first


@dataclass(frozen=True)
class Depths:
    """Depths of an encoder's parameters: 0 before the blocks, then a number a block, and what follows."""

    of: dict[str, int]
    """Parameter -> depth."""
    last_block: int
    """Depth of the last block; what comes after it is as deep or deeper."""
    blocks: int
    """How many there are."""

    @property
    def last(self) -> int:
        """The greatest."""
        return max(self.of.values())


def depths(encoder: nn.Module) -> Depths:
    """Depths of all parameters; of timm's models as their own `group_matcher` says.

    Raises:
        MmclError: it has no numbered blocks.
    """
    names = [name for name, _ in encoder.named_parameters()]
    matched = dict(_of_timm(encoder))
    found = matched or _by_name(names)
    beyond = max(found.values(), default=0) + 1
    of = {name: found.get(name, beyond) for name in names}
    blocks = {of[name] for name in found if BLOCK.search(name)}
    if not blocks:
        raise MmclError(
            f"the {type(encoder).__name__} has no numbered blocks that would say which of its weights lie deeper "
            f"(its parts are: {', '.join(dict.fromkeys(name.rpartition('.')[0] for name in names))[:400]})."
        )
    return Depths(of, max(blocks), len(blocks))


def block_modules(encoder: nn.Module) -> dict[str, nn.Module]:
    """The blocks of an encoder by name, the innermost ones where they lie in stages; none where none are numbered."""
    places = set[str]()
    for name, _ in encoder.named_parameters():
        if (match := BLOCK.search(name)) is not None:
            inner = INNER.match(name, match.end()) if match[1] in STAGES else None
            places.add(name[: (inner or match).end() - 1])
    innermost = [p for p in places if not any(other.startswith(f"{p}.") for other in places)]
    found: dict[str, nn.Module] = {}
    for name, module in encoder.named_modules():
        if name in innermost:
            parts = module.named_children() if isinstance(module, nn.Sequential) else [("", module)]
            found |= {
                f"{name}.{part}".rstrip("."): one for part, one in parts if next(one.parameters(), None) is not None
            }
    return found


def _of_timm(encoder: nn.Module) -> Iterator[tuple[str, int]]:
    """Depths within timm's models, which a family may have wrapped; what the wrapper adds comes after."""
    from timm.models import group_parameters

    for name, module in encoder.named_modules():
        if hasattr(module, "group_matcher"):
            matcher = module.group_matcher(coarse=False)  # type: ignore[operator]
            of: Any = group_parameters(module, matcher, reverse=True)
            yield from ((f"{name}.{parameter}" if name else parameter, int(depth)) for parameter, depth in of.items())
            return


def _by_name(names: list[str]) -> dict[str, int]:
    """Depths of parameters in the order in which the modules are listed."""
    keys = {name: _block(name) for name in names}
    inside = [key for key in keys.values() if key is not None]
    if not inside:
        return {}
    staged = {key[:2] for key in inside if len(key) == 3}
    found: dict[str, tuple[int | str, ...] | None] = {}
    behind: dict[tuple[int | str, ...], list[str]] = {}
    for name, key in keys.items():
        if key is not None and len(key) == 2 and key in staged:  # between two stages: with the block that is next to it
            before = [k for k in found.values() if k is not None and len(k) == 3 and k[:2] == key]
            if before:
                key = before[-1]
            else:
                behind.setdefault(key, []).append(name)
        elif key is not None and key[:2] in behind:
            found |= dict.fromkeys(behind.pop(key[:2]), key)
        found[name] = key
    order = {key: number for number, key in enumerate(dict.fromkeys(k for k in found.values() if k is not None), 1)}
    started, depth, stem = False, {}, any(_is_stem(name, False) for name, key in keys.items() if key is None)
    for name in names:
        key = found[name]
        started |= key is not None
        depth[name] = order[key] if key is not None else 0 if _is_stem(name, started) else len(order) + 1
    return depth if stem else {name: number - 1 for name, number in depth.items()}


def _block(name: str) -> tuple[int | str, ...] | None:
    """What tells a parameter's block from others: where the blocks lie, its number, and its number within a stage."""
    match = BLOCK.search(name)
    if match is None:
        return None
    outer = (name[: match.start(2)].rstrip("0123456789"), int(match[2]))
    inner = INNER.match(name, match.end()) if match[1] in STAGES else None
    return outer if inner is None else (*outer, int(inner[1]))


def _is_stem(name: str, started: bool) -> bool:
    """Whether a parameter outside of the blocks works before them."""
    if "pool" in name:  # which has positions of its own in open_clip's ResNets
        return False
    return bool(STEM.search(name)) or not (started or LAST.search(name))
