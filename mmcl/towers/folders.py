"""What a model of transformers is made of again, beside its weights: configuration, tokenizer, preprocessing."""

from pathlib import Path

from mmcl.errors import MmclError

SUFFIXES = {".json", ".txt", ".model", ".jinja", ".tiktoken", ".bpe", ".spm", ".vocab"}


def description(name: str) -> list[Path]:
    """Those files, of a local folder or of a model of the hub that has been opened here.

    Raises:
        MmclError: there is no such model here.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _cached(name)
    if not (folder / "config.json").is_file():
        raise MmclError(f"{name} is no folder of a model of transformers: it has no config.json.")
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in SUFFIXES)
    return [path for path in files if not path.name.endswith(".index.json")]


def _cached(name: str) -> Path:
    """Where the hub's client keeps a model."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "config.json", local_files_only=True)).parent
    except (OSError, ValueError):
        raise MmclError(
            f"there is no folder {name!r}, and no model of the hub has been opened under that name."
        ) from None
