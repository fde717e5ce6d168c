"""FashionIQ: find a piece of clothing by another one and what is to be different."""

from collections.abc import Iterator
from typing import Literal

from mmcl.errors import MmclError
from mmcl.layouts.base import LAYOUTS, Layout, Row
from mmcl.layouts.folder import Folder, field, key_of


@LAYOUTS.register("fashion_iq")
class FashionIq(Layout):
    """``captions/cap.dress.val.json``, ``image_splits/split.dress.val.json`` and ``images`` of FashionIQ.

    There are two kinds of samples, which have the extensions of their files: queries with the picture that is changed,
    ``query.jpg``, and the pictures of the gallery, all of the split, ``target.jpg``. Their ``json`` says ``shows``: the
    name of the picture, which for a query is the one that is to be found. That of a query has ``text``, both captions
    joined ("is blue and has longer sleeves", without the signs at their ends), and ``captions``, as they were written.
    Nothing may be missing.

    Args:
        category: ``dress``, ``shirt`` or ``toptee``; results are the mean of the three.
        split: ``val``, on which results are reported.
        extension: of the pictures; ``jpg`` in some copies.

    Reference:
        Wu et al., "Fashion IQ: A New Dataset Towards Retrieving Images by Natural Language Feedback", CVPR 2021.
        https://github.com/XiaoxiaoGuo/fashion-iq
    """

    def __init__(
        self,
        category: Literal["dress", "shirt", "toptee"],
        split: Literal["val", "train"] = "val",
        extension: Literal["png", "jpg"] = "png",
    ) -> None:
        self.extension, self.part = extension, f"{category}.{split}.json"

    def holds(self) -> list[str]:
        """The captions, the split and the pictures."""
        return [f"captions/cap.{self.part}", f"image_splits/split.{self.part}", f"images/*.{self.extension}"]

    def rows(self, folder: Folder) -> Iterator[Row]:
        """A sample a pair of captions, then one a picture of the split."""
        captions, split, _ = self.holds()
        gallery = folder.json(split, list)
        known = set(gallery)
        for number, entry in enumerate(folder.json(captions, list)):
            asked, target = (field(entry, name, captions) for name in ("candidate", "target"))
            if target not in known:
                raise MmclError(f"{captions}: the target {target!r} is not in {split}.")
            said = [str(one) for one in field(entry, "captions", captions)]
            text = " and ".join(filter(None, (one.strip(" .,?!") for one in said)))
            yield {
                "__key__": f"query_{number:05d}",
                f"query.{self.extension}": folder.media("images", f"{asked}.{self.extension}"),
                "json": {"shows": target, "text": text, "captions": said},
            }
        for name in gallery:
            yield {
                "__key__": f"picture_{key_of(name)}",
                f"target.{self.extension}": folder.media("images", f"{name}.{self.extension}"),
                "json": {"shows": name},
            }
