"""The data set "stamps": Tux Paint's drawings and photographs, with captions in 78 languages, speech and sound effects.

It is read from Debian's package tuxpaint-stamps-default, whose parts are under GPL-2, CC-BY, CC-BY-SA, GFDL or in the
public domain (its changelog says which). So nothing of it comes with mmcl; look there before you pass shards on.

A sample: ``png`` (on a square of paper), ``txt`` (English), spoken captions (``fr.ogg``, ``ru.ogg``, ...) and a sound
effect (``effect.ogg``), bytes as they are, and ``json``: captions by language, ``caption_id`` (shared by captions that
say the same: the identity), category and subcategory (folders), which languages are spoken, if there is an effect.

Split: stamps that share a mark are a family and lie on one side. Marks are the bytes of the picture, those of a
recording, and the set of the English caption's words without articles, colours and the plural's s. In each category,
families in the order of a hash are for testing until they hold 15 % of its stamps.

``tokenizer.model`` is trained on the training captions in English and in the languages that many stamps are spoken in.
"""

import hashlib
import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from _debian import unpacked
from _tuxpaint import LeftOut, Stamp, read_stamps

from mmcl.data import write_shards
from mmcl.errors import MmclError
from mmcl.towers import train_sentencepiece

TEST_SHARE = 0.15
PIECES, SPOKEN_SHARE = 2000, 0.3  # of the tokenizer; of the stamps, for its languages
ARTICLES = {"a", "an", "the", "some"}
COLOURS = {
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray", "grey", "golden",
    "silver"}  # fmt: skip


def words(stamp: Stamp) -> list[str]:
    """Of the English caption, each once and sorted, without articles and the plural's s."""
    said = re.findall(r"\w+", stamp.captions["en"].lower()) or [stamp.captions["en"]]
    return sorted({re.sub(r"(?<=\w\w[^s])s$", "", word) for word in said} - ARTICLES or {*said})


def marks(stamp: Stamp) -> set[str]:
    """What it shares with the stamps of its family."""
    files = (stamp.png, *stamp.recordings.values())
    said = [word for word in words(stamp) if word not in COLOURS] or words(stamp)
    return {" ".join(said), *(hashlib.sha256(data).hexdigest() for data in files)}


def families(stamps: list[Stamp]) -> list[list[Stamp]]:
    """Stamps that share a mark, directly or through others."""
    of_mark: dict[str, set[int]] = {}
    known = [marks(stamp) for stamp in stamps]
    for index in range(len(stamps)):
        together = {index}.union(*(of_mark.get(mark, ()) for mark in known[index]))
        of_mark.update((mark, together) for member in together for mark in known[member])
    return [[stamps[i] for i in sorted(family)] for family in {id(f): f for f in of_mark.values()}.values()]


def category(stamp: Stamp) -> str:
    """The top folder."""
    return stamp.path.split("/")[0]


def by_hash(stamp: Stamp) -> str:
    """An order that has nothing to do with what a stamp shows."""
    return hashlib.sha256(stamp.path.encode()).hexdigest()


def choose_test(stamps: list[Stamp]) -> set[str]:
    """Paths of the test stamps."""
    total, taken = Counter(map(category, stamps)), Counter[str]()
    chosen: set[str] = set()
    for family in sorted(families(stamps), key=lambda family: by_hash(family[0])):
        if taken[own := category(family[0])] < TEST_SHARE * total[own]:
            taken.update(map(category, family))
            chosen.update(stamp.path for stamp in family)
    return chosen


def sample(stamp: Stamp) -> dict[str, Any]:
    """One sample in webdataset's form."""
    voices = sorted(member.partition(".")[0] for member in stamp.recordings)
    meta = {
        "stamp": stamp.path, "category": category(stamp), "subcategory": "/".join(stamp.path.split("/")[:-1][:2]),
        "caption_id": " ".join(words(stamp)), "captions": stamp.captions, "effect": "effect" in voices,
        "spoken": [voice for voice in voices if voice != "effect"]}  # fmt: skip
    key = re.sub(r"[^\w-]", "-", stamp.path)
    return {"__key__": key, "png": stamp.png, "txt": stamp.captions["en"], "json": meta, **stamp.recordings}


def captions(stamps: list[Stamp]) -> list[str]:
    """Those in English and in the languages that a share of the stamps is spoken in."""
    voices = Counter(member.partition(".")[0] for stamp in stamps for member in stamp.recordings)
    languages = {"en", *(voice for voice, count in voices.items() if count >= SPOKEN_SHARE * len(stamps))}
    return [text for stamp in stamps for language, text in stamp.captions.items() if language in languages]


def summary(sides: dict[str, list[Stamp]], left_out: LeftOut) -> dict[str, Any]:
    """Counts for the manifest, and the files that were left out, by reason."""
    stamps = [stamp for side in sides.values() for stamp in side]
    voices = Counter(member.partition(".")[0] for stamp in stamps for member in stamp.recordings)
    return {
        **{name: len(side) for name, side in sides.items()},
        "families": len(families(stamps)),
        "categories": {name: Counter(map(category, side)) for name, side in sides.items()},
        "captions": Counter(language for stamp in stamps for language in stamp.captions),
        "effects": voices.pop("effect", 0),
        "spoken": dict(voices.most_common()),
        "left_out": {reason: files for reason, files in left_out.items() if files},
    }


def build(out: Path, source: Path | None = None) -> None:
    """Write ``out/train``, ``out/test``, a tokenizer of training captions, and last ``out/manifest.json``.

    Args:
        out: folder to make.
        source: the .deb, a folder that holds it, or a folder with its content; without it, apt-get downloads it.
    """
    left_out: LeftOut = defaultdict(list)
    with unpacked("tuxpaint-stamps-default", source) as content:
        installed = content / "usr/share/tuxpaint/stamps"
        root = installed if installed.is_dir() else content
        stamps = sorted(read_stamps(root, left_out), key=by_hash)  # so that every shard is a fair sample
        if not stamps:
            raise MmclError(f"{root} holds no stamps: pictures (.png, .svg) with a .txt of the same name beside them.")
    test = choose_test(sorted(stamps, key=lambda stamp: stamp.path))
    sides = {"train": [s for s in stamps if s.path not in test], "test": [s for s in stamps if s.path in test]}
    for name, side in sides.items():
        if not (out / name / "manifest.json").exists():
            write_shards(map(sample, side), out / name, samples_per_shard=100)
    train_sentencepiece(captions(sides["train"]), out / "tokenizer.model", vocab_size=PIECES, kind="bpe")
    (out / "manifest.json").write_text(json.dumps(summary(sides, left_out), indent=1, ensure_ascii=False))
