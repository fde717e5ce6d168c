"""mmcl search."""

from pathlib import Path


def search(
    folder: Path,
    /,
    *,
    model: str | None = None,
    weights: str | None = None,
    shards: str | None = None,
    serve: bool = False,
    host: str = "127.0.0.1",
    port: int = 8707,
) -> None:
    """Search what `mmcl embed` wrote.

    Args:
        folder: of the export.
        model: where the model that made it lies now, if not where the manifest says.
        weights: of a model of a library, if others than the manifest says.
        shards: where they lie now, if not where the manifest says.
        serve: open a local page to search in.
        host: address that the page is served at; another than the loopback lets others in.
        port: that it is served at; 0 takes a free one.
    """
    import sys

    from mmcl.search import Collection

    def say(told: str) -> None:
        print(told, file=sys.stderr)

    collection = Collection.open(folder, model=model, weights=weights, shards=shards, say=say)
    if serve:
        from mmcl.search.serve import serve as run

        run(collection, host, port, lambda told: print(told, flush=True))
