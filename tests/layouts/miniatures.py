"""Each layout in miniature: a folder as it is distributed, and the samples that must come of it.

Names, columns and fields are those of the real data sets (looked up in their repositories), the content is made up.
"""

from collections.abc import Callable
from pathlib import Path

from tests.layouts.captions import captions_table, coco_captions, crossmodal3600, karpathy, multi30k, xtd10
from tests.layouts.files import Miniature
from tests.layouts.others import aro, cirr, fashion_iq, mnist, sugar_crepe, valse, winogavil, winoground
from tests.layouts.sounds import audiocaps, clotho, esc50, folders, fsd50k, urbansound8k, vggsound

MINIATURES: dict[str, Callable[[Path], Miniature]] = {
    make.__name__: make
    for make in (
        aro,
        audiocaps,
        captions_table,
        cirr,
        clotho,
        coco_captions,
        crossmodal3600,
        esc50,
        fashion_iq,
        folders,
        fsd50k,
        karpathy,
        mnist,
        multi30k,
        sugar_crepe,
        urbansound8k,
        valse,
        vggsound,
        winogavil,
        winoground,
        xtd10,
    )
}
