"""What the page says of a collection: which model, how many samples, which indexes and why."""

from pathlib import Path
from typing import Any

from mmcl.errors import MmclError
from mmcl.search.collection import Collection
from mmcl.search.serve.asked import MOST, TEXT, UPLOAD

NAMED = ("image", "audio", "text")
ASKED = ("text", "image", "audio")
"""Kinds of input that the page can take."""


def described(collection: Collection) -> dict[str, Any]:
    """Everything that does not change while it is served; opens the model and the indexes.

    Raises:
        MmclError: an index cannot be made.
    """
    manifest = collection.vectors.manifest or {}
    asks, kinds, no_model = _asks(collection)
    for modality in collection.modalities:
        kinds.setdefault(modality, modality if modality in NAMED else "vector")
    model = (manifest.get("opened") or {}).get("model")
    return {
        "samples": collection.samples,
        "dim": collection.vectors.dim,
        "model": None if model is None else _short(model),
        "digest": manifest.get("model"),
        "searched": _pictures_first(collection, kinds),
        "asks": asks,
        "no_model": no_model,
        "kinds": kinds,
        "shown": [m for m in collection.modalities if kinds[m] in ("image", "audio")],
        "indexes": {m: collection.index(m).reason for m in collection.modalities},
        "columns": {name: str(kind) for name, kind in collection.columns.items()},
        "limits": {"upload": UPLOAD, "text": TEXT, "results": MOST},
    }


def _asks(collection: Collection) -> tuple[dict[str, list[str]], dict[str, str], str]:
    """Kind of input -> modalities of the model that take it; kinds by modality; and why there is no model."""
    try:
        kinds = {m: collection.takes(m) for m in collection.query_modalities}
    except MmclError as error:
        return {}, {}, str(error)
    asks = {kind: [m for m, its in kinds.items() if its == kind] for kind in ASKED}
    told = "" if kinds else "Nothing says which model made these vectors; mmcl search DIR --serve --model MODEL does."
    return {kind: names for kind, names in asks.items() if names}, kinds, told


def _pictures_first(collection: Collection, kinds: dict[str, str]) -> list[str]:
    order = ("image", "audio", "text", "vector")
    return sorted(collection.modalities, key=lambda one: order.index(kinds[one]))


def _short(model: str) -> str:
    """A model's name, without the folders of this machine."""
    path = Path(model)
    return "/".join(path.parts[-2:]) if path.is_absolute() else model
