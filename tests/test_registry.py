"""A part's signature is its schema, and every mistake is told at once with what is near."""

from typing import Annotated, Any

import pytest
from pydantic import Field, PlainValidator, SerializeAsAny, TypeAdapter, ValidationError

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
        "size: Field required",
        "siez: there is no such key; did you mean 'size'?",
    ):
        assert f"  {line}" in text


def test_two_parts_of_one_name_are_refused(horns: Registry[Loud]) -> None:
    with pytest.raises(ValueError, match="two horns are called 'loud'"):
        horns.register("loud")(Loud)


def test_hidden_arguments_are_refused() -> None:
    class Hidden:
        def __init__(self, **anything: int) -> None: ...

    with pytest.raises(AssertionError, match="hide keys"):
        Registry("horn").register("hidden")(Hidden)
