"""``key.path=value``: one value of what a recipe says, changed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML, YAMLError

from mmcl.errors import MmclError
from mmcl.losses import with_presets


def override(content: Any, said: str) -> None:
    """Change one value. A path that leads into an objective of presets' names leads into their terms.

    Args:
        content: of a recipe.
        said: ``key.path=value``; the value is YAML.

    Raises:
        MmclError: this is no override, or the path leads nowhere.
    """
    path, equals, text = said.partition("=")
    if not equals or not path:
        raise MmclError(f"{said!r} is no override; write key.path=value, as in data.batch_size=512.")
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise MmclError(f"{said!r}: the value is no YAML: {error}") from None
    place = content
    *parents, last = path.split(".")
    if parents[:1] == ["objective"]:
        _number_terms(content, by_number=[*parents[1:], last][0].isdigit())
    for key in parents:
        place = _step_into(place, key, path)
    if isinstance(place, list):
        place[_number(last, place, path)] = value
    else:
        place[last] = value


def put(content: Any, keys: Sequence[str], value: Any) -> None:
    """Put a value where a path of keys leads."""
    *parents, last = keys
    for key in parents:
        content = content[key]
    content[last] = value


def _number_terms(content: Any, by_number: bool) -> None:
    """Make the objective a list of terms; one term alone stays what it is, unless it is asked for by its number."""
    said = content.get("objective")
    if isinstance(said, str | list) or (isinstance(said, dict) and by_number):
        content["objective"] = with_presets(said)


def _step_into(place: Any, key: str, path: str) -> Any:
    if isinstance(place, list):
        number = _number(key, place, path)
        return _inside(place, number, key, path)
    place.setdefault(key, {})
    return _inside(place, key, key, path)


def _inside(place: Any, at: Any, key: str, path: str) -> Any:
    """What lies there; a part that is given by its name alone becomes a mapping, to which arguments may be added."""
    if isinstance(place[at], str):
        place[at] = {"name": place[at]}
    if not isinstance(place[at], dict | list):
        raise MmclError(f"{path}: {key} is {place[at]!r}, which has nothing inside.")
    return place[at]


def _number(key: str, place: list[Any], path: str) -> int:
    if not key.isdigit() or int(key) >= len(place):
        raise MmclError(f"{path}: {key!r} is no place in a list of {len(place)}.")
    return int(key)


def flat(content: Mapping[str, Any], between: str = ".") -> Iterator[tuple[str, Any]]:
    """Paths of keys, and the values at their ends.

    >>> list(flat({"data": {"batch_size": 8, "train": {"shards": ["a"]}}, "tasks": []}))
    [('data.batch_size', 8), ('data.train.shards', ['a']), ('tasks', [])]
    """
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}{between}{path}", end) for path, end in flat(value, between))
        else:
            yield key, value
