"""Parts that a recipe may name. The signature of a part's ``__init__`` is its only schema.

Arguments before ``*`` are what a recipe may say: their types, defaults and limits are checked by pydantic. Arguments
after ``*`` are what only the running program knows (the width of the shared space, say); `Part.build` takes them.

    SCORES: Registry[Score] = Registry("score")

    @SCORES.register("cosine")
    class Cosine: ...

    ScorePart = Annotated[SerializeAsAny[Part], PlainValidator(SCORES.check)]   # a field of a recipe

(`BeforeValidator` would validate once more against `Part` itself, and refuse the part's own arguments.)

A package of someone else's offers its parts through an entry point of the group ``mmcl.parts``: a module that registers
them when it is imported. It is imported when a name is not known, on loading a checkpoint as well as on training.
"""

import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, PlainValidator, TypeAdapter, ValidationError, create_model, model_validator
from pydantic.errors import PydanticUserError
from pydantic_core import InitErrorDetails, PydanticCustomError
from torch import nn

from mmcl.errors import MmclError, did_you_mean

T = TypeVar("T")
C = TypeVar("C", bound=type)


class Spec(BaseModel):
    """Base of everything a recipe can say: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _say_what_is_near(cls, value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            told = [Told(e["loc"], _words(cls, e), e["type"], e["input"]) for e in error.errors()]
            raise refused(_of_unions(cls, told), error.title) from None


class Told(NamedTuple):
    """One thing that is wrong with what a person wrote."""

    loc: tuple[int | str, ...]
    message: str
    kind: str = "mmcl"
    value: Any = None


def refused(told: Iterable[Told], title: str) -> ValidationError:
    """All that is wrong, as one error, each with its path; what validates around it puts its own path before."""
    details: list[InitErrorDetails] = []
    for t in told:
        error = PydanticCustomError(t.kind, "{message}", {"message": t.message})  # type: ignore[arg-type]
        details.append(InitErrorDetails(type=error, loc=t.loc, input=t.value))
    return ValidationError.from_exception_data(title, details)


def _words(cls: type[BaseModel], error: Mapping[str, Any]) -> str:
    """An error in words that know nothing of pydantic, and that name the nearest key where a key is not known."""
    kind, loc, message = error["type"], error["loc"], error["msg"]
    if kind == "extra_forbidden" and len(loc) == 1:
        known = [field.alias or key for key, field in cls.model_fields.items()]
        return f"there is no such key{did_you_mean(loc[0], known)} Known: {', '.join(known)}."
    if kind == "missing":
        return "this key is needed" if isinstance(loc[-1], str) else "one more is needed"
    if kind in ("model_type", "dict_type") and message.startswith("Input should be"):
        return "a mapping of keys to values is needed"
    return message.removeprefix("Value error, ")


def _of_unions(cls: type[BaseModel], told: Sequence[Told]) -> list[Told]:
    """The same, where a field may be one of several things, without what these are called, and of what was meant.

    What has the wrong type altogether was not meant, unless nothing else was.
    """
    found: list[Told] = []
    for key in dict.fromkeys(t.loc[:1] for t in told):
        its = [t for t in told if t.loc[:1] == key]
        if key and _is_union(cls, key[0]):
            its = [t._replace(loc=(*t.loc[:1], *t.loc[2:])) for t in its]
            meant = [t for t in its if len(t.loc) > 1 or not _is_misfit(t.kind)]
            first, *others = dict.fromkeys(t.message for t in its)
            message = "; or ".join([first.rstrip("."), *(other[0].lower() + other[1:] for other in others)])
            its = meant or [its[0]._replace(message=message, kind="union_type")]
        found += its
    return found


def _is_misfit(kind: str) -> bool:
    return kind.endswith(("_type", "_parsing")) or kind == "literal_error"


def _is_union(cls: type[BaseModel], key: object) -> bool:
    """Whether pydantic says, in the paths of a field's errors, which of several types it means."""
    field = cls.model_fields.get(str(key))
    if field is None or any(isinstance(mark, PlainValidator) for mark in field.metadata):
        return False
    several = get_origin(field.annotation) in (Union, types.UnionType)
    return several and sum(one is not type(None) for one in get_args(field.annotation)) > 1


def explain(error: ValidationError, where: str) -> MmclError:
    """All errors of what a person wrote, each with its path, as one message."""
    lines = [
        "  " + ": ".join(filter(None, (".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, "))))
        for e in error.errors()
    ]
    return MmclError("\n".join([f"{where}:", *lines]))


