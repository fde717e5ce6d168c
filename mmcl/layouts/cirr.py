"""CIRR: find a picture by another one and by what is to be different."""

from collections.abc import Iterator
from typing import Literal

from mmcl.errors import MmclError
from mmcl.layouts.base import LAYOUTS, Layout, Row
from mmcl.layouts.folder import Folder, field, key_of

CAPTION = ("pairid", "reference", "target_hard", "caption", "img_set")


@LAYOUTS.register("cirr")
class Cirr(Layout):
    """``captions/cap.rc2.val.json``, ``image_splits/split.rc2.val.json`` and the pictures of CIRR, which are NLVR2's.

    There are two kinds of samples, which have the extensions of their files: queries with the picture that is changed,
    ``query.png``, and the pictures of the gallery, all of the split, ``target.png``. Their ``json`` says ``shows``: the
    name of the picture, which for a query is the one that is to be found (``target_hard``). That of a query has the
    caption, ``text``, the name of its own picture, ``reference``, which is left out of its gallery, and ``members``:
    the names of the group of six alike that both pictures are of. Nothing may be missing.

    Args:
        split: ``val``, on which results are reported. (The right answers of test1 are known to a server only.)
        images: folder of the pictures, with the split's paths below it.

    Reference:
        Liu et al., "Image Retrieval on Real-life Images with Pre-trained Vision-and-Language Models", ICCV 2021.
        https://github.com/Cuberick-Orion/CIRR
    """

    def __init__(self, split: Literal["val", "train"] = "val", images: str = "img_raw") -> None:
        self.part, self.images = f"rc2.{split}.json", images

    def holds(self) -> list[str]:
        """The captions, the split and the pictures."""
        return [f"captions/cap.{self.part}", f"image_splits/split.{self.part}", f"{self.images}/*/*.png"]

    def rows(self, folder: Folder) -> Iterator[Row]:
        """A sample a caption, then one a picture of the split."""
        captions, split, _ = self.holds()
        gallery = folder.json(split, dict)
        for entry in folder.json(captions, list):
            pair, asked, target, text, group = (field(entry, name, captions) for name in CAPTION)
            members = list(field(group, "members", captions))
            if unknown := [name for name in (asked, target, *members) if name not in gallery]:
                raise MmclError(f"{captions}: pair {pair}: the picture {unknown[0]!r} is not in {split}.")
            said = {"shows": target, "text": text, "reference": asked, "members": members}
            yield {
                "__key__": f"query_{int(pair):06d}",
                "query.png": folder.media(self.images, gallery[asked]),
                "json": said,
            }
        for name, path in gallery.items():
            shown = folder.media(self.images, path)
            yield {"__key__": f"picture_{key_of(name)}", "target.png": shown, "json": {"shows": name}}
