"""VALSE: pictures of five data sets, each with a caption that fits and a foil that does not."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from mmcl.errors import MmclError
from mmcl.layouts.base import LAYOUTS, Layout, Row
from mmcl.layouts.folder import Folder, field, filled

Instrument = Literal[
    "existence",
    "plurals",
    "counting-hard",
    "counting-small-quant",
    "counting-adversarial",
    "relations",
    "action-replacement",
    "actant-swap",
    "coreference-standard",
    "coreference-hard",
    "foil-it",
]


@LAYOUTS.register("valse")
class Valse(Layout):
    """The JSON files of VALSE (``data/existence.json``, ...), and the pictures of the data sets that they name.

    A sample has the picture, under the extension of its file, and ``json``: ``caption``, ``foil``,
    ``linguistic_phenomena``, ``dataset``. Nothing may be missing. Only foils that people found valid are taken, as
    published: at least two of three annotators chose the caption, and not the foil.

    Args:
        instrument: the JSON's name.
        images: where a picture lies; ``{dataset}`` (visual7w, SWiG, VisDial_v1.0, FOIL dataset, coco_2017) and
            ``{image_file}`` are filled in. (This is where CLIP_benchmark puts them, too.)
        agreeing: annotators; 0 takes all foils.

    Reference:
        Parcalabescu et al., "VALSE: A Task-Independent Benchmark for Vision and Language Models Centered on Linguistic
        Phenomena", ACL 2022, section 4.4. https://github.com/Heidelberg-NLP/VALSE
    """

    def __init__(
        self,
        instrument: Instrument,
        images: str = "{dataset}/{image_file}",
        agreeing: Annotated[int, Field(ge=0, le=3)] = 2,
    ) -> None:
        self.instrument, self.images, self.agreeing = instrument, images, agreeing

    def holds(self) -> list[str]:
        """The JSON and the pictures."""
        return [f"data/{self.instrument}.json", self.images]

    def rows(self, folder: Folder) -> Iterator[Row]:
        """A sample a valid foil."""
        path = f"data/{self.instrument}.json"
        for number, (name, entry) in enumerate(folder.json(path, dict).items()):
            if field(entry, "mturk", f"{path}: {name}")["caption"] < self.agreeing:
                continue
            said = {key: field(entry, key, f"{path}: {name}") for key in ("dataset", "image_file")}
            file = folder.media(filled(self.images, said, "images"))
            texts = {key: _one(field(entry, key, f"{path}: {name}"), f"{path}: {name}") for key in ("caption", "foil")}
            texts["linguistic_phenomena"] = field(entry, "linguistic_phenomena", f"{path}: {name}")
            yield {
                "__key__": f"{self.instrument}_{number:05d}",
                file.extension: file,
                "json": {**texts, "dataset": said["dataset"], "name": name},
            }


def _one(value: str | list[str], where: str) -> str:
    """A text, which may stand in a list of its own."""
    texts = [value] if isinstance(value, str) else value
    if len(texts) != 1:
        raise MmclError(f"{where}: one text is needed, there are {len(texts)}.")
    return texts[0]
