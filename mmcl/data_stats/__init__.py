"""What shards hold: counts, sizes, languages, what comes more than once; for a terminal, as JSON, as a page."""

from mmcl.data_stats.page import write_page
from mmcl.data_stats.report import report, twins
from mmcl.data_stats.stats import Stats
from mmcl.data_stats.summary import summary
from mmcl.data_stats.values import Asked

__all__ = ["Asked", "Stats", "report", "summary", "twins", "write_page"]
