"""mmcl embed."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from mmcl.data import Source
    from mmcl.model import Encoder

MANY = 0.1  # of the samples may be bad before it is said aloud


def embed(  # noqa: PLR0913 - what is made, and who makes it
    model: str,
    /,
    *,
    shards: str,
    out: Path,
    weights: str | None = None,
    modalities: str | None = None,
    part_size: int = 10_000,
    batch_size: int = 256,
    dtype: Literal["fp32", "fp16"] = "fp32",
    layout: Literal["clip_retrieval", "parquet"] = "clip_retrieval",
    dims: int | None = None,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    workers: int = 2,
    parts: str = "0/1",
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    quantize: str | None = None,
) -> None:
    """Write embeddings and metadata of shards, part by part, in clip-retrieval's layout or as parquet.

    The same command goes on where one was interrupted. Any number of processes may make it for one folder at once:
    accelerate launch, torchrun, srun, or shells of their own.

    Args:
        model: a run folder, or a model of a library: open_clip:NAME, transformers:FOLDER, timm:NAME.
        shards: files: braces, globs, folders.
        out: folder to make: img_emb/, text_emb/, metadata/, manifest.json.
        weights: of a model of a library: a file, a folder, a tag, `pretrained` or `random`.
        modalities: where they lie in the shards, as in image=jpg,text=txt; the run's recipe says it unless told.
        part_size: rows of a part.
        batch_size: rows that are embedded at once.
        dtype: of the vectors in the files; fp16 takes half the room.
        layout: NAME_emb/*.npy beside metadata/*.parquet, or embeddings/*.parquet with columns of vectors.
        dims: keep the first coordinates only, and normalise again (Matryoshka).
        precision: in which the towers compute; bf16 is several times faster on GPUs.
        workers: threads that read and decode.
        parts: i/n makes only each n-th part, from the i-th on: a job of a SLURM array.
        engine: ray makes the parts on the machines of a cluster.
        address: of the Ray cluster, as in ray://HEAD:10001; the one that is there unless told.
        quantize: some of int8,binary,dims64: in fewer bits or numbers as well, and the recall that each loses.
    """
    import mmcl
    from mmcl import distributed
    from mmcl.embed import embed_shards
    from mmcl.embed.quantize import known
    from mmcl.embed.quantize import quantize as quantized

    first = distributed.launched()[0] == 0
    encoder = mmcl.load(model, device=distributed.own_device(), weights=weights)
    asked = [kind.strip() for kind in (quantize or "").split(",") if kind.strip()]
    kinds = known(asked, dims or encoder.dim)
    recipe = _recipe(model)
    source = _source(model, recipe, shards, modalities)
    if first:
        _note(encoder, source, recipe, dims is not None or any(kind.startswith("dims") for kind in kinds))
    finished = (out / "manifest.json").exists()
    manifest = embed_shards(
        encoder,
        source,
        out,
        part_size=part_size,
        batch_size=batch_size,
        dtype=dtype,
        layout=layout,
        dims=dims,
        precision=precision,
        workers=workers,
        parts=_share(parts),
        engine=engine,
        address=address,
        about={"opened": {"model": _place(model), "weights": weights}, "recipe": recipe},
        show=first,
    )
    if manifest is not None and first:
        _tell(manifest, out, finished)
        quantized(out, [*kinds], _say)
    elif kinds and first:
        _say("note: --quantize is done by the command that makes the last part; say it there as well.")


def _say(told: str) -> None:
    import sys

    print(told, file=sys.stderr)


def _note(encoder: "Encoder", source: "Source", recipe: dict[str, Any] | None, truncated: bool) -> None:
    """Say what may not be what was meant."""
    from mmcl.data.source import Selector

    for name, place in source.modalities.items():
        if name not in encoder.modalities:
            kept = "goes into the metadata as it is" if Selector.parse(place, name).is_text else "is not read"
            _say(f"note: the model has no tower for {name}, which {kept}.")
    if truncated and recipe is not None and "matryoshka" not in str(recipe["objective"]):
        _say("warning: no term of the recipe is matryoshka: first coordinates alone were not trained.")


def _tell(manifest: dict[str, Any], out: Path, finished: bool) -> None:
    """Say what there is, and where much could not be used."""
    said = f"{manifest['samples']:,} samples, {', '.join(manifest['modalities'])}, {manifest['dim']} numbers each"
    bad = sum(part["bad"] for part in manifest["parts"])
    _say(f"{said}; {bad:,} bad: {out}{' (it was finished before)' if finished else ''}")
    for modality, count in manifest["bad"].items():
        if modality in manifest["modalities"] and count > MANY * manifest["samples"]:
            reason = next((one["reason"] for one in manifest["bad_samples"] if one["modality"] == modality), "unknown")
            share = f"{modality}: {count:,} of {manifest['samples']:,} samples have no vector"
            _say(f"warning: {share}; the first one: {reason}. Are they where --modalities says?")


def _recipe(model: str) -> dict[str, Any] | None:
    """The recipe of a run or of one of its checkpoints, as JSON has it."""
    from mmcl import checkpoints
    from mmcl.runs import Run

    run = checkpoints.place(Path(model))[0]
    return Run(run).recipe().model_dump(mode="json") if (run / "recipe.yaml").is_file() else None


def _source(model: str, recipe: dict[str, Any] | None, shards: str, modalities: str | None) -> "Source":
    """The shards, and where the modalities lie in them."""
    from mmcl.data import Source
    from mmcl.data.source import said_places
    from mmcl.errors import MmclError

    if modalities is not None:
        return Source(shards=shards, modalities=said_places([modalities], "--modalities"))
    if recipe is None:
        raise MmclError(f"{model} has no recipe that says what the shards hold: say --modalities image=jpg,text=txt.")
    train = recipe["data"]["train"]
    return Source(**{**(train[0] if isinstance(train, list) else train), "shards": shards})


def _place(model: str) -> str:
    """Where the model lies, for who is in another folder."""
    return str(Path(model).absolute()) if Path(model).exists() else model


def _share(said: str) -> tuple[int, int]:
    """``3/8`` as numbers."""
    from mmcl.errors import MmclError

    index, slash, of = said.partition("/")
    if not (slash and index.isdecimal() and of.isdecimal()):
        raise MmclError(f"--parts {said!r}: say which of how many, as in 0/8 to 7/8.")
    return int(index), int(of)
