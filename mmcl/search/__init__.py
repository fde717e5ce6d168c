"""Search of what `mmcl embed` wrote: by text, picture, sound, by a sample of the export, or by several at once."""

from mmcl.search.collection import Collection, Hit
from mmcl.search.filters import Filter
from mmcl.search.query import Part

__all__ = ["Collection", "Filter", "Hit", "Part"]
