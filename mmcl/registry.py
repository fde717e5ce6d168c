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
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, ClassVar, Generic, TypeVar, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from mmcl.errors import MmclError, did_you_mean

T = TypeVar("T")
C = TypeVar("C", bound=type)


class Spec(BaseModel):
    """Base of everything a recipe can say: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="wrap")
    @classmethod
    def _say_what_is_near(cls, value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            details = [_plain(cls, e["type"], e["loc"], e["msg"], e["input"]) for e in error.errors()]
            raise ValidationError.from_exception_data(error.title, details) from None


def _plain(cls: type[BaseModel], kind: str, loc: tuple[int | str, ...], message: str, value: Any) -> InitErrorDetails:
    """One error in words that name the nearest key, where a key is not known."""
    if kind == "extra_forbidden" and len(loc) == 1:
        hint = did_you_mean(loc[0], cls.model_fields)
        message = f"there is no such key{hint} Known: {', '.join(cls.model_fields)}."
    error = PydanticCustomError("mmcl", "{message}", {"message": message.removeprefix("Value error, ")})
    return InitErrorDetails(type=error, loc=loc, input=value)


def explain(error: ValidationError, where: str) -> MmclError:
    """All errors of what a person wrote, each with its path, as one message."""
    lines = [
        f"  {'.'.join(map(str, e['loc'])) or 'in all'}: {e['msg'].removeprefix('Value error, ')}"
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
        raise NotImplementedError


class Registry(Generic[T]):
    """The parts of one kind, by name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.classes: dict[str, type] = {}
        self._specs: dict[str, type[Part]] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Offer a class to recipes under ``name`` (class decorator)."""

        def add(cls: C) -> C:
            if name in self.classes:
                raise ValueError(f"two {self.kind}s are called {name!r}: {self.classes[name]} and {cls}")
            self._specs[name] = _spec(name, cls)
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
        return self._spec_of(value["name"]).model_validate(value)

    def _spec_of(self, name: str) -> type[Part]:
        if name not in self._specs:
            _import_plugins()
        if name not in self._specs:
            hint = did_you_mean(name, self._specs)
            raise MmclError(f"no {self.kind} is called {name!r}{hint} Known: {', '.join(sorted(self._specs))}.")
        return self._specs[name]


def _spec(name: str, cls: type) -> type[Part]:
    hints = get_type_hints(cls.__init__, include_extras=True)
    arguments = [] if cls.__init__ is object.__init__ else list(inspect.signature(cls).parameters.values())
    assert all(a.kind not in (a.VAR_KEYWORD, a.VAR_POSITIONAL) for a in arguments), (
        f"{cls}: *args or **kwargs hide keys"
    )
    assert all(a.name not in ("name", "build") for a in arguments), f"{cls}: a part's argument cannot have this name"
    said = [a for a in arguments if a.kind is not a.KEYWORD_ONLY]
    fields: dict[str, Any] = {a.name: (hints[a.name], ... if a.default is a.empty else a.default) for a in said}

    def build(self: Part, **context: Any) -> Any:
        return cls(**{field: getattr(self, field) for field in fields}, **context)

    spec = create_model(cls.__name__, __base__=Part, name=(str, name), **fields)
    spec.build = build  # type: ignore[method-assign]
    spec.wants = tuple(a.name for a in arguments if a.kind is a.KEYWORD_ONLY)
    return spec


def _import_plugins() -> None:
    for plugin in entry_points(group="mmcl.parts"):
        plugin.load()
