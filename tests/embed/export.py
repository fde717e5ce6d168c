"""What the tests of exports share: samples with holes, a model in a file, and processes that embed."""

import io
import json
import multiprocessing
import os
import pickle
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import soundfile
import torch

import mmcl.embed
from mmcl.data import Source, write_shards
from mmcl.model import Encoder
from tests import small_model

LIES = {"picture": "png", "caption": "txt", "voice": "wav"}
COUNT, SHARD, PART, BATCH = 130, 35, 12, 5  # which do not divide one another
BROKEN = 18  # number of the sample whose picture is no picture
MODEL = "model.pickle"

fork = multiprocessing.get_context("forkserver")  # every process begins from one that has imported all, and only that
fork.set_forkserver_preload(["tests.embed.export", "mmcl.embed.maker", "pyarrow.parquet", "filelock"])


def values(count: int = COUNT) -> list[dict[str, Any]]:
    """Samples of pictures, texts and sounds, as the model takes them, of which some lack one."""
    sounds = [(one["array"], one["sampling_rate"]) for one in small_model.sounds(count // 5)]
    every = [
        {"picture": picture, "caption": text}
        for picture, text in zip(small_model.pictures(count), small_model.texts(count), strict=True)
    ]
    for number, sound in enumerate(sounds):
        every[5 * number]["voice"] = sound
    for number, sample in enumerate(every):
        if number % 7 == 3:
            del sample["picture"]
        if number % 11 == 4:
            del sample["caption"]
    return every


def write(folder: Path, count: int = COUNT, shard: int = SHARD) -> Path:
    """The same as shards, with a JSON member here and there, and a picture that is broken."""
    samples = []
    for number, sample in enumerate(values(count)):
        members: dict[str, Any] = {"__key__": f"{number:04d}"}
        if "picture" in sample:
            content = io.BytesIO()
            sample["picture"].save(content, "png")
            members["png"] = content.getvalue() if number != BROKEN else b"no picture"
        if "caption" in sample:
            members["txt"] = sample["caption"]
        if "voice" in sample:
            content = io.BytesIO()
            soundfile.write(content, *sample["voice"], format="wav", subtype="FLOAT")
            members["wav"] = content.getvalue()
        if number % 4 == 0:
            members["json"] = json.dumps({"number": number})
        samples.append(members if len(members) > 1 else members | {"json": "{}"})
    write_shards(samples, folder, shard)
    return folder


def source(folder: Path, **said: Any) -> Source:
    """Where the modalities lie; no sample needs to have all."""
    return Source(shards=str(folder), modalities=LIES, optional=["caption", "voice"], **said)


def embed(folder: Path, out: Path, **options: Any) -> dict[str, Any] | None:
    """Embed shards that lie in a folder beside the model."""
    encoder: Encoder = pickle.loads((folder / MODEL).read_bytes())
    return mmcl.embed.embed_shards(
        encoder, source(folder / "shards"), out, **{"part_size": PART, "batch_size": BATCH, **options}
    )


def process(folder: Path, out: Path, rank: int = 0, processes: int = 1, **options: Any) -> ForkServerProcess:
    """The same in a process of its own, which is started."""
    made = fork.Process(target=_alone, args=(folder, out, rank, processes, options))
    made.start()
    return made


def _alone(folder: Path, out: Path, rank: int, processes: int, options: dict[str, Any]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(processes), "ACCELERATE_USE_CPU": "true"}
    torch.set_num_threads(1)
    embed(folder, out, **options)


def tree(out: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
