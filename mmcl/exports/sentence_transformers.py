"""sentence-transformers: all towers behind one `encode`, by its own modules where they can, else by one of mmcl's."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from mmcl.errors import MmclError
from mmcl.exports import pairs, routes, safetensors, transformers
from mmcl.exports.base import Source, Written
from mmcl.exports.examples import TOLERANCE
from mmcl.model import Encoder
from mmcl.towers.transformers_models import quietly

MODULE = "mmcl.adapters.sentence_transformers.MmclModule"
MODULES = "modules.json"
KINDS = ("text", "image", "audio")
"""Of input, by the names that sentence-transformers and mteb have for them, too."""
NEEDS_MMCL = (
    "`SentenceTransformer(DIR, trust_remote_code=True)` opens this folder where mmcl is installed: its module is "
    f"`{MODULE}`, which is not part of sentence-transformers"
)
ALONE = "`SentenceTransformer(DIR)` opens this folder without mmcl, as"
PICTURES = (
    "Pictures are opened and resized by transformers: where they are not of the model's size they differ from mmcl's "
    "by a few grey levels; files with transparency or an EXIF orientation, and pictures of 16 bits, differ more."
)
SAVED = "saved"
WORDS = [
    "a b",
    "C",
    "a photo of a small red house by the sea",
    "a b " * 300,
    "\u201ca cat\u2019s toy\u201d, \ufb01ne &amp; 10 \u20ac",
]


def write(source: Source, folder: Path) -> Written:
    """Any towers; those that take neither text, pictures nor sounds cannot be reached by sentence-transformers.

    Raises:
        MmclError: there is none that can be reached, or sentence-transformers is not installed.
    """
    kinds = {m: source.encoder.takes(m) for m in source.modalities}
    if not set(kinds.values()) & set(KINDS):
        raise MmclError(f"no tower takes {', '.join(KINDS)}; there are: {', '.join(kinds)}.")
    try:
        import sentence_transformers  # noqa: F401
    except ImportError:
        raise MmclError("sentence-transformers is not installed: pip install 'mmcl[sentence-transformers]'") from None
    several = [m for m, kind in kinds.items() if list(kinds.values()).count(kind) > 1]
    notes = []
    if several:
        notes.append(f"Several towers take the same kind of input: `encode(..., task=NAME)` with {', '.join(several)}.")
    with TemporaryDirectory(dir=folder) as room:
        try:
            said = _alone(source, Path(room))
        except (MmclError, ValueError, TypeError, RuntimeError) as error:  # the last three are libraries' own
            reason = f"{NEEDS_MMCL}. Its own modules cannot hold the towers: {error}"
            return _with_mmcl(source, folder, kinds, [*notes, reason])
        for path in sorted((Path(room) / SAVED).iterdir()):
            shutil.move(path, folder)
    return Written(source.modalities, [*notes, *said])


def opened(folder: Path, manifest: dict[str, Any]) -> Encoder:
    """The same towers."""
    if MODULE in (module["type"] for module in json.loads((folder / MODULES).read_text())):
        return safetensors.opened(folder, manifest)
    return (routes if (folder / routes.CONFIG).exists() else transformers).opened(folder, manifest)


def _alone(source: Source, room: Path) -> list[str]:
    """Save a model of sentence-transformers' own modules, and compare it; returns what to say of it.

    Raises:
        MmclError: they cannot do what a tower does.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize

    first, prefix, notes = _first(source, room)
    named = dict.fromkeys(("text", "query", "document"), prefix)  # `encode`, `encode_query`, `encode_document`
    prompts: dict[str, Any] = {"prompts": named, "default_prompt_name": "text"} if prefix else {}
    model = SentenceTransformer(modules=[first, Normalize()], similarity_fn_name="cosine", device="cpu", **prompts)
    with quietly():
        model.save(str(room / SAVED), create_model_card=False)
        _compare(source, SentenceTransformer(str(room / SAVED), device="cpu", local_files_only=True))
    return [*notes, *([PICTURES] if "image" in (source.encoder.takes(m) for m in source.modalities) else [])]


def _first(source: Source, room: Path) -> tuple[Any, str, list[str]]:
    """The module before the normalisation: one CLIP or SigLIP of transformers, or a route a tower.

    Returns:
        The module, what stands before every text, and what to say.

    Raises:
        MmclError: the towers are neither.
    """
    try:
        return _one_model(source, room / "one")
    except MmclError:
        if not pairs.is_pair(source):
            raise
    return *routes.routed(source, room), [f"{ALONE} a route a tower."]


def _one_model(source: Source, folder: Path) -> tuple[Any, str, list[str]]:
    """Both towers as one model of transformers, which sentence-transformers knows by itself.

    Raises:
        MmclError: they are none, or there are others.
    """
    from sentence_transformers.base.modules import Transformer

    _, text = source.one_of_each("image", "text")
    if len(source.modalities) > 2:
        raise MmclError(f"of {', '.join(source.modalities)} only two are towers of one model.")
    folder.mkdir()
    prefix = routes.prompt_of(source.recipe.towers[text], text)
    written = transformers.write(source, folder)
    padding: dict[str, Any] = (
        {} if written.padding is True else {"processing_kwargs": {"text": {"padding": written.padding}}}
    )
    notes = [f"{ALONE} one model of transformers."]
    notes += [note for note in written.notes if not prefix or prefix not in note]
    with quietly():
        return Transformer(str(folder), **padding), prefix, notes


def _compare(source: Source, model: Any) -> None:
    """Hold sentence-transformers' vectors of a few texts, and of pictures that need no resizing, to the run's.

    Raises:
        MmclError: they differ.
    """
    rng, encoder = np.random.default_rng(0), source.encoder
    for m in source.modalities:
        values: list[Any] = WORDS
        if encoder.takes(m) == "image":
            backbone: Any = source.tower(m).backbone
            side = backbone.preprocessing.fit.resized or backbone.preprocessing.size
            values = [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(2)]
        alike = [other for other in source.modalities if encoder.takes(other) == encoder.takes(m)]
        told = {"task": m} if len(alike) > 1 else {}
        theirs = model.encode(values, show_progress_bar=False, **told)
        if not np.abs(theirs - encoder.embed(m, values).numpy()).max() <= TOLERANCE:
            raise MmclError(f"towers.{m}: sentence-transformers' own modules find other vectors.")


def _with_mmcl(source: Source, folder: Path, kinds: dict[str, str], notes: list[str]) -> Written:
    """Any towers, behind a module of mmcl's."""
    unseen = [m for m, kind in kinds.items() if kind not in KINDS]
    if unseen:
        notes.append(f"sentence-transformers has no input for {', '.join(unseen)}; `mmcl.load` reaches them.")
    written = safetensors.write(source, folder)
    reason = f"the towers are opened by {MODULE}."
    config = {
        "model_type": "SentenceTransformer",
        "prompts": {},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
        "requirements": {"mmcl": {"specifier": f">={version('mmcl')}", "reason": reason}},
    }
    modules = [{"idx": 0, "name": "0", "path": "", "type": MODULE}]
    for name, content in ((MODULES, modules), ("config_sentence_transformers.json", config)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    return Written(written.modalities, [*written.notes, *notes], needs_mmcl=True)
