"""What a recipe may say; load, override, save."""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML, YAMLError

from mmcl import bundled, effects
from mmcl.data.source import Selector, columns
from mmcl.errors import MmclError
from mmcl.losses import ObjectiveSpec
from mmcl.optimizers import OptimizerPart
from mmcl.overrides import override, put
from mmcl.registry import Part, Spec, Told, explain, refused
from mmcl.schedules import SchedulePart
from mmcl.specs import Count, DataSpec, TrainingSpec
from mmcl.towers import Asset, ModelFolder, TowerPart
from mmcl.towers.weights import PRETRAINED, RANDOM, WeightsSpec
from mmcl.types import modality_of

Mark = TypeVar("Mark", Asset, ModelFolder)


class Recipe(Spec):
    """One run, complete."""

    run: str
    """The run folder."""
    seed: Annotated[int, Field(gt=-(2**40), lt=2**40)] = 0
    """Of the weights, the order of samples and their augmentation."""
    dim: Count
    """Width of the shared space."""
    towers: dict[str, TowerPart]
    """One a modality."""
    objective: ObjectiveSpec
    """A preset's name, a term, or a list of both."""
    data: DataSpec
    optimizer: OptimizerPart
    schedule: SchedulePart
    training: TrainingSpec
    tasks: list[str] = []
    """What to measure, as `mmcl tasks` lists them."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Recipe":
        for look in (self._data_misfits, self._terms_misfits):
            if told := list(look()):
                raise refused(told, "Recipe")
        return self

    def _data_misfits(self) -> Iterator[Told]:
        """What does not fit the data."""
        have = self.data.modalities
        for modality in self.towers:
            if "." in modality:
                told = f"what has a dot in its name goes through {modality_of(modality)}'s tower."
                yield Told(("towers", modality), told)
            elif modality not in have:
                told = f"data.train does not say where {modality} lies; its modalities are {have}."
                yield Told(("towers", modality), told)
        for modality in have:
            if modality_of(modality) not in self.towers:
                told = f"modalities.{modality}: there is no tower for {modality_of(modality)}."
                yield Told(("data", "train"), told)
        if self.data.batch_size < 2:
            told = "a row alone has nothing to be told from, so that nothing would be trained; 2 rows or more."
            yield Told(("data", "batch_size"), told)
        if self.steps < 1:
            told = f"{self.training.samples} is less than one batch of {self.data.batch_size}."
            yield Told(("training", "samples"), told)
        else:
            yield from effects.of_policies(self.towers, self.steps)
            try:
                self.schedule.build().factor(0, self.steps)
            except MmclError as error:
                yield Told(("schedule",), str(error))
        yield from self._validation_misfits()
        yield from self._copies_misfits()

    def _validation_misfits(self) -> Iterator[Told]:
        for key in ("modalities", "extras") if self.data.held_out else ():
            both = (self.data.sources, self.data.held_out)
            want, have = ({name for source in sources for name in getattr(source, key)} for sources in both)
            if want != have:
                told = f"its {key} are {sorted(have)}, and those of data.train {sorted(want)}; they must be the same."
                yield Told(("data", "validation"), told)
        if any(source.weight is not None for source in self.data.held_out):
            told = "each sample counts once, so that a weight has no effect; leave it out."
            yield Told(("data", "validation", "weight"), told)
        who = any(source.identity is not None for source in self.data.sources)
        if who and any(source.identity is None for source in self.data.held_out):
            told = "data.train says which samples show the same thing, and the loss asks for it; say it here, too."
            yield Told(("data", "validation", "identity"), told)

    def _copies_misfits(self) -> Iterator[Told]:
        try:
            columns(self.data.sources, self.data.copies)
        except MmclError as error:
            yield Told(("data", "copies"), str(error).removeprefix("copies: "))
            return
        many = {m for m, count in self.data.copies.items() if count > 1}
        for source in self.data.sources:
            several = [m for m in source.modalities if m in many]
            if source.captions == "all" and not any(Selector.parse(source.modalities[m], m).is_text for m in several):
                yield Told(
                    ("data", "train", "captions"),
                    "all captions at once are copies of a text: say how many at most, as in data.copies: {text: 5}, or "
                    "take random or first.",
                )
        for name, mix in self.data.mix.items():
            if name not in self.names:
                yield Told(("data", "mix", name), f"it is not among {self.names}.")
            elif mix.by is not None and (mix.by not in self.names or modality_of(mix.by) == modality_of(name)):
                yield Told(("data", "mix", name, "by"), f"it must name another one of {self.names}; got {mix.by!r}.")
        if len(self.names) < 2:
            told = f"a contrast needs two modalities or more, or data.copies of one; got {list(self.towers)}."
            yield Told(("towers",), told)

    def _terms_misfits(self) -> Iterator[Told]:
        """What the terms cannot do with the rest, and what has no effect on any of them."""
        fit, carried = True, self.data.carried(self.data.sources)
        for number, term in enumerate(self.objective):
            try:
                term.fits(self.names, dict.fromkeys(self.extras), self.data.mix, self.dim)
            except MmclError as error:
                fit = False
                yield Told(("objective", number), str(error))
                continue
            if (told := effects.of_carried(term, self.names, carried, self.data.batches == "by_source")) is not None:
                yield Told(("objective", number), told)
            for key, message in effects.of_a_term(term, self.names, self.data.sources):
                yield Told(("objective", number, key), message)
        if self.training.ema is not None and not self.training.ema.evaluate and not self.averaged:
            yield Told(("training", "ema"), "nothing looks at the average: say evaluate: true, or leave it out.")
        if (idle := effects.of_steps(self.objective, self.steps)) is not None:
            yield Told(("objective",), idle)
        elif fit:
            yield from effects.of_names(self.objective, self.names, self.data.copies, self.data.extras)

    @property
    def names(self) -> list[str]:
        """What the objective sees: each modality and its copies, by tower."""
        every = [name for several in columns(self.data.sources, self.data.copies).values() for name in several]
        return [name for tower in self.towers for name in every if modality_of(name) == tower]

    @property
    def extras(self) -> list[str]:
        """What the objective sees besides: those of the data, and what the average of the towers makes of `names`."""
        return [*self.data.extras, *(f"ema.{name}" for name in self.names if self.training.ema is not None)]

    @property
    def averaged(self) -> list[str]:
        """Which of `names` the objective wants of the average."""
        asked = set[str]().union(*(term.extras() for term in self.objective))
        return [name for name in self.names if f"ema.{name}" in asked]

    @property
    def steps(self) -> int:
        """Steps of the optimizer."""
        return self.training.samples // self.data.batch_size

    def to_yaml(self) -> str:
        """The recipe, fully resolved."""
        return dump_yaml(self.model_dump(mode="json"))


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a file, one that ships with mmcl, or that of a run.

    A file, a folder or weights that the recipe names are looked for beside the recipe first, then in the working
    directory.

    Args:
        name: a path to a YAML file, a name as `mmcl recipes` lists it, or a run folder.
        overrides: ``key.path=value``; the value is YAML. A part given by its name alone replaces the whole part.

    Raises:
        MmclError: there is no such recipe, or something in it is wrong; all errors at once, each with its path.
    """
    path = Path(name) / "recipe.yaml"
    if path.is_file():
        content = {**read_yaml(path), "run": str(name)}
    else:
        path = bundled.find("recipe", str(name), bundled.shelf("recipes"), ".yaml", "mmcl recipes")
        content = read_yaml(path)
    if not isinstance(content, dict):
        raise MmclError(f"{name}: a recipe is a mapping of keys to values; this file holds {type(content).__name__}.")
    for said in overrides:
        override(content, said)
    recipe = check(Recipe, content, str(name))
    beside = path.parent
    for keys, file in assets(recipe):
        if not file.is_absolute() and (beside / file).exists():
            put(content, keys, str(beside / file))
    for keys, said, mark in model_folders(recipe):
        if (found := mark.beside(said, beside)) != said:
            put(content, keys, found)
    for modality, weights in weights_of(recipe).items():
        if weights.source not in (RANDOM, PRETRAINED) and (beside / weights.source).exists():
            put(
                content, ("towers", modality, "weights"), {**weights.model_dump(), "from": str(beside / weights.source)}
            )
    return check(Recipe, content, str(name))


