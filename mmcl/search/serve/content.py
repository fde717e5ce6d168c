"""What bytes are, by how they begin. Names of files and headers of requests prove nothing."""

BINARY = "application/octet-stream"
SHOWN = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/gif": "GIF",
    "image/webp": "WebP",
    "image/avif": "AVIF",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
    "audio/wav": "WAV",
    "audio/flac": "FLAC",
    "audio/ogg": "Ogg",
    "audio/mpeg": "MP3",
    "audio/aiff": "AIFF",
}
"""Types that are served as what they are, and that are embedded: none of them can hold a script. SVG can."""

_BEGIN = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"BM": "image/bmp",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
    b"fLaC": "audio/flac",
    b"OggS": "audio/ogg",
    b"ID3": "audio/mpeg",
}
_CHUNKED = {  # a name at the start, and another behind the length of the first chunk
    (b"RIFF", b"WEBP"): "image/webp",
    (b"RIFF", b"WAVE"): "audio/wav",
    (b"RF64", b"WAVE"): "audio/wav",
    (b"FORM", b"AIFF"): "audio/aiff",
    (b"FORM", b"AIFC"): "audio/aiff",
}


def content_type(data: bytes) -> str:
    """Type of a file's content; `BINARY` where it is none of `SHOWN`.

    >>> content_type(b"GIF89a..."), content_type(b"<svg onload='alert(1)'>")
    ('image/gif', 'application/octet-stream')
    """
    if found := _CHUNKED.get((data[:4], data[8:12])):
        return found
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"):
        return "image/avif"
    for begin, found in _BEGIN.items():
        if data.startswith(begin):
            return found
    if len(data) > 3 and data[0] == 0xFF and data[1] & 0xE6 == 0xE2:  # a frame of MPEG audio, layer 3
        return "audio/mpeg"
    return BINARY


def names(kind: str) -> str:
    """Names of the types of a kind, as one says them: ``image`` or ``audio``.

    >>> names("audio")
    'WAV, FLAC, Ogg, MP3, AIFF'
    """
    return ", ".join(name for found, name in SHOWN.items() if found.startswith(f"{kind}/"))
