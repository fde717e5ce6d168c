"""Pictures made small enough to stand in a page."""

import base64
import io
import re
from functools import cache

from PIL import Image, ImageOps

SIDE, BYTES = 112, 4096  # pixels, and bytes above which a picture is made smaller
SHOWN = {"png", "jpeg", "webp", "gif"}  # what every browser can show


@cache
def small(url: str) -> str:
    """A picture that every browser shows, of few bytes; nothing where it cannot be read.

    Args:
        url: a data URL.
    """
    match = re.match(r"data:image/([\w.+-]+);base64,", url)
    if match is None:
        return ""
    data = base64.b64decode(url[match.end() :])
    if match[1] in SHOWN and len(data) <= BYTES:
        return url
    try:
        with Image.open(io.BytesIO(data)) as opened:
            opened.draft("RGB", (SIDE, SIDE))
            picture = ImageOps.exif_transpose(opened)
            clear = picture.has_transparency_data
            picture = picture.convert("RGBA" if clear else "RGB")
            picture.thumbnail((SIDE, SIDE))
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""
    out = io.BytesIO()
    kind, options = ("png", {"optimize": True}) if clear else ("jpeg", {"quality": 80})
    picture.save(out, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"
