"""Weights of a tower, at the start of a run: where from, and what exactly was loaded."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, runtime_checkable

import torch
from pydantic import BeforeValidator, Field, model_serializer
from torch import Tensor, nn

from mmcl.checkpoints import place
from mmcl.errors import MmclError
from mmcl.registry import Spec
from mmcl.towers.folders import HUB
from mmcl.towers.tensor_files import SUFFIXES, Tensors, few, read, read_hub, read_run

RANDOM, PRETRAINED = "random", "pretrained"
OWN = "safetensors"  # the format of exports that holds towers as they are


class WeightsSpec(Spec):
    """Where a tower's weights are from, where more is to be said than that."""

    source: Annotated[str, Field(min_length=1)] = Field(alias="from")
    """`random`; `pretrained`, the library's own; a tag of the library, where it has several; a file, a folder of one
    model, `hf-hub:` and a name on the hub; or a run, whose tower of the same modality is meant."""
    partial: bool = False
    """Load what fits, and leave the rest random."""
    prefix: str | None = None
    """Only tensors whose names begin so; their names without it count."""

    @model_serializer
    def _as_it_is_said(self) -> dict[str, Any]:
        return {"from": self.source, "partial": self.partial, "prefix": self.prefix}


def _mapping(value: Any) -> Any:
    if value is None or isinstance(value, dict | WeightsSpec):
        return value
    if not isinstance(value, str) or not value.strip():
        raise MmclError(
            "say `random`, `pretrained`, a tag, a file, a folder or a run, or a mapping such as {from: FILE, partial: "
            f"true}}; got {value!r}."
        )
    return {"from": value}


Weights = Annotated[WeightsSpec | None, BeforeValidator(_mapping)]


