"""A part's signature is its schema, and every mistake is told at once with what is near."""

import re
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, PlainValidator, SerializeAsAny, TypeAdapter, ValidationError
from torch import nn

from mmcl.errors import MmclError
from mmcl.registry import Part, Registry, Spec, explain


class Loud:
    def __init__(self, volume: Annotated[int, Field(ge=1)] = 3, tone: str = "a", *, room: int) -> None:
        self.volume, self.tone, self.room = volume, tone, room


@pytest.fixture
def horns() -> Registry[Loud]:
    registry: Registry[Loud] = Registry("horn")
    registry.register("loud")(Loud)
    return registry


def test_a_name_alone_is_a_part_with_its_defaults(horns: Registry[Loud]) -> None:
    built = horns.check("loud").build(room=7)
    assert (built.volume, built.tone, built.room) == (3, "a", 7)


def test_a_part_survives_a_round_trip_through_plain_data(horns: Registry[Loud]) -> None:
    part = horns.check({"name": "loud", "volume": 5})
    assert horns.check(part.model_dump()) == part


def test_what_the_program_supplies_cannot_be_said_in_a_recipe(horns: Registry[Loud]) -> None:
    with pytest.raises(ValidationError, match="no such key"):
        horns.check({"name": "loud", "room": 1})


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("lod", "did you mean 'loud'.*Known: loud"),
        ({"volume": 1}, "mapping with a `name`"),
        (3, "mapping with a `name`"),
    ],
)
def test_an_unknown_part_names_the_nearest(horns: Registry[Loud], said: Any, told: str) -> None:
    with pytest.raises(MmclError, match=told):
        horns.check(said)


def test_all_errors_come_at_once_each_with_its_path(horns: Registry[Loud]) -> None:
    class Band(Spec):
        first: Annotated[SerializeAsAny[Part], PlainValidator(horns.check)]
        second: Annotated[SerializeAsAny[Part], PlainValidator(horns.check)]
        size: int

    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Band).validate_python({"first": {"name": "loud", "volum": 1}, "second": "lout", "siez": 3})
    text = str(explain(caught.value, "band.yaml"))
    assert text.startswith("band.yaml:\n")
    for line in (
        "first.volum: there is no such key; did you mean 'volume'?",
        "second: no horn is called 'lout'; did you mean 'loud'?",
        "size: this key is needed",
        "siez: there is no such key; did you mean 'size'?",
    ):
        assert f"  {line}" in text


def test_two_parts_of_one_name_are_refused(horns: Registry[Loud]) -> None:
    with pytest.raises(ValueError, match="two horns are called 'loud'"):
        horns.register("loud")(Loud)


class Hidden:
    def __init__(self, **anything: int) -> None: ...


class Untyped:
    def __init__(self, volume: int = 3, tone="a") -> None: ...  # type: ignore[no-untyped-def]


class Unsayable:
    def __init__(self, volume: nn.Module) -> None: ...


class Unknown:
    def __init__(self, volume: "Nothing") -> None: ...  # type: ignore[name-defined]  # noqa: F821


class Taken:
    def __init__(self, copy: int) -> None: ...


@pytest.mark.parametrize(
    ("cls", "told"),
    [
        (Hidden, r"test_registry.Hidden: \*\*anything: int: .* hide keys"),
        (Untyped, "test_registry.Untyped: argument 'tone' says no type; write one"),
        (Unsayable, "test_registry.Unsayable: argument 'volume': a recipe cannot say a .*Module.* stands after `\\*`"),
        (Unknown, "test_registry.Unknown: the type of an argument is not known.*'Nothing'"),
        (Taken, "test_registry.Taken: a part's argument cannot be called 'copy'"),
    ],
)
def test_a_class_that_a_recipe_could_not_speak_of_is_told_with_its_argument(cls: type, told: str) -> None:
    registry: Registry[Any] = Registry("horn")
    with pytest.raises(MmclError, match=told):
        registry.register("it")(cls)
    assert not registry.classes


def test_a_module_without_arguments_needs_no_init() -> None:
    class Quiet(nn.Module):
        pass

    registry: Registry[Any] = Registry("horn")
    registry.register("quiet")(Quiet)
    assert isinstance(registry.check("quiet").build(), Quiet)


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_no_number_is_infinite_or_none(number: float) -> None:
    class Deep:
        def __init__(self, depth: Annotated[float, Field(ge=0)] | None = None) -> None: ...

    registry: Registry[Any] = Registry("horn")
    registry.register("deep")(Deep)
    with pytest.raises(ValidationError, match="finite"):
        registry.check({"name": "deep", "depth": number})


class Sizes(Spec):
    pair: tuple[int, int] = (1, 1)


class Choice(Spec):
    block: Annotated[int, Field(ge=16)] | Literal["auto"] | None = "auto"
    sizes: Sizes | list[Sizes] = Sizes()
    name: str | dict[str, str] = ""


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"block": 3}, "block: Input should be greater than or equal to 16"),
        ({"block": "x"}, "block: Input should be a valid integer, .* string as an integer; or input should be 'auto'"),
        ({"sizes": {"pair": [1, "x"]}}, "sizes.pair.1: Input should be a valid integer, .*"),
        ({"sizes": [{"pair": [1]}]}, "sizes.0.pair.1: one more is needed"),
        ({"sizes": 3}, "sizes: a mapping of keys to values is needed; or input should be a valid list"),
        ({"name": {"a": 3}}, "name.a: Input should be a valid string"),
    ],
)
def test_of_several_types_the_one_that_was_meant_is_told_in_plain_words(said: Any, told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Choice.model_validate(said)
    assert re.fullmatch(f"r:\n  {told}", str(explain(caught.value, "r")))
