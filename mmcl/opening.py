"""What `mmcl.load` opens: a run, or a model of a library. One table says what is told apart, and how."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError

from mmcl import runs
from mmcl.errors import MmclError
from mmcl.exports import is_export, open_export
from mmcl.model import Encoder, MultiTower
from mmcl.registry import explain
from mmcl.towers import TOWERS, TowerSpec
from mmcl.towers.folders import HUB, LOCAL
from mmcl.towers.weights import PRETRAINED, RANDOM, is_run

CHOOSE = (
    f"say weights: a file or a folder, a tag of the library, `{PRETRAINED}` for its own, or `{RANDOM}` "
    "(mmcl.load(..., weights=...), --weights)"
)
TOWERS_OF = {
    "clip": ("image", "text"),
    "siglip": ("image", "text"),
    "siglip2": ("image", "text"),
    "clap": ("audio", "text"),
}
"""Models of transformers that have two towers to one space, by the `model_type` of their configurations."""


class Form(NamedTuple):
    """One form of what can be opened."""

    about: str
    """What a person writes."""
    place: Callable[[str], str | None]
    """Where the model is, of what was written; None where that has another form."""
    opened: Callable[[str, str | None, torch.device], Encoder]
    """The model: from its place, the weights that were asked for, and the device."""


def load(what: str | Path, device: str | torch.device | None = None, weights: str | Path | None = None) -> Encoder:
    """A model to embed with, and to measure.

    Args:
        what: a run folder (its newest whole checkpoint; the averaged weights where the recipe evaluates these), one of
            its checkpoints (``RUN/checkpoints/best``), or an export of a run; ``open_clip:`` and a name (with a tag
            behind a slash: whose preprocessing, and whose weights unless told), a folder or the JSON file of a
            configuration; ``transformers:`` and a folder or a name on the hub, or just a folder, of a CLIP, SigLIP or
            CLAP; ``timm:`` and a name.
        device: where to compute; a GPU if there is one, unless told.
        weights: of a model of a library: a file, a folder, a tag, ``pretrained`` or ``random``. transformers' have
            their own unless told.

    Raises:
        MmclError: there is no such model, its weights do not fit, or it was not said which.
    """
    form, place = form_of(what)
    return form.opened(place, None if weights is None else str(weights), runs.computing(device))


def form_of(what: str | Path) -> tuple[Form, str]:
    """Which form of what can be opened this is, and the model's place; nothing is opened.

    Raises:
        MmclError: it is none.
    """
    said = str(what)
    for form in FORMS:
        place = form.place(said)
        if place is not None:
            return form, place
    if (Path(said) / "modules.json").is_file():
        raise MmclError(
            f"{said} was saved by sentence-transformers, which alone opens it again: SentenceTransformer(DIR)."
        )
    raise MmclError(
        f"{said} is no run folder: it has no recipe.yaml. A run is made by: mmcl train RECIPE. What can be opened: "
        f"{'; '.join(form.about for form in FORMS)}."
    )


def _run(place: str, weights: str | None, device: torch.device) -> Encoder:
    if weights is not None:
        raise MmclError(f"{place} is a run, which has its own weights; leave `weights` out.")
    return runs.load(place, device)


def _export(place: str, weights: str | None, device: torch.device) -> Encoder:
    if weights is not None:
        raise MmclError(f"{place} is an export, which has its own weights; leave `weights` out.")
    return open_export(place, device)


def _open_clip(place: str, weights: str | None, device: torch.device) -> Encoder:
    from open_clip import is_pretrained_cfg, list_pretrained_tags_by_model

    from mmcl.towers.open_clip_models import check_tag, configuration, folder_of, name_and_tag

    name, tag = name_and_tag(place)
    config = configuration(name).model
    folder = folder_of(name)
    weights = weights or tag or (None if folder is None else str(folder)) or (name if name.startswith(HUB) else None)
    if weights is None:
        tags = ", ".join(list_pretrained_tags_by_model(name))
        raise MmclError(f"open_clip:{place}: {CHOOSE}. Its tags: {tags or 'none'}.")
    chosen = weights if not Path(weights).exists() and is_pretrained_cfg(name, weights) else None
    if tag is not None:
        check_tag(name, tag, bool(config.get("quick_gelu")))
        if chosen not in (None, tag):
            raise MmclError(f"open_clip:{place}: weights: {chosen} are others than /{tag}; say one of them.")
    image: dict[str, Any] = {"name": "open_clip_image", "model": name, "tag": tag or chosen}
    towers = {"image": image, "text": {"name": "open_clip_text", "model": name}}
    return _built(towers, config["embed_dim"], weights, device)


def _transformers(place: str, weights: str | None, device: torch.device) -> Encoder:
    from mmcl.towers.transformers_models import configuration

    config = configuration(place)
    if config.model_type not in TOWERS_OF:
        raise MmclError(
            f"transformers:{place}: a {config.model_type} is no model of two towers to one space, as "
            f"{', '.join(TOWERS_OF)} are. A recipe can take it as a tower: transformers_image, _text or _audio."
        )
    dim = getattr(config, "projection_dim", None) or getattr(config.text_config, "projection_size", None)
    assert dim is not None
    towers = {m: {"name": f"transformers_{m}", "model": place} for m in TOWERS_OF[config.model_type]}
    if prompt := _prompt(Path(place)):
        towers["text"]["prefix"] = prompt
    return _built(towers, dim, weights or PRETRAINED, device)


def _prompt(folder: Path) -> str:
    """What stands before every text, where a folder is one of sentence-transformers as well."""
    try:
        said = json.loads((folder / "config_sentence_transformers.json").read_text(encoding="utf-8"))
        return said["prompts"].get(said["default_prompt_name"]) or ""
    except (OSError, ValueError, KeyError):
        return ""


def _timm(place: str, weights: str | None, device: torch.device) -> Encoder:
    if weights is None:
        raise MmclError(f"timm:{place}: {CHOOSE}.")
    part = {"name": "timm_image", "model": place, "head": "none"}
    with torch.device("meta"):
        width = TOWERS.check(part).made().width  # its own is the space
    return _built({"image": part}, width, weights, device)


def _built(parts: Mapping[str, Mapping[str, Any]], dim: int, weights: str, device: torch.device) -> Encoder:
    """Towers of a library's model, with the weights that were asked for."""
    towers = {}
    with torch.random.fork_rng():  # the caller's own draws go on as they were
        for modality, part in parts.items():
            try:
                spec = TOWERS.check({**part, "weights": weights})
            except ValidationError as error:
                raise explain(error, f"{part['name']}: {part['model']}") from None
            assert isinstance(spec, TowerSpec)
            towers[modality] = spec.build(dim=dim, modality=modality)
    return Encoder(MultiTower(towers, dim).eval(), device)


def _named(scheme: str) -> Callable[[str], str | None]:
    return lambda said: said.removeprefix(f"{scheme}:") if said.startswith(f"{scheme}:") else None


def _folder(mark: str, scheme: str = "") -> Callable[[str], str | None]:
    return lambda said: f"{scheme}{said}" if (Path(said) / mark).is_file() else None


FORMS = (
    Form("a run folder", lambda said: said if is_run(Path(said)) else None, _run),
    Form("an export of one (mmcl export)", lambda said: said if is_export(said) else None, _export),
    Form(
        "open_clip:NAME, open_clip:NAME/TAG, open_clip:CONFIG.json, open_clip:FOLDER", _named("open_clip"), _open_clip
    ),
    Form("transformers:FOLDER, transformers:NAME", _named("transformers"), _transformers),
    Form("timm:NAME", _named("timm"), _timm),
    Form("a folder of open_clip", _folder("open_clip_config.json", LOCAL), _open_clip),
    Form("a folder of transformers", _folder("config.json"), _transformers),
)
"""The first one that fits opens it."""