class Part(Spec):
    """One named part and its arguments, checked but not yet built."""

    name: str
    wants: ClassVar[tuple[str, ...]] = ()
    """What `build` must be told."""

    def build(self, **context: Any) -> Any:
        """Make the part; ``context`` is what only the running program knows."""
        return self.made(**context)

    def made(self, **context: Any) -> Any:
        """The class that is registered under this name, with its arguments; what `build` is made of."""
        raise NotImplementedError


class Registry(Generic[T]):
    """The parts of one kind, by name.

    Args:
        kind: what they are called in errors.
        base: what a recipe may say of every one of them.
    """

    def __init__(self, kind: str, base: type[Part] = Part) -> None:
        self.kind, self.base = kind, base
        self.classes: dict[str, type] = {}
        self._specs: dict[str, type[Part]] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Offer a class to recipes under ``name`` (class decorator)."""

        def add(cls: C) -> C:
            if name in self.classes:
                raise ValueError(f"two {self.kind}s are called {name!r}: {self.classes[name]} and {cls}")
            self._specs[name] = _spec(name, cls, self.base)
            self.classes[name] = cls
            return cls

        return add

    def check(self, value: Any) -> Part:
        """Turn what a recipe says (a name, or a mapping with a name) into a checked part."""
        if isinstance(value, Part):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise MmclError(f"a {self.kind} is a name, or a mapping with a `name`; got {value!r}.")
        return self.spec_of(value["name"]).model_validate(value)

    def offered(self) -> dict[str, type]:
        """All classes by name, those of installed packages included."""
        _import_plugins()
        return dict(self.classes)

    def spec_of(self, name: str) -> type[Part]:
        """The schema of a part.

        Raises:
            MmclError: there is no such part.
        """
        if name not in self._specs:
            _import_plugins()
        if name not in self._specs:
            hint = did_you_mean(name, self._specs)
            known = ", ".join(sorted(self._specs))
            raise MmclError(
                f"no {self.kind} is called {name!r}{hint} Known: {known}. A part of your own must be imported first, "
                "or be offered by an entry point `mmcl.parts` (docs/adding.md)."
            )
        return self._specs[name]


def _spec(name: str, cls: type, base: type[Part]) -> type[Part]:
    """The schema of a class's arguments.

    Raises:
        MmclError: a recipe could not say one of them.
    """
    arguments = _arguments(cls, base)
    fields: dict[str, Any] = {
        a.name: (hint, ... if a.default is a.empty else a.default)
        for a, hint in zip(arguments, _hints(cls, arguments), strict=True)
        if a.kind is not a.KEYWORD_ONLY
    }

    def made(self: Part, **context: Any) -> Any:
        return cls(**{field: getattr(self, field) for field in fields}, **context)

    spec = create_model(cls.__name__, __base__=base, name=(str, name), **fields)
    spec.made = made  # type: ignore[method-assign]
    spec.wants = tuple(a.name for a in arguments if a.kind is a.KEYWORD_ONLY)
    return spec


def _arguments(cls: type, base: type[Part]) -> list[inspect.Parameter]:
    """Of a class's own `__init__`; none where it has none of its own."""
    if cls.__init__ in (object.__init__, nn.Module.__init__):
        return []
    arguments = list(inspect.signature(cls).parameters.values())
    for a in arguments:
        if a.kind in (a.VAR_KEYWORD, a.VAR_POSITIONAL):
            raise MmclError(f"{_called(cls)}: {a}: *args and **kwargs hide keys; name every argument.")
        if a.name in base.model_fields or hasattr(base, a.name) or a.name.startswith("_"):
            raise MmclError(f"{_called(cls)}: a part's argument cannot be called {a.name!r}; call it otherwise.")
    return arguments


def _hints(cls: type, arguments: Sequence[inspect.Parameter]) -> list[Any]:
    """Types of the arguments, each something that can stand in a recipe where it is said there."""
    try:
        hints = get_type_hints(cls.__init__, include_extras=True)
    except NameError as error:
        raise MmclError(f"{_called(cls)}: the type of an argument is not known where the class is: {error}.") from None
    for a in arguments:
        if a.name not in hints:
            raise MmclError(f"{_called(cls)}: argument {a.name!r} says no type; write one, as in `{a.name}: float`.")
        try:
            if a.kind is not a.KEYWORD_ONLY:
                TypeAdapter(hints[a.name])
        except (PydanticUserError, TypeError) as error:
            raise MmclError(
                f"{_called(cls)}: argument {a.name!r}: a recipe cannot say a {hints[a.name]} ({_first(error)}). What "
                "only the program knows stands after `*`."
            ) from None
    return [hints[a.name] for a in arguments]


def _called(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _first(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")


def _import_plugins() -> None:
    for plugin in entry_points(group="mmcl.parts"):
        plugin.load()
