"""Remote shards (https, s3, gs, hf and whatever else fsspec reads), through a bounded cache on a local disk."""

from mmcl.data.remote.cache import ShardCache
from mmcl.data.remote.copies import download, names_below, remove, upload
from mmcl.data.remote.failures import Patience, is_http, redact, redact_text
from mmcl.data.remote.files import is_remote, list_remote, read_remote

__all__ = [
    "Patience",
    "ShardCache",
    "download",
    "is_http",
    "is_remote",
    "list_remote",
    "names_below",
    "read_remote",
    "redact",
    "redact_text",
    "remove",
    "upload",
]
