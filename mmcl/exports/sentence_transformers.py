"""sentence-transformers: all towers of a run behind one `encode`, by a module that lives in mmcl."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mmcl.errors import MmclError
from mmcl.exports import safetensors
from mmcl.exports.base import Source, Written
from mmcl.model import Encoder

MODULE = "mmcl.adapters.sentence_transformers.MmclModule"
KINDS = ("text", "image", "audio")
NEEDS_MMCL = (
    "`SentenceTransformer(DIR, trust_remote_code=True)` opens this folder where mmcl is installed: its module is "
    f"`{MODULE}`, which is not part of sentence-transformers."
)


def write(source: Source, folder: Path) -> Written:
    """Any towers; those that take neither text, pictures nor sounds cannot be reached by sentence-transformers."""
    kinds = {m: source.encoder.takes(m) for m in source.modalities}
    unseen = [m for m, kind in kinds.items() if kind not in KINDS]
    if len(unseen) == len(kinds):
        raise MmclError(f"no tower takes {', '.join(KINDS)}; there are: {', '.join(kinds)}.")
    several = [m for m, kind in kinds.items() if list(kinds.values()).count(kind) > 1]
    notes = [NEEDS_MMCL]
    if several:
        notes.append(f"Several towers take the same kind of input: `encode(..., task=NAME)` with {', '.join(several)}.")
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
    for name, content in (("modules.json", modules), ("config_sentence_transformers.json", config)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    return Written(written.modalities, [*written.notes, *notes])


def opened(folder: Path, manifest: dict[str, Any]) -> Encoder:
    """The same towers."""
    return safetensors.opened(folder, manifest)
