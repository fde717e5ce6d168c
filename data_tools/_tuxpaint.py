"""Reads Tux Paint's stamps: pictures (PNG, SVG) with captions (.txt) and recordings (.ogg, .wav) beside them."""

import io
import re
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
import resvg_py
import soundfile
from PIL import Image

MARGIN = 0.05  # of paper on each side, as a share of the longer side of the stamp
FONTS = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf")  # for text in SVGs: the same on every machine
SOUND = re.compile(r"(?P<stamp>.+?)(_desc)?(_(?P<language>[a-z]{2,3}(_[A-Za-z]{2})?))?")  # a recording's file name
NAMES = {"symbols/math": "en", "symbols/alphabets/german": "de"}  # here a sound effect is the symbol's spoken name

LeftOut = dict[str, list[str]]  # reason -> files


@dataclass
class Stamp:
    """One picture and what belongs to it."""

    path: str  # below the folder of all stamps, without a suffix
    png: bytes
    captions: dict[str, str]  # language in lower case -> text
    recordings: dict[str, bytes] = field(default_factory=dict)  # "fr.ogg", "effect.wav", ... -> content of the file


def read_stamps(root: Path, left_out: LeftOut) -> list[Stamp]:
    """All pictures with an English caption, in the order of their paths, with what belongs to them.

    Args:
        root: folder of the stamps.
        left_out: takes the files that are not used, by reason.
    """
    files = sorted(file for file in root.rglob("*.*") if file.is_file())
    pictures: dict[Path, Path] = {}
    for file in (f for f in files if f.suffix in (".png", ".svg")):
        pictures.setdefault(file.with_suffix(""), file)  # of twins the PNG
    lost = [f for f in files if f.suffix == ".txt" and f.with_suffix("") not in pictures]
    left_out["captions without a picture"].extend(str(file.relative_to(root)) for file in lost)
    stamps: dict[str, Stamp] = {}
    for path, file in sorted(pictures.items()):
        name = path.relative_to(root).as_posix()
        try:
            captions = read_captions(path.with_suffix(".txt"))
            if "en" in captions:
                stamps[name] = Stamp(name, render(file), captions)
            else:
                left_out["pictures without a caption"].append(str(file.relative_to(root)))
        except (OSError, ValueError):
            left_out["pictures or captions that cannot be read"].append(str(file.relative_to(root)))
    recordings = [file for file in files if file.suffix in (".ogg", ".wav")]
    for file in sorted(recordings, key=lambda f: "_desc" not in f.name):  # a spoken caption goes before a spoken name
        if reason := add_recording(file, file.relative_to(root).parent.as_posix(), stamps):
            left_out[reason].append(str(file.relative_to(root)))
    return list(stamps.values())


def read_captions(file: Path) -> dict[str, str]:
    """Language in lower case -> text: English is the first line, the others are ``fr.utf8=...``."""
    first, *others = (file.read_text(encoding="utf-8") if file.is_file() else "").splitlines() or [""]
    pairs = [("en", "", first), *(line.partition(".utf8=") for line in others)]
    return {language.lower(): text.strip() for language, _, text in pairs if text.strip()}


def render(file: Path) -> bytes:
    """A PNG or SVG as RGB PNG: a square of paper with the stamp in the middle, white or, for what is all white, black.

    Stamps are cut out tightly and some are long, so a crop would take their ends, and a filled letter I is all ink.

    Raises:
        ValueError: it cannot be read, or shows nothing.
    """
    data = file.read_bytes()
    if file.suffix == ".svg":  # its dpi is 0 unless told, which makes nothing of sizes in points
        fonts = {"skip_system_fonts": True, "font_dirs": [FONTS], "font_family": "DejaVu Sans"}
        data = resvg_py.svg_to_bytes(svg_path=str(file), dpi=96, **fonts)
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    side = round((1 + 2 * MARGIN) * max(picture.size))
    for colour in ("white", "black"):
        paper = Image.new("RGBA", (side, side), colour)
        paper.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        opaque = paper.convert("RGB")
        if opaque.getcolors(maxcolors=1) is None:  # there are more
            opaque.save(png := io.BytesIO(), "PNG")
            return png.getvalue()
    raise ValueError("blank")


def add_recording(file: Path, folder: str, stamps: dict[str, Stamp]) -> str | None:
    """Give a recording to its stamp.

    ``x_desc_fr.ogg`` is the caption of x in French, ``x_desc.ogg`` in English, ``x_fr.ogg`` the name of x, ``x.ogg``
    its sound effect.

    Returns:
        Why not, if it was not.
    """
    name = file.name.partition(".")[0]
    if stamp := stamps.get(f"{folder}/{name}"):
        member = next((language for start, language in NAMES.items() if folder.startswith(start)), "effect")
    else:
        match = SOUND.fullmatch(name)
        stamp = stamps.get(f"{folder}/{match['stamp']}") if match else None
        member = (match["language"] or "en").lower() if match else ""
    if stamp is None:
        return "recordings without a stamp"
    if {f"{member}.ogg", f"{member}.wav"} & stamp.recordings.keys():
        return "second recordings of a stamp in a language"
    try:
        samples, _ = soundfile.read(file, dtype="float32")
    except soundfile.LibsndfileError:
        return "recordings that cannot be read"
    if not np.any(samples):
        return "empty or silent recordings"
    stamp.recordings[f"{member}{file.suffix}"] = file.read_bytes()
    return None
