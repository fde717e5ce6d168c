"""mmcl towers."""

import ast
import inspect
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from cyclopts import App

app = App(name="towers", help="List or show the towers that a recipe may name.", help_format="plaintext")


@app.default
def towers() -> None:
    """List families of encoders with what they take, and the heads and policies that any tower may have."""
    from mmcl.towers import HEADS, POLICIES, TOWERS

    for title, registry in (("towers", TOWERS), ("head", HEADS), ("policy", POLICIES)):
        print(f"{title}:")
        for name, cls in sorted(registry.offered().items()):
            about = getattr(cls, "takes", "") or ", ".join(_own(registry.spec_of(name), registry.base))
            about = textwrap.shorten(about, 40, placeholder=" ...")
            said = textwrap.shorten(_first_line(cls), 66, placeholder=" ...")
            print(f"  {name:<20} {about:<24} {said}")


@app.command
def show(name: str, /) -> None:
    """Print what a family of encoders, a head or a policy is for, and its keys with their defaults.

    Args:
        name: as `mmcl towers` lists it.
    """
    from mmcl.towers import HEADS, POLICIES, TOWERS, TowerSpec

    for key, registry in (("head", HEADS), ("policy", POLICIES)):
        if name in registry.offered() and name not in TOWERS.offered():
            part = registry.spec_of(name)
            about, said = _parts(inspect.getdoc(registry.classes[name]) or "")
            print(about)
            _print_keys(f"Keys of {{{key}: {{name: {name}}}}}:", part, _own(part, registry.base), said)
            return
    spec = TOWERS.spec_of(name)
    about, said = _parts(inspect.getdoc(TOWERS.classes[name]) or "")
    print(about)
    _print_keys(f"Keys of {{name: {name}}}:", spec, _own(spec, TowerSpec), said)
    _print_keys("Keys of any tower:", spec, [key for key in TowerSpec.model_fields if key != "name"], _said(TowerSpec))


def _own(spec: Any, base: Any) -> list[str]:
    """Keys that a part has beyond those of its kind."""
    return [key for key in spec.model_fields if key not in base.model_fields]


def _first_line(cls: type) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0].rstrip(".")


def _parts(doc: str) -> tuple[str, dict[str, str]]:
    """What a docstring says of the whole, and of each argument."""
    about, _, rest = doc.partition("\nArgs:\n")
    arguments, _, reference = rest.partition("\n\n")
    said = {
        key: " ".join(text.split())
        for key, text in re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w+: |\Z)", arguments, re.MULTILINE | re.DOTALL)
    }
    return "\n".join(filter(None, (about.rstrip(), reference and f"\n{reference.rstrip()}"))), said


def _said(spec: type) -> dict[str, str]:
    """What stands below each field of a class."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(spec))).body
    assert isinstance(tree, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def _print_keys(title: str, spec: Any, keys: Sequence[str], said: Mapping[str, str]) -> None:
    from mmcl.registry import Part, Spec

    print(f"\n{title}" if keys else f"\n{title} none")
    for key in keys:
        field = spec.model_fields[key]
        value = field.default.name if isinstance(field.default, Part) else field.default
        unsaid = value is None or isinstance(value, Spec)  # many keys: the text says which
        default = " (needed)" if field.is_required() else "" if unsaid else f" [{_yaml(value)}]"
        text = f": {said[key]}" if key in said else ""
        print(textwrap.fill(f"{key}{default}{text}", 118, initial_indent="  ", subsequent_indent="      "))


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)