def check(spec: type[Any], content: Any, where: str) -> Any:
    """``content`` as a checked ``spec``, with all errors in one message.

    Raises:
        MmclError: something in it is wrong.
    """
    try:
        return spec.model_validate(content)
    except ValidationError as error:
        raise explain(error, where) from None


def read_yaml(path: Path) -> Any:
    """Content of a YAML 1.2 file.

    Raises:
        MmclError: it is no YAML.
    """
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except YAMLError as error:
        raise MmclError(f"{path}: this is no YAML: {error}") from None


def dump_yaml(content: Any) -> str:
    """YAML that a person likes to read: in the order given, short lists in one line."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 120
    out = io.StringIO()
    yaml.dump(content, out)
    return out.getvalue()


def assets(recipe: Any) -> list[tuple[tuple[str, ...], Path]]:
    """Where in a recipe files are named that a run cannot do without: (path of keys, file)."""
    return [(keys, file) for keys, file, _ in _marked(recipe, Asset)]


def model_folders(recipe: Any) -> list[tuple[tuple[str, ...], str, ModelFolder]]:
    """Where in a recipe models of libraries are named: (path of keys, what is said, what kind of name it is)."""
    return _marked(recipe, ModelFolder)


def weights_of(recipe: Recipe) -> dict[str, WeightsSpec]:
    """What a recipe says of its towers' weights, by modality; those of which it says nothing are left out."""
    return {modality: part.weights for modality, part in recipe.towers.items() if part.weights is not None}


def _marked(part: Any, mark: type[Mark], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any, Mark]]:
    """Arguments whose types are marked so: (path of keys, value, mark)."""
    found: list[tuple[tuple[str, ...], Any, Mark]] = []
    if isinstance(part, Mapping):
        for key, value in part.items():
            found += _marked(value, mark, (*path, str(key)))
    elif isinstance(part, Spec):
        for key, field in type(part).model_fields.items():
            value = getattr(part, key)
            if its := [one for one in field.metadata if isinstance(one, mark)]:
                found.append(((*path, key), value, its[0]))
            elif isinstance(value, Mapping | Part | Spec):
                found += _marked(value, mark, (*path, key))
    return found
