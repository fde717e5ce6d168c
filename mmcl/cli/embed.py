"""mmcl embed."""

from pathlib import Path


def embed(
    run: Path, /, *, shards: str, out: Path, part_size: int = 10_000, batch_size: int = 256, workers: int = 2
) -> None:
    """Write embeddings and metadata of shards, in clip-retrieval's layout.

    Args:
        run: a run folder.
        shards: files: braces, globs, folders. Their members are called as in the run's recipe.
        out: folder to make: img_emb/, text_emb/, metadata/, manifest.json.
        part_size: rows of a part.
        batch_size: rows that are embedded at once.
        workers: threads that read and decode.
    """
    import sys

    import mmcl
    from mmcl.embed import embed_shards
    from mmcl.runs import Run

    source = Run(run).recipe().data.sources[0].model_copy(update={"shards": shards})
    manifest = embed_shards(mmcl.load(run), source, out, part_size=part_size, batch_size=batch_size, workers=workers)
    said = f"{manifest['samples']:,} samples, {', '.join(manifest['modalities'])}, {manifest['dim']} numbers each"
    print(f"{said}; {len(manifest['bad_samples'])} bad: {out}", file=sys.stderr)
