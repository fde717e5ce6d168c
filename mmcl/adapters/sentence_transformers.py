"""sentence-transformers: the module of an export, which `SentenceTransformer(DIR, trust_remote_code=True)` loads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from PIL.Image import Image
from sentence_transformers.base.modality import infer_batch_modality
from sentence_transformers.base.modules import InputModule
from transformers.image_utils import load_image

from mmcl.adapters.kinds import KINDS, sound
from mmcl.errors import MmclError
from mmcl.exports import open_export, save_again
from mmcl.model import Encoder

ELSEWHERE = ("http://", "https://", "data:image/")
"""How pictures are named that are no files."""


class MmclModule(InputModule):
    """All towers of a model, behind one `encode`: texts, pictures and sounds to unit vectors.

    Which tower is meant is seen from the inputs; where several take the same kind, ``task`` says which, as in
    ``encode(texts, task="title")``. The inputs of one call are of one kind, as sentence-transformers has it.

    Args:
        encoder: the model.
        folder: the export that it came from.
    """

    config_file_name = "manifest.json"
    forward_kwargs: set[str] = set()

    def __init__(self, encoder: Encoder, folder: Path) -> None:
        super().__init__()
        self.model, self.encoder, self.folder = encoder.model, encoder, folder

    @property
    def modalities(self) -> list[Any]:
        """Kinds of input that towers take, by sentence-transformers' names."""
        return [kind for kind in KINDS if self._able(kind)]

    def get_embedding_dimension(self) -> int:
        """Width of the vectors."""
        return self.model.dim

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, task: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Rows of a tower, as the export's transforms make them.

        Args:
            inputs: all of one kind.
            prompt: put before texts.
            task: the tower, where several take the same kind.
            kwargs: of other modules.

        Raises:
            MmclError: there is no tower for them, several and no ``task``, or a value cannot be used.
        """
        kind = infer_batch_modality(inputs, supported_modalities=self.modalities)
        able = self._able(kind)
        if task is not None and task not in able:
            raise MmclError(f"task: no tower {task!r} takes {kind}; what does: {', '.join(able) or 'nothing'}.")
        if task is None and len(able) != 1:
            raise MmclError(f"{', '.join(able) or 'nothing'} takes {kind}; say which, as in encode(..., task=NAME).")
        tower = able[0] if task is None else task
        values = [_value(kind, one, prompt or "") for one in inputs]
        return {"rows": self.encoder.rows(tower, values), "tower": tower}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Unit vectors of rows."""
        vectors = self.model({features["tower"]: features["rows"]})[features["tower"]]
        return features | {"sentence_embedding": F.normalize(vectors.float(), dim=-1)}

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """The export again, with the weights as they are now; always as safetensors."""
        save_again(self.folder, Path(output_path), self.encoder)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> "MmclModule":  # type: ignore[override]
        """The module of an export: a local folder, or a name on the hub."""
        hub = {key: kwargs.get(key) for key in ("token", "cache_folder", "revision")}
        local = bool(kwargs.get("local_files_only"))
        folder = cls.load_dir_path(model_name_or_path, subfolder=subfolder, local_files_only=local, **hub)
        if folder is None:
            raise MmclError(f"there is no folder {model_name_or_path}.")
        return cls(open_export(folder, "cpu"), Path(folder))

    def _able(self, kind: Any) -> list[str]:
        return [m for m in self.encoder.modalities if self.encoder.takes(m) == kind]


def _value(kind: Any, given: Any, prompt: str) -> Any:
    """What somebody hands to `encode`, as an encoder of mmcl takes it."""
    value: Any = given.get(kind, given) if isinstance(given, dict) else given
    if kind == "text":
        return prompt + value
    if kind == "image" and isinstance(value, str) and value.startswith(ELSEWHERE):
        return load_image(value)
    if kind == "image" or isinstance(value, str):
        return value if isinstance(value, Image | np.ndarray | str) else value.cpu()
    if hasattr(value, "get_all_samples"):  # torchcodec's decoder
        samples = value.get_all_samples()
        value = {"array": samples.data.numpy(), "sampling_rate": samples.sample_rate}
    return sound(value)
