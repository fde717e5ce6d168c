"""What open_clip knows of a model by its name, or a folder or file says of one; and its weights."""

import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import open_clip
from huggingface_hub import hf_hub_download
from torch import nn

from mmcl.errors import MmclError, did_you_mean
from mmcl.towers.folders import HUB, LOCAL, SchemedFolder
from mmcl.towers.transformers_models import fetching


class OpenClipFolder(SchemedFolder):
    """Marks an argument that names a model of open_clip: by its name, a folder, a JSON file, or one on the hub."""

    config = "open_clip_config.json"

    def path(self, said: str) -> Path | None:
        """With or without `local-dir:`; names of open_clip are no folders."""
        if said.startswith(HUB) or said in open_clip.list_models():
            return None
        return Path(said.removeprefix(LOCAL))

    def named(self, path: Path) -> str:
        """The path."""
        return str(path)


FOLDERS = OpenClipFolder()
open_clip_model = Annotated[str, FOLDERS]
"""Type of an argument that names a model of open_clip."""


class Configuration(NamedTuple):
    """Of a model of open_clip."""

    model: dict[str, Any]
    """Both sides (``model_cfg``)."""
    preprocessing: dict[str, Any]
    """What is said beside them of pictures (``preprocess_cfg``); of names of open_clip its weights say it."""


def configuration(model: str) -> Configuration:
    """Of a model by its name, folder or file.

    Raises:
        MmclError: there is none.
    """
    file = _file_of(model)
    if file is None:
        return Configuration(open_clip.get_model_config(model) or {}, {})
    with fetching("open_clip's configuration", model):
        content = json.loads(file.read_text(encoding="utf-8"))
    content = content if isinstance(content, dict) else {}
    config = content.get("model_cfg", content)
    if not {"embed_dim", "vision_cfg", "text_cfg"} <= set(config):
        raise MmclError(
            f"model: {file} is no configuration of open_clip, which has embed_dim, vision_cfg and text_cfg."
        )
    return Configuration(config, content.get("preprocess_cfg", {}))


def name_and_tag(said: str) -> tuple[str, str | None]:
    """A model, and the tag of its weights that stands behind a slash after a name of open_clip."""
    name, _, tag = said.rpartition("/")
    return (name, tag) if tag and name in open_clip.list_models() else (said, None)


def folder_of(model: str) -> Path | None:
    """The local folder of a model; None where it is none."""
    path = FOLDERS.path(model)
    return path if path is not None and path.is_dir() else None


def with_weights(model: str, tag: str | None, quick_gelu: bool | None, image_size: int | None = None) -> nn.Module:
    """The whole model of open_clip, with weights.

    Args:
        model: its name, its folder, or its name on the hub.
        tag: which weights, where it is a name of open_clip.
        quick_gelu: whether OpenAI's approximation is in its MLPs; None where that does not matter.
        image_size: of its pictures; its own unless told.

    Raises:
        MmclError: there are none, they cannot be fetched, or they expect the other activation.
    """
    path, folder = FOLDERS.path(model), folder_of(model)
    if path is not None and folder is None:
        raise MmclError(f"{model} is a configuration without weights; say which file, or random.")
    if path is not None or model.startswith(HUB):
        if tag is not None:
            raise MmclError(f"{model} has one set of weights, and no tag {tag!r}.")
    else:
        check_tag(model, tag, quick_gelu)
        quick_gelu = expects_quick_gelu(model, tag)
    name = model if folder is None else f"{LOCAL}{folder}"
    with fetching("weights", model):
        return open_clip.create_model(
            name, tag, force_quick_gelu=bool(quick_gelu), force_image_size=image_size, require_pretrained=True
        )


def check_tag(model: str, tag: str | None, quick_gelu: bool | None) -> None:
    """See that open_clip has weights of such a name, and that they fit the model.

    Raises:
        MmclError: it has none, or they were trained with the other activation.
    """
    tags = open_clip.list_pretrained_tags_by_model(model)
    known = f"Known: {', '.join(tags) or 'none'}."
    if tag is None:
        raise MmclError(f"say which weights of {model}. {known}")
    if not open_clip.is_pretrained_cfg(model, tag):
        raise MmclError(f"open_clip has no weights {tag!r} of {model}{did_you_mean(tag, tags)} {known}")
    quick = expects_quick_gelu(model, tag)
    if quick_gelu not in (None, quick):
        raise MmclError(
            f"open_clip's weights {tag} of {model} expect quick_gelu: {str(quick).lower()}. Take the model whose name "
            "ends in -quickgelu, or the one without."
        )


def expects_quick_gelu(model: str, tag: str | None) -> bool:
    """Whether weights of open_clip were trained with OpenAI's approximation."""
    return bool(open_clip.get_pretrained_cfg(model, tag or "").get("quick_gelu"))


def _file_of(model: str) -> Path | None:
    """The file of a model's configuration; None where the model is one of open_clip's own."""
    path = FOLDERS.path(model)
    if path is None and not model.startswith(HUB):
        return None
    if path is None:
        with fetching("open_clip's configuration", model):
            return Path(hf_hub_download(model.removeprefix(HUB), FOLDERS.config))
    file = path / FOLDERS.config if path.is_dir() or model.startswith(LOCAL) else path
    if file.is_file():
        return file
    if file != path or path.suffix == ".json":
        raise MmclError(
            f"model: open_clip's configuration of {model!r} cannot be read: there is no file {str(file)!r}."
        )
    raise MmclError(
        f"model: open_clip has no model {model!r}{did_you_mean(model, open_clip.list_models())} "
        "All: python -c 'import open_clip; print(open_clip.list_models())'."
    )
