"""Folders of CLIP_benchmark's layout, and a small model of open_clip, for tests that hand both to two programs."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file

SIDE = 32  # pictures are as large as the model takes them: nobody resizes
CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": SIDE, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "layers": 1, "heads": 2},
}


def write_model(folder: Path, seed: int = 14) -> tuple[Path, Path]:
    """Configuration and weights of a model, so large that what it is shown lies far apart."""
    torch.manual_seed(seed)
    (folder / "small.json").write_text(json.dumps(CONFIG))
    clip = open_clip.CLIP(**CONFIG)
    with torch.no_grad():
        for weight in clip.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.15)
    save_file(clip.state_dict(), folder / "weights.safetensors")
    return folder / "small.json", folder / "weights.safetensors"


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    """Pictures of a few large patches, of many tints."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        patches = rng.random((4, 4, 3)) * rng.random(3)
        pixels = np.kron(patches, np.ones((SIDE // 4, SIDE // 4, 1))) * 255
        found.append(Image.fromarray((0.8 * pixels + 51 * rng.random((SIDE, SIDE, 3))).astype(np.uint8)))
    return found


def encoded(picture: Image.Image, extension: str) -> bytes:
    """The bytes of a file without loss."""
    file = io.BytesIO()
    picture.save(file, **({"format": "webp", "lossless": True} if extension == "webp" else {"format": "png"}))
    return file.getvalue()


def array(values: Sequence[int]) -> bytes:
    """The bytes of a .npy."""
    file = io.BytesIO()
    np.save(file, np.array(values, dtype=np.int64))
    return file.getvalue()


def write_folder(
    root: Path,
    samples: Sequence[Mapping[str, bytes]],
    shard: int,
    kind: str | None = None,
    classes: Sequence[str] = (),
    templates: Sequence[str] = (),
) -> Path:
    """A data set as `clip_benchmark_export_wds` writes it.

    Args:
        root: its folder.
        samples: extension -> bytes.
        shard: samples in each.
        kind: what dataset_type.txt says; without it there is none, and it is a classification.
        classes: lines of classnames.txt.
        templates: lines of zeroshot_classification_templates.txt.
    """
    (root / "test").mkdir(parents=True)
    starts = range(0, len(samples), shard)
    for number, start in enumerate(starts):
        with tarfile.open(root / "test" / f"{number}.tar", "w") as tar:
            for index, sample in enumerate(samples[start : start + shard], start):
                for extension, data in sample.items():
                    member = tarfile.TarInfo(f"s{index:07d}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    (root / "test" / "nshards.txt").write_text(f"{len(starts)}\n")
    if kind is not None:
        (root / "dataset_type.txt").write_text(f"{kind}\n")
    if classes:
        (root / "classnames.txt").write_text("".join(f"{name}\n" for name in classes))
        (root / "zeroshot_classification_templates.txt").write_text("".join(f"{line}\n" for line in templates))
    return root


def write_task(root: Path, evaluator: Mapping[str, Any], label: str) -> Path:
    """A task of mmcl over such a folder.

    Args:
        root: the folder.
        evaluator: of the task.
        label: the member beside the picture.
    """
    beside = {"text": "txt:lines"} if label == "txt" else {"label": label}
    task = {
        "title": root.name,
        "key": f"wds/{root.name}",
        "root": str(root),
        "evaluator": evaluator,
        "data": {"shards": "test", "modalities": {"image": "webp;png", **beside}, "captions": "all"},
    }
    path = root.parent / f"{root.name}.yaml"
    path.write_text(json.dumps(task))
    return path


ZEROSHOT = {
    "name": "zeroshot",
    "modality": "image",
    "classes": "classnames.txt",
    "templates": "zeroshot_classification_templates.txt",
}
RETRIEVAL = {"name": "retrieval", "modalities": ["text", "image"]}
