"""mteb: its benchmarks of texts (MTEB), pictures (MIEB) and sounds (MAEB), run on a model of mmcl."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmcl.adapters.kinds import KINDS, sound, towers_by_kind
from mmcl.embed import weights_digest
from mmcl.errors import MmclError
from mmcl.exports import is_export, open_export
from mmcl.model import Encoder
from mmcl.runs import load

INPUTS = (*KINDS, "video")
"""Of mteb; whatever else a batch brings (labels, titles, instructions) is no input."""


class MtebModel:
    """A model that mteb accepts: `mteb.evaluate(MtebModel("runs/demo"), tasks=mteb.get_tasks(...))`.

    An input of several kinds at once (a text with a picture) has the direction of the sum of their unit vectors. Its
    revision is a digest of the weights, so that results that mteb has kept are never those of other weights.

    Args:
        model: what `mmcl.load` returns, or a run or an export of one.
        towers: which modality stands for ``text``, ``image`` or ``audio``, where several towers take the same.
        name: under which mteb files results, with one slash.

    Raises:
        MmclError: mteb is not installed, or it is not clear which tower takes what.
    """

    def __init__(
        self, model: Encoder | str | Path, towers: Mapping[str, str] | None = None, name: str | None = None
    ) -> None:
        self.encoder = model if isinstance(model, Encoder) else _opened(model)
        self.towers = towers_by_kind(self.encoder, towers)
        self.name = name or f"mmcl/{'model' if isinstance(model, Encoder) else Path(model).resolve().name}"
        if self.name.count("/") != 1:
            raise MmclError(f"name: mteb wants organization/model, with one slash; got {self.name!r}.")
        self.mteb_model_meta = self._meta()

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any = None,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        precision: str | None = None,
        **_: Any,
    ) -> Float[np.ndarray, "inputs dim"]:
        """Unit vectors of batches of inputs; instructions are part of mteb's own texts, and there are no prompts.

        Args:
            inputs: what mteb's data loader yields: mappings from a kind of input to a list of values.
            task_metadata: of the task, for what it is called in an error.
            hf_split: of no meaning here.
            hf_subset: of no meaning here.
            prompt_type: query or document, which the towers do not tell apart.
            precision: mteb's name for quantised vectors, which mmcl does not make.

        Raises:
            MmclError: no tower takes an input, or a value cannot be used.
        """
        if precision not in (None, "float32"):
            raise MmclError(f"precision: mmcl's vectors are float32; got {precision!r}. Let mteb compress them.")
        where = f"{getattr(task_metadata, 'name', 'mteb')}: "
        try:
            vectors = [self._embed(batch) for batch in inputs]
        except MmclError as error:
            raise MmclError(f"{where}{error}") from None
        if not vectors:
            raise MmclError(f"{where}nothing to embed.")
        return torch.cat(vectors).numpy()

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Float[Tensor, "rows columns"]:
        """Cosines of every vector with every other."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Float[Tensor, " rows"]:
        """Cosines of the vectors of each pair."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(-1)

    def _embed(self, batch: Mapping[str, Any]) -> Float[Tensor, "batch dim"]:
        kinds = [kind for kind in INPUTS if kind in batch]
        if not kinds:
            raise MmclError(f"a batch has no input; it has: {', '.join(batch)}.")
        if missing := [kind for kind in kinds if kind not in self.towers]:
            raise MmclError(
                f"the model has no tower for {', '.join(missing)}; it has one for: {', '.join(self.towers)}."
            )
        vectors = []
        for kind in kinds:
            values = [sound(value) for value in batch[kind]] if kind == "audio" else list(batch[kind])
            vectors.append(self.encoder.embed(self.towers[kind], values))
        return vectors[0] if len(vectors) == 1 else F.normalize(torch.stack(vectors).sum(0), dim=-1)

    def _meta(self) -> Any:
        try:
            from mteb.models import ModelMeta
        except ImportError:
            raise MmclError("mteb is not installed: pip install mteb") from None
        weights = list(self.encoder.model.parameters())
        return ModelMeta(
            loader=None,
            name=self.name,
            revision=weights_digest(self.encoder),
            release_date=None,
            languages=None,
            n_parameters=sum(w.numel() for w in weights),
            memory_usage_mb=sum(w.numel() * w.element_size() for w in weights) / 2**20,
            max_tokens=None,
            embed_dim=self.encoder.dim,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["PyTorch"],
            similarity_fn_name="cosine",  # type: ignore[arg-type]  # mteb makes its own value of it
            use_instructions=False,
            training_datasets=None,
            modalities=list(self.towers),  # type: ignore[arg-type]
        )


def _opened(path: str | Path) -> Encoder:
    return open_export(path) if is_export(path) else load(path)


def _unit(vectors: Any) -> Float[Tensor, "rows dim"]:
    """Unit rows, from one vector or several, in numpy or torch."""
    rows = torch.as_tensor(vectors).float()
    return F.normalize(rows if rows.ndim == 2 else rows[None], dim=-1)
