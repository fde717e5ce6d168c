"""mmcl embed."""

from pathlib import Path


def embed(
    model: str,
    /,
    *,
    shards: str,
    out: Path,
    weights: str | None = None,
    modalities: str | None = None,
    part_size: int = 10_000,
    batch_size: int = 256,
    workers: int = 2,
) -> None:
    """Write embeddings and metadata of shards, in clip-retrieval's layout.

    Args:
        model: a run folder, or a model of a library: open_clip:NAME, transformers:FOLDER, timm:NAME.
        shards: files: braces, globs, folders.
        out: folder to make: img_emb/, text_emb/, metadata/, manifest.json.
        weights: of a model of a library: a file, a folder, a tag, `pretrained` or `random`.
        modalities: where they lie in the shards, as in image=jpg,text=txt; the run's recipe says it unless told.
        part_size: rows of a part.
        batch_size: rows that are embedded at once.
        workers: threads that read and decode.
    """
    import sys

    import mmcl
    from mmcl.data import Source
    from mmcl.data.source import Selector
    from mmcl.embed import embed_shards
    from mmcl.runs import Run

    encoder = mmcl.load(model, weights=weights)
    if modalities is not None:
        source = Source(shards=shards, modalities=_places(modalities))
    elif (Path(model) / "recipe.yaml").is_file():
        source = Run(Path(model)).recipe().data.sources[0].model_copy(update={"shards": shards})
    else:
        raise mmcl.MmclError(
            f"{model} has no recipe that says what the shards hold: say --modalities image=jpg,text=txt."
        )
    for name, place in source.modalities.items():
        if name not in encoder.modalities:
            kept = "goes into the metadata as it is" if Selector.parse(place, name).is_text else "is not read"
            print(f"note: the model has no tower for {name}, which {kept}.", file=sys.stderr)
    manifest = embed_shards(encoder, source, out, part_size=part_size, batch_size=batch_size, workers=workers)
    said = f"{manifest['samples']:,} samples, {', '.join(manifest['modalities'])}, {manifest['dim']} numbers each"
    print(f"{said}; {len(manifest['bad_samples'])} bad: {out}", file=sys.stderr)


def _places(said: str) -> dict[str, str]:
    """``image=jpg;png,text=txt`` as a mapping."""
    from mmcl.errors import MmclError

    pairs = [piece.partition("=") for piece in said.split(",")]
    if not all(name.strip() and place.strip() for name, _, place in pairs):
        raise MmclError(f"--modalities {said!r}: say where each lies in the shards, as in image=jpg,text=txt.")
    return {name.strip(): place.strip() for name, _, place in pairs}
