"""What models of libraries are made of again, beside their weights: where it lies, and what of it a run keeps."""

from pathlib import Path
from typing import Annotated, ClassVar

from mmcl.errors import MmclError

LOCAL, HUB = "local-dir:", "hf-hub:"
SUFFIXES = {".json", ".txt", ".model", ".jinja", ".tiktoken", ".bpe", ".spm", ".vocab"}


class ModelFolder:
    """Marks an argument that names a model of transformers: a local folder, or a name on the hub.

    The run keeps a copy of what the model is made of again (configuration, tokenizer, preprocessing), without weights.
    """

    config: ClassVar[str] = "config.json"
    """The file by which such a folder is known."""

    def path(self, said: str) -> Path | None:
        """The folder or file that is named, if there is one; None where it can only be a name."""
        return Path(said)

    def on_hub(self, said: str) -> str | None:
        """Its name on the hub, where no such folder is here; None where it is one that the library itself knows."""
        return said

    def named(self, path: Path) -> str:
        """What the argument says where it names a folder or a file."""
        return str(path)

    def beside(self, said: str, folder: Path) -> str:
        """The same; of a path that is found in another folder, that one."""
        path = self.path(said)
        found = path is not None and not path.is_absolute() and (folder / path).exists()
        return self.named(folder / path) if found and path is not None else said

    def place(self, said: str) -> Path | None:
        """The folder or file that a run keeps a copy of, also where the hub's client has it; None of a library's name.

        Raises:
            MmclError: there is no such model here.
        """
        path, name = self.path(said), self.on_hub(said)
        if path is not None and path.exists():
            return path
        return None if name is None else cached(name, self.config)

    def files(self, place: Path) -> list[Path]:
        """What a model is made of again: the file itself, or those of a folder but its weights.

        Raises:
            MmclError: it is no folder of a model.
        """
        if place.is_file():
            return [place]
        if not (place / self.config).is_file():
            raise MmclError(f"{place} is no folder of a model: it has no {self.config}.")
        files = sorted(path for path in place.iterdir() if path.is_file() and path.suffix in SUFFIXES)
        return [path for path in files if not path.name.endswith(".index.json")]

    def origin(self, said: str) -> str | None:
        """Where its own weights are from, as `weights` says it; None where that is the library's business."""
        path, name = self.path(said), self.on_hub(said)
        if path is not None and path.is_dir():
            return str(path)
        return None if name is None else f"{HUB}{name}"


class SchemedFolder(ModelFolder):
    """The same, of a library with names of its own: `local-dir:` is before a folder, `hf-hub:` before a name there."""

    def path(self, said: str) -> Path | None:
        """What stands behind `local-dir:`."""
        return Path(said.removeprefix(LOCAL)) if said.startswith(LOCAL) else None

    def on_hub(self, said: str) -> str | None:
        """What stands behind `hf-hub:`."""
        return said.removeprefix(HUB) if said.startswith(HUB) else None

    def named(self, path: Path) -> str:
        """The folder behind `local-dir:`."""
        return f"{LOCAL}{path}"


model_folder = Annotated[str, ModelFolder()]
"""Type of an argument that names a model of transformers."""
timm_model = Annotated[str, SchemedFolder()]
"""Type of an argument that names a model of timm."""


def cached(name: str, config: str) -> Path:
    """The folder where the hub's client keeps a model that has been opened here.

    Raises:
        MmclError: there is none.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, config, local_files_only=True)).parent
    except (OSError, ValueError):
        raise MmclError(
            f"there is no folder {name!r}, and no model of the hub has been opened under that name."
        ) from None
