"""Embeddings of shards, part by part: on one process or on many, each of which may die at any instant."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from mmcl import distributed
from mmcl.data import Source
from mmcl.embed.maker import Maker
from mmcl.embed.plan import Dtype, Layout, Options, Precision, make_plan
from mmcl.embed.progress import Progress
from mmcl.embed.samples import Samples
from mmcl.embed.work import Work
from mmcl.errors import MmclError, several
from mmcl.model import Encoder

POLL = 0.5  # seconds between looks for what others let go of
Engine = Literal["local", "ray"]


def embed_shards(  # noqa: PLR0913 - what is made, and who makes it
    encoder: Encoder,
    source: Source,
    out: str | Path,
    *,
    part_size: int = 10_000,
    batch_size: int = 256,
    dtype: Dtype = "fp32",
    layout: Layout = "clip_retrieval",
    dims: int | None = None,
    precision: Precision = "fp32",
    workers: int = 2,
    parts: tuple[int, int] = (0, 1),
    engine: Engine = "local",
    address: str | None = None,
    about: Mapping[str, Any] | None = None,
    show: bool = False,
) -> dict[str, Any] | None:
    """Embed every sample of shards, in the order of the shards.

    A part is a fixed range of samples, made alone, so that its bytes are the same whoever makes it. Any number of
    processes may make this call for one folder at the same time: each takes parts that nobody else makes. A call that
    was interrupted goes on with the parts that are not whole when it is made again.

    Args:
        encoder: what embeds; the modalities of the source that it has no tower for go into the metadata as texts.
        source: shards, and where the modalities lie.
        out: folder to make.
        part_size: see `Options`, as all to precision.
        batch_size: rows that are embedded at once.
        dtype: of the vectors in the files.
        layout: of the files.
        dims: first coordinates that are kept, and normalised again.
        precision: in which the towers compute.
        workers: threads that read and decode.
        parts: (i, n) makes only the parts whose number is i modulo n, for jobs that share the work without knowing of
            one another.
        engine: ``local``, in this process, or ``ray``, on the machines of a cluster.
        address: of the Ray cluster; the one that is there, or else one of this machine, unless told.
        about: ``opened`` and ``recipe``, what the manifest says of the model's origin.
        show: tells on standard error how far it is.

    Returns:
        The manifest, which is also ``out/manifest.json``: model, shards, counts, parts. None where all that was asked
        for is there, and parts of other jobs are not.

    Raises:
        MmclError: shards are missing, the folder was begun otherwise or cannot be written, or the model and the shards
            share no modality.
    """
    options = Options(part_size, batch_size, dtype, layout, dims, precision)
    index, of = parts
    if not 0 <= index < of:
        raise MmclError(f"parts: i/n with i from 0 to n - 1, as in 0/{max(of, 1)}; got {index}/{of}.")
    samples = Samples(encoder, source, batch_size, workers)
    work = Work(Path(out), make_plan(encoder, samples, options, about or {}))
    numbers = range(index, work.plan.count, of)
    total = sum(len(work.plan.part(number)) for number in numbers)

    def whole() -> int:
        return total - sum(len(work.plan.part(number)) for number in work.missing(numbers))

    if (made := work.manifest()) is not None:
        return made
    with Progress(total, whole, show) as progress:
        if engine == "ray":
            from mmcl.embed.on_ray import make_on_ray

            make_on_ray(encoder, source, work, numbers, progress, workers, address)
        else:
            _make_here(Maker(encoder, samples, work, progress), numbers)
        made = work.finish()
        if made is None:
            left = work.missing(range(work.plan.count))
            progress.say(
                f"{several(len(left), 'part')} of other jobs are left; whoever makes the last one ends the export"
            )
    return made


def _make_here(maker: Maker, numbers: range) -> None:
    """Make all of some parts, with whoever else makes them."""
    rank, processes = distributed.launched()
    first = len(numbers) * rank // processes  # processes begin apart, so that each reads what lies together
    while left := maker.work.missing([*numbers[first:], *numbers[:first]]):
        if not maker.make(left):
            maker.progress.waiting(len(left))
            time.sleep(POLL)
