"""The forms in which data sets are distributed, and how they become tar shards."""

from mmcl.layouts.aro import Aro
from mmcl.layouts.audiocaps import Audiocaps
from mmcl.layouts.base import LAYOUTS, Layout, LayoutPart
from mmcl.layouts.captions_table import CaptionsTable
from mmcl.layouts.cirr import Cirr
from mmcl.layouts.clotho import Clotho
from mmcl.layouts.coco_captions import CocoCaptions
from mmcl.layouts.crossmodal3600 import Crossmodal3600
from mmcl.layouts.digits import Digits
from mmcl.layouts.esc50 import Esc50
from mmcl.layouts.fashion_iq import FashionIq
from mmcl.layouts.folders import Folders
from mmcl.layouts.fsd50k import Fsd50k
from mmcl.layouts.karpathy import Karpathy
from mmcl.layouts.mnist import Mnist
from mmcl.layouts.multi30k import Multi30k
from mmcl.layouts.pack import lost, packed
from mmcl.layouts.sugar_crepe import SugarCrepe
from mmcl.layouts.urbansound8k import Urbansound8k
from mmcl.layouts.valse import Valse
from mmcl.layouts.vggsound import Vggsound
from mmcl.layouts.winogavil import Winogavil
from mmcl.layouts.winoground import Winoground
from mmcl.layouts.xtd10 import Xtd10

__all__ = [
    "LAYOUTS",
    "Aro",
    "Audiocaps",
    "CaptionsTable",
    "Cirr",
    "Clotho",
    "CocoCaptions",
    "Crossmodal3600",
    "Digits",
    "Esc50",
    "FashionIq",
    "Folders",
    "Fsd50k",
    "Karpathy",
    "Layout",
    "LayoutPart",
    "Mnist",
    "Multi30k",
    "SugarCrepe",
    "Urbansound8k",
    "Valse",
    "Vggsound",
    "Winogavil",
    "Winoground",
    "Xtd10",
    "lost",
    "packed",
]
