"""WinoGAViL: a word, and the pictures among five to twelve that people associate with it."""

from collections.abc import Iterator

from mmcl.errors import MmclError
from mmcl.layouts.base import LAYOUTS, Layout, Row
from mmcl.layouts.captions_table import listed
from mmcl.layouts.folder import Folder, key_of

COLUMNS = ["ID", "cue", "candidates", "associations"]


@LAYOUTS.register("winogavil")
class Winogavil(Layout):
    """``winogavil_dataset.csv`` of Hugging Face's nlphuji/winogavil, and the pictures of its archive.

    A sample has the pictures of the candidates: ``right.0.jpg``, ``right.1.jpg``, ... of those that people associate
    with the word, and ``wrong.0.jpg``, ... of the others; and ``json``: ``cue``; ``prompt``, which says "A cue" or "An
    cue" as the authors and DataComp do; ``right`` and ``wrong``, names in the order of the pictures;
    ``num_candidates``. Nothing may be missing.

    Args:
        table: the CSV.
        images: folder of the pictures.

    Reference:
        Bitton et al., "WinoGAViL: Gamified Association Benchmark to Challenge Vision-and-Language Models", NeurIPS
        2022. https://huggingface.co/datasets/nlphuji/winogavil
    """

    def __init__(self, table: str = "winogavil_dataset.csv", images: str = "winogavil_images") -> None:
        self.table, self.images = table, images

    def holds(self) -> list[str]:
        """The table and the pictures."""
        return [self.table, f"{self.images}/*.jpg"]

    def rows(self, folder: Folder) -> Iterator[Row]:
        """A sample a row of the table."""
        for row in folder.table(self.table, COLUMNS):
            where = f"{self.table}: {row['ID']}"
            candidates, associations = listed(row["candidates"], where), listed(row["associations"], where)
            if strange := set(associations) - set(candidates):
                raise MmclError(f"{where}: {min(strange)!r} is associated, but no candidate.")
            sides = {
                "right": [one for one in candidates if one in associations],
                "wrong": [one for one in candidates if one not in associations],
            }
            files = {
                f"{side}.{place}.jpg": folder.media(self.images, f"{name}.jpg")
                for side, names in sides.items()
                for place, name in enumerate(names)
            }
            said = {"cue": row["cue"], "prompt": prompt(row["cue"]), **sides, "num_candidates": len(candidates)}
            yield {"__key__": key_of(row["ID"]), **files, "json": said}


def prompt(cue: str) -> str:
    """What a text tower is asked.

    >>> prompt("Ear"), prompt("pirate")
    ('An ear', 'A pirate')
    """
    cue = cue.lower()
    return f"An {cue}" if cue[:1] in tuple("aeiou") else f"A {cue}"
