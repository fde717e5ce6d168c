"""Shards from a folder of files: those that share path and stem (a/b.jpg and a/b.txt) are a sample."""

import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from mmcl.data import Tally, write_shards
from mmcl.errors import MmclError

Dots = Literal["refuse", "replace", "extension"]


def walk(folder: Path, tally: Tally) -> Iterator[Path]:
    """All files below a folder: its own in the order of their names, then those of its folders."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        tally.bad(f"folder: {error.strerror}".lower(), file=str(folder))
        return
    folders = []
    for entry in found:
        if entry.name.startswith("."):
            tally.count("hidden files and folders left out")
        elif entry.is_dir(follow_symlinks=False):
            folders.append(Path(entry.path))
        elif entry.is_file():
            yield Path(entry.path)
        else:
            tally.bad("a link to a folder or to nothing, or no regular file", file=entry.path)
    for path in folders:
        yield from walk(path, tally)


def split(path: Path, folder: Path, dots: Dots) -> tuple[str, str]:
    """Key and extension of a file.

    Readers of shards end a key at the first dot of the name, so a name with another dot needs a decision.
    """
    name = path.name
    if name.count(".") > 1 and dots == "refuse":
        first, last = name.split(".", 1), name.rsplit(".", 1)
        raise MmclError(
            f"{path} has more than one dot, and a key in a shard ends at the first. Say --dots replace to take "
            f"{last[0].replace('.', '_')!r} for the key and {last[1]!r} for the extension (cat.v1.jpg), or --dots "
            f"extension for {first[0]!r} and {first[1]!r} (cat.mask.png)."
        )
    stem, _, extension = name.partition(".") if dots == "extension" else name.rpartition(".")
    return (path.parent.relative_to(folder) / stem.replace(".", "_")).as_posix(), extension.lower()


def keyed(folder: Path, dots: Dots, tally: Tally) -> Iterator[tuple[Path, tuple[str, str]]]:
    """Files with their (key, extension); those of a sample lie together."""
    for _, files in groupby(walk(folder, tally), key=lambda path: path.parent):
        named = []
        for path in files:
            if path.suffix:
                named.append((path, split(path, folder, dots)))
            else:
                tally.bad("a file without an extension", file=str(path))
        stems: dict[str, Path] = {}
        for path, (key, _) in named:
            stem = path.name.rpartition(".")[0]
            if dots == "replace" and stems.setdefault(key, path).name.rpartition(".")[0] != stem:
                raise MmclError(f"{path} and {stems[key].name} would both have the key {key!r}; rename one.")
        yield from sorted(named, key=lambda pair: pair[1])


def build(
    out: Path,
    folder: Path,
    *,
    require: list[str] | None = None,
    dots: Dots = "refuse",
    samples_per_shard: int = 1000,
    bytes_per_shard: int | None = None,
) -> None:
    """Make shards of a folder of files: those that share path and stem (a/b.jpg and a/b.txt) are a sample.

    The key is the path below the folder without its extension. What is left out is counted (counts.json), and files
    that cannot be used are listed (bad_samples.jsonl); counts.json also says which members come together how often.

    Args:
        out: folder to make, outside the other.
        folder: of the files, at any depth.
        require: extensions of which a sample must have one, as in "jpg;png"; given twice, one of each. A sample
            without is left out, and told.
        dots: what to do with names such as cat.v1.jpg: refuse them, replace the first dots by _ (key cat_v1), or let
            the key end at the first dot as readers do (extension v1.jpg).
        samples_per_shard: a shard that has so many is full.
        bytes_per_shard: a shard that has reached so many bytes is full.
    """
    if not folder.is_dir():
        raise MmclError(f"{folder} is no folder.")
    if out.resolve().is_relative_to(folder.resolve()):
        raise MmclError(f"{out} lies in {folder}, so the shards would be taken for data; write to a folder outside.")
    needed = [[extension.strip(". ").lower() for extension in one.split(";")] for one in require or []]

    def samples() -> Iterator[dict[str, Any]]:
        with Tally(out) as tally:
            for key, files in groupby(keyed(folder, dots, tally), key=lambda pair: pair[1][0]):
                members = []
                for path, (_, extension) in files:
                    if (data := tally.read(path, key=key)) is not None:
                        members.append((extension, data))
                extensions = [extension for extension, _ in members]
                if twice := {extension for extension in extensions if extensions.count(extension) > 1}:
                    raise MmclError(f"{folder / key} has two files that end in .{min(twice)}, in capitals or not.")
                missing = [";".join(one) for one in needed if not set(one) & set(extensions)]
                if missing or not members:
                    tally.bad(f"no {missing[0]}" if missing else "no member can be read", key=key)
                else:
                    tally.count(f"samples with {', '.join(sorted(extensions))}")
                    yield {"__key__": key, **dict(members)}

    write_shards(samples(), out, samples_per_shard, bytes_per_shard)
