"""Runs handed on: folders that other libraries, or mmcl itself, open. A format a file.

A format is two functions, in a row of `FORMATS`: one writes a folder, the other makes an encoder of it again.
"""

from mmcl.exports.base import Format, Source, Written
from mmcl.exports.folder import FORMATS, export, is_export, open_export, save_again

__all__ = ["FORMATS", "Format", "Source", "Written", "export", "is_export", "open_export", "save_again"]
