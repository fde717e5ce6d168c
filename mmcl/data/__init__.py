"""Tar shards in, batches out: one global order, whatever the number of processes and workers."""

from mmcl.data.mixture import Batches
from mmcl.data.read import read_samples
from mmcl.data.shards import expand, find_shards
from mmcl.data.source import SampleWindow, Source
from mmcl.data.stream import LastBatch, Stream, stream
from mmcl.data.table import read_rows
from mmcl.data.tally import Tally
from mmcl.data.write import write_shards

__all__ = [
    "Batches",
    "LastBatch",
    "SampleWindow",
    "Source",
    "Stream",
    "Tally",
    "expand",
    "find_shards",
    "read_rows",
    "read_samples",
    "stream",
    "write_shards",
]
