"""The pictures, sounds and texts themselves, out of the shards that were embedded."""

import mimetypes
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcl.data.shards import find_shards, indexed
from mmcl.data.source import IMAGES, SOUNDS, TEXTS, Selector
from mmcl.data.store import Shard, ShardSet
from mmcl.errors import MmclError

GUESSED = {"image": IMAGES, "audio": SOUNDS, "text": TEXTS}
"""Members that a modality of this name lies in, where nothing says it."""
KINDS = {
    "jp2": "image/jp2", "avif": "image/avif", "webp": "image/webp", "pgm": "image/x-portable-graymap",
    "ppm": "image/x-portable-pixmap", "flac": "audio/flac", "opus": "audio/ogg", "ogg": "audio/ogg",
    "oga": "audio/ogg", "wav": "audio/wav", "w64": "audio/x-w64", "au": "audio/basic", "caf": "audio/x-caf",
    "npy": "application/octet-stream", "json": "application/json",
}  # fmt: skip
"""Content types of members, where systems differ about them."""


class Originals:
    """Reads members of samples from the shards of an export.

    Args:
        manifest: of the export, if it has one.
        folder: of the export, for messages.
        shards: where they lie now, if not where the manifest says.
    """

    def __init__(
        self, manifest: dict[str, Any] | None, folder: Path, shards: str | Path | Sequence[str | Path] | None = None
    ) -> None:
        self._manifest, self._folder = manifest or {}, folder
        self._source: dict[str, Any] = self._manifest.get("source") or {}
        self._said = shards or self._source.get("shards")
        self._set: ShardSet | None = None
        self._numbers: dict[int, int] = {}
        self._places: dict[int, dict[str, int]] = {}  # of a shard's samples, by key
        self._one = threading.RLock()

    @property
    def names(self) -> list[str]:
        """Of the shards, by their numbers in the export."""
        return [shard["name"] for shard in self._manifest.get("shards") or []]

    def read(self, shard: int, key: str, modality: str) -> tuple[bytes, str]:
        """The member of a sample that a modality lies in, and its content type.

        Args:
            shard: its number in the export; negative where nobody knows it.
            key: of the sample.
            modality: one of the export's.

        Raises:
            MmclError: the shards are gone, have changed, or hold no such sample or member.
        """
        with self._one:
            opened, place = self._sample(shard, key)
            members = opened.members(place)
            choice = self._selector(modality).find(members)
            if choice is None:
                raise MmclError(f"{opened.url}: sample {key} has no {modality}; it has {', '.join(members)}.")
            return opened.read([members[choice.extension]])[0], content_type(choice.kind)

    def _selector(self, modality: str) -> Selector:
        said = (self._source.get("modalities") or {}).get(modality)
        if said is None and modality in GUESSED:
            said = ";".join(sorted(GUESSED[modality]))
        if said is None:
            raise MmclError(f"{self._folder}: nothing says where {modality} lies in the shards.")
        return Selector.parse(said, modality)

    def _sample(self, number: int, key: str) -> tuple[Shard, int]:
        shards = self._shards()
        for one in range(len(shards.listed)) if number < 0 else [self._number(shards, number)]:
            opened = shards.open(one)
            if one not in self._places:
                self._places[one] = {key: place for place, key in enumerate(opened.index.keys)}
            if (place := self._places[one].get(key)) is not None:
                return opened, place
        raise MmclError(f"{self._folder}: no shard holds sample {key} ({self._where()}).")

    def _shards(self) -> ShardSet:
        if self._set is None:
            if self._said is None:
                raise MmclError(f"{self._folder}: nothing says where the shards lie; say it: --shards SHARDS.")
            try:
                self._set = ShardSet(indexed(find_shards(self._said, "shards of the export")))
            except MmclError as error:
                raise MmclError(f"{error} If the shards lie elsewhere now, say where: --shards SHARDS.") from None
        return self._set

    def _number(self, shards: ShardSet, number: int) -> int:
        """The number, among the shards that are there, of one of the export; it holds what it held."""
        if number not in self._numbers:
            if number >= len(self.names):
                raise MmclError(
                    f"{self._folder}: the manifest names {len(self.names)} shards, and not number {number}."
                )
            said = self._manifest["shards"][number]
            found = [n for n, listed in enumerate(shards.listed) if listed.name == said["name"]]
            found = found if len(found) < 2 or number not in found else [number]
            same = [n for n in found if shards.open(n).index.digest == said.get("digest")]
            if not same:
                wrong = "is another one than was embedded" if found else "is not there"
                raise MmclError(
                    f"{self._folder}: shard {said['name']} {wrong} ({self._where()}). Restore it, or say where it "
                    "lies: --shards SHARDS."
                )
            self._numbers[number] = same[0]
        return self._numbers[number]

    def _where(self) -> str:
        return f"looked for in {self._said}"


def content_type(kind: str) -> str:
    """What a member is, as browsers say it, by the last part of its extension.

    >>> content_type("png"), content_type("flac"), content_type("txt")
    ('image/png', 'audio/flac', 'text/plain; charset=utf-8')
    """
    if kind in TEXTS:
        return "text/plain; charset=utf-8"
    return KINDS.get(kind) or mimetypes.types_map.get(f".{kind}") or "application/octet-stream"
