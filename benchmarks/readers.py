"""Whether clip-retrieval, autofaiss and embedding-reader read an export of `mmcl embed` as it is.

    python benchmarks/readers.py EXPORT [--cache DIR]      # EXPORT: a folder in clip-retrieval's layout

In the environment of clip-retrieval 2.45.0 (`peers.py`), unchanged: `embedding_reader` reads vectors and metadata side
by side; `clip_retrieval.clip_index` has autofaiss make indices of the folder and copies the metadata; the service of
`clip_retrieval.clip_back` answers with them, asked for the vectors of 20 of the samples. Each must find that sample
first, or another one with the same vector, and name it. Ends with 1, and says what was wrong, otherwise.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = ["image_path", "caption"]
ASKED = 20


def read(export: Path, part: str) -> tuple[np.ndarray, Any]:
    """What embedding-reader says the vectors and the rows of a modality are."""
    from embedding_reader import EmbeddingReader

    reader = EmbeddingReader(
        embeddings_folder=str(export / f"{part}_emb"),
        metadata_folder=str(export / "metadata"),
        meta_columns=COLUMNS,
        file_format="parquet_npy",
    )
    import pandas

    pieces = list(reader(batch_size=1000, start=0, end=reader.count, show_progress=False))
    return np.concatenate([piece for piece, _ in pieces]), pandas.concat([rows for _, rows in pieces])


def inside(export: Path) -> Iterator[str]:
    """In the environment of clip-retrieval."""
    from clip_retrieval.clip_back import ClipResource, KnnService, load_index, load_metadata_provider
    from clip_retrieval.clip_index import clip_index

    manifest = json.loads((export / "manifest.json").read_text())
    with tempfile.TemporaryDirectory() as made:
        indices = f"{made}/indices"
        clip_index(str(export), indices)
        for part in ("img", "text"):
            vectors, rows = read(export, part)
            assert len(vectors) == len(rows) == manifest["samples"], (len(vectors), len(rows), manifest["samples"])
            yield f"embedding-reader: {part}_emb: {len(vectors)} rows of {vectors.shape[1]}, with their metadata"
            modality = {"img": "image"}.get(part, part)
            index = load_index(f"{indices}/{modality}.index", enable_faiss_memory_mapping=False)
            yield f"autofaiss: {modality}.index: {type(index).__name__} of {index.ntotal}"
            provider, _ = load_metadata_provider(indices, False, False, index, COLUMNS, False)
            fields = dict.fromkeys(ClipResource.__dataclass_fields__)
            fields |= {"metadata_provider": provider, "columns_to_return": COLUMNS, f"{modality}_index": index}
            service = KnnService(clip_resources={"export": ClipResource(**fields)})
            right = 0
            for row in np.linspace(0, len(vectors) - 1, ASKED).astype(int):
                found = service.query(
                    embedding_input=vectors[row].tolist(), modality=modality, num_images=5, deduplicate=False
                )[0]
                same = np.abs(vectors[found["id"]].astype(np.float32) - vectors[row].astype(np.float32)).max() < 1e-3
                named = found["image_path"] == rows.iloc[found["id"]]["image_path"]
                right += bool(same and named)
            assert right == ASKED, f"{modality}: {right} of {ASKED} found themselves"
            yield f"clip_back: {modality}: {right} of {ASKED} samples find themselves, and are named"


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("--cache", type=Path, help="where the environments are")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        for line in inside(args.export):
            print(line, flush=True)
        return
    from peers import CACHE, interpreter

    python = interpreter("clip_retrieval", args.cache or CACHE)
    sys.exit(subprocess.run([python, __file__, str(args.export.absolute()), "--inside"], check=False).returncode)


if __name__ == "__main__":
    main()
