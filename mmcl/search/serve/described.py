"""What the page says of a collection: which model, how many samples, which indexes and why."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcl.errors import MmclError
from mmcl.search.collection import Collection
from mmcl.search.serve.asked import MOST, TEXT, UPLOAD

ORDER = ("image", "audio", "text", "vector")
"""Of modalities on the page, by their kind."""
ASKED = ("text", "image", "audio")
"""Kinds of input that the page can take."""


def described(collection: Collection) -> dict[str, Any]:
    """Everything that does not change while it is served; opens the model and the indexes.

    Raises:
        MmclError: no index can be made.
    """
    manifest = collection.vectors.manifest or {}
    asks, kinds, no_model = _asks(collection)
    for modality in collection.modalities:
        kinds.setdefault(modality, modality if modality in ORDER else "vector")
    model = collection.model
    every = sorted(collection.modalities, key=lambda one: ORDER.index(kinds[one]))
    searched, indexes = _indexes(collection, every)
    return {
        "samples": collection.samples,
        "dim": collection.vectors.dim,
        "model": None if model is None else _short(model),
        "digest": manifest.get("model"),
        "searched": searched,
        "asks": asks,
        "no_model": no_model,
        "kinds": kinds,
        "shown": [m for m in every if kinds[m] in ("image", "audio")],
        "indexes": indexes,
        "columns": {name: str(kind) for name, kind in collection.columns.items()},
        "limits": {"upload": UPLOAD, "text": TEXT, "results": MOST},
    }


def _asks(collection: Collection) -> tuple[dict[str, list[str]], dict[str, str], str]:
    """Kind of input -> modalities of the model that take it; kinds by modality; and why there is no model."""
    try:
        kinds = {m: collection.takes(m) for m in collection.query_modalities}
    except MmclError as error:
        kinds, told = {}, str(error)
    else:
        told = "" if kinds else "Nothing says which model made these vectors; --model MODEL does."
    return {kind: [m for m, its in kinds.items() if its == kind] for kind in ASKED}, kinds, told


def _indexes(collection: Collection, modalities: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Modalities that can be searched; and of all what their indexes are, or why there is none."""
    searched, said = [], {}
    for modality in modalities:
        try:
            said[modality] = collection.index(modality).why
            searched.append(modality)
        except MmclError as error:
            said[modality] = str(error)
    if not searched:
        raise MmclError("\n".join(said.values()))
    return searched, said


def _short(model: str) -> str:
    """A model's name, without the folders of this machine."""
    path = Path(model)
    return "/".join(path.parts[-2:]) if path.is_absolute() else model