@runtime_checkable
class Loadable(Protocol):
    """What is asked of a backbone (`mmcl.towers.Backbone`)."""

    named: ClassVar[bool]

    def pretrained(self, tag: str | None) -> Mapping[str, Tensor]:
        """Weights of its library."""
        ...

    def translated(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights under its own names."""
        ...

    def state_dict(self, *, keep_vars: bool = False) -> dict[str, Any]:
        """Its tensors."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any:
        """Take tensors."""
        ...


@dataclass(frozen=True)
class Loaded:
    """What was loaded into a tower, by the names of its backbone's tensors."""

    source: str
    loaded: list[str]
    missing: list[str]  # not in the source: these are random
    misshapen: dict[str, str]  # in the source, of another shape: these are random
    unexpected: list[str]  # in the source, and not of this backbone
    resized: list[str]  # of those that were loaded
    head: bool  # whether the head was loaded as well
    misfit: str | None  # the shapes of the source's head and of this one, where they differ: this one is random
    files: list[dict[str, Any]]  # name, bytes, sha256

    def __str__(self) -> str:
        whole = len(self.loaded) + len(self.missing) + len(self.misshapen)
        said = f"{len(self.loaded)} of {whole} tensors from {self.source}"
        if self.head:
            said += ", and the head"
        if self.resized:
            said += f", {len(self.resized)} resized"
        if self.missing:
            said += f"; random, since it lacks them: {few(self.missing)}"
        if self.misshapen:
            said += f"; random, since its shapes differ: {few(_shapes(self.misshapen))}"
        if self.misfit:
            said += f"; the head is random, since its shapes differ ({self.misfit})"
        if self.unexpected:
            said += f"; {len(self.unexpected)} others of it are not used"
        return said

    def described(self) -> dict[str, Any]:
        """What weights.json holds."""
        return asdict(self)


def load_(backbone: Loadable, head: nn.Module, spec: WeightsSpec | None, called: str, modality: str) -> Loaded | None:
    """Bring weights into a tower that has random ones.

    Args:
        backbone: what they are for.
        head: what comes after it; loaded as well from a run that has one.
        spec: what the recipe says; where it says nothing, a model that a library knows by name has its weights.
        called: the family and its model, for messages.
        modality: the tower's.

    Returns:
        What was loaded; None where random weights are asked for.

    Raises:
        MmclError: a tensor of the backbone is missing or has another shape, the run's head has, or the weights cannot
            be read.
    """
    place = f"towers.{modality}.weights" if modality else "weights"
    if spec is None:
        spec = WeightsSpec.model_validate({"from": PRETRAINED if backbone.named else RANDOM})
    if spec.source == RANDOM:
        if spec.partial or spec.prefix is not None:
            raise MmclError(f"{place}: partial and prefix say nothing of random weights.")
        return None
    try:
        with torch.random.fork_rng(devices=[]):  # a library may build a model of its own; ours stay as they are drawn
            return _load_(backbone, head, spec, called, modality)
    except MmclError as error:
        kind = export_kind(Path(spec.source))
        hint = f" This is an export as {kind}; take one of the same run with --format {OWN}, which holds its towers."
        raise MmclError(f"{place}: {error}{hint if kind not in (None, OWN) else ''}") from None


def _load_(backbone: Loadable, head: nn.Module, spec: WeightsSpec, called: str, modality: str) -> Loaded:
    found = _found(backbone, spec, called, modality)
    ahead: dict[str, Tensor] = {}
    if all(name.startswith(("backbone.", "head.")) for name in found.state):  # a tower of mmcl
        ahead = {k.removeprefix("head."): t for k, t in found.state.items() if k.startswith("head.")}
        found = found.under("backbone.")
    try:
        state = backbone.translated(found.state)
    except (RuntimeError, AssertionError, KeyError) as error:
        raise MmclError(f"{found.source} does not fit {called}: {error!r}.") from None
    own = backbone.state_dict()
    fits = {name: t for name, t in state.items() if name in own and _form(t) == _form(own[name])}
    loaded = sorted(fits.keys() | _tied(backbone, fits.keys()))
    misshapen = {
        name: f"{_form(state[name])} instead of {_form(own[name])}"
        for name in own
        if name in state and name not in loaded
    }
    sizes = {t.numel() for t in found.state.values()}
    heads = [{k: tuple(t.shape) for k, t in tensors.items()} for tensors in (ahead, head.state_dict())]
    fits_head = bool(ahead) and heads[0] == heads[1]
    record = Loaded(
        source=found.source,
        loaded=loaded,
        missing=[name for name in own if name not in state and name not in loaded],
        misshapen=misshapen,
        unexpected=[*(name for name in state if name not in own), *(f"head.{k}" for k in ahead if not heads[1])],
        resized=[name for name, t in fits.items() if t.numel() not in sizes],
        head=fits_head,
        misfit=None if fits_head or not all(heads) else " instead of ".join(few(_shapes(shapes)) for shapes in heads),
        files=found.described(),
    )
    _judge(record, spec, called)
    if broken := [name for name, t in fits.items() if t.is_floating_point() and not t.isfinite().all()]:
        raise MmclError(f"{record.source} has numbers that are not finite: {few(sorted(broken))}.")
    backbone.load_state_dict(fits, strict=False)
    if fits_head:
        head.load_state_dict(ahead)
    return record


def _form(tensor: Tensor) -> str:
    """Shape, and the kind of numbers where these are no floats: weights of integers are quantised ones."""
    return f"{tuple(tensor.shape)}{'' if tensor.is_floating_point() else ' of integers'}"


def is_run(path: Path) -> bool:
    """Whether a path is the folder of a run, or a checkpoint of one."""
    path, _ = place(path)
    return (path / "recipe.yaml").is_file() and not (path / "manifest.json").exists()


def export_kind(path: Path) -> str | None:
    """The format in which a path is a run's export; None where it is none."""
    try:
        return json.loads((path / "manifest.json").read_text()).get("kind")
    except (OSError, ValueError, AttributeError):
        return None


def _found(backbone: Loadable, spec: WeightsSpec, called: str, modality: str) -> Tensors:
    """The tensors that are meant."""
    path = Path(spec.source)
    if is_run(path):
        return _plain(read_run(path).under(spec.prefix or f"towers.{modality}."), path)
    if export_kind(path) == OWN:
        return read(path).under(spec.prefix or f"{modality}.")
    if spec.source == PRETRAINED:
        found = Tensors(f"{called} (its own)", backbone.pretrained(None))
    elif spec.source.startswith(HUB):
        found = read_hub(spec.source.removeprefix(HUB))
    elif path.exists():
        found = read(path)
    else:
        _refuse_missing(backbone, spec)
        found = Tensors(f"{called} ({spec.source})", backbone.pretrained(spec.source))
    return found if spec.prefix is None else found.under(spec.prefix)


def look(backbone: Loadable, spec: WeightsSpec | None, called: str, modality: str) -> str | None:
    """See that weights are there, without reading them.

    Args:
        backbone: what they are for.
        spec: what the recipe says.
        called: the family and its model, for messages.
        modality: the tower's.

    Returns:
        What can be known only when they are read: those of a library or of the hub.

    Raises:
        MmclError: a file, a folder or a run's checkpoint is missing.
    """
    place, source = f"towers.{modality}.weights", (PRETRAINED if backbone.named else RANDOM)
    if spec is not None:
        source, path = spec.source, Path(spec.source)
        if is_run(path):
            if not any((path / "checkpoints").glob("step-*")):
                raise MmclError(f"{place}: {path} has no checkpoint yet. Train it on with: mmcl train {path} --resume")
            return None
        if path.exists():
            return None
    if source == RANDOM:
        return None
    if spec is not None and source != PRETRAINED and not source.startswith(HUB):
        try:
            _refuse_missing(backbone, spec)
        except MmclError as error:
            raise MmclError(f"{place}: {error}") from None
    return f"{place}: {called if source == PRETRAINED else f'{source} of {called}'} is fetched when the run begins"


def _refuse_missing(backbone: Loadable, spec: WeightsSpec) -> None:
    """Refuse what can only be a file or a folder, where none is there."""
    path = Path(spec.source)
    if path.suffix in SUFFIXES or path.is_absolute() or spec.source.startswith(".") or not backbone.named:
        raise MmclError(f"there is no file or folder {spec.source!r}.")


def _plain(found: Tensors, path: Path) -> Tensors:
    """The same, if no adapters stand between the weights."""
    if any(".base_layer." in name for name in found.state):
        raise MmclError(
            f"{path}: this tower has LoRA's adapters beside its weights. Put them together (mmcl export {path} "
            "--format safetensors --out DIR), and take DIR."
        )
    return found


def _tied(backbone: Loadable, names: Collection[str]) -> set[str]:
    """Further names of tensors that are known under several, of which files hold one."""
    own = backbone.state_dict(keep_vars=True)
    tensors = {id(own[name]) for name in names}
    return {name for name, t in own.items() if id(t) in tensors}


def _judge(record: Loaded, spec: WeightsSpec, called: str) -> None:
    """Refuse what is not whole, unless a part is asked for, and what is nothing."""
    whole = len(record.loaded) + len(record.missing) + len(record.misshapen)
    if not record.loaded and not record.misshapen:
        raise MmclError(
            f"nothing of {record.source} fits {called}: it has {few(record.unexpected)}, and "
            f"{few(record.missing)} are wanted. `prefix` picks one part of a checkpoint."
        )
    if record.loaded and (spec.partial or not (record.missing or record.misshapen or record.misfit)):
        return
    lines = [f"{record.source} has {len(record.loaded)} of the {whole} tensors of {called}."]
    if record.missing:
        lines.append(f"It lacks {len(record.missing)}: {few(record.missing)}.")
    if record.misshapen:
        lines.append(f"{len(record.misshapen)} have other shapes: {few(_shapes(record.misshapen))}.")
    if record.misfit:
        lines.append(f"Its head has other shapes: {record.misfit}.")
    lines.append(
        "Take the model that they are of"
        + (
            "."
            if not record.loaded
            else "; or say {from: ..., partial: "
            "true}, for random ones in their places (`prefix: ...` where they lie deeper in the file)."
        )
    )
    raise MmclError(" ".join(lines))


def _shapes(shapes: Mapping[str, Any]) -> list[str]:
    return [f"{name} {shape}" for name, shape in shapes.items()]
