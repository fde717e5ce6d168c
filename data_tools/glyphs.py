"""The data set "glyphs": the named characters of matplotlib's DejaVu and STIX fonts, as pictures with captions.

Fonts come with matplotlib, names and classes from the Unicode tables, so nothing is downloaded. Every random choice
is a hash of (seed, code point, font), so no sample depends on the order in which samples are made.
"""

import hashlib
import io
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from fontTools import unicodedata as ucd
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from mmcl.data import write_shards
from mmcl.towers import train_sentencepiece

SIZE = 48  # stored width and height in pixels
EM = 0.75  # font size as a share of SIZE: a DejaVu line (1.16 em) leaves a small margin
SHIFT, SCALE = 0.02, 0.05  # training: at most this shift (share of SIZE) and this change of the font size
SEED = 0
TEST_FILE = Path(__file__).with_name("glyphs_test.txt")  # one test character a line: code point, then its name
TEST_COUNT = 500
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
FIRST = ("DejaVuSans", "DejaVuSansMono", "DejaVuSerif", "STIXGeneral")  # gallery style: the first that has it
TEMPLATES = (  # of training captions, each as often as it stands here
    *["{name}"] * 12,
    "the character {name}",
    "{name}, {category}",
    "{name} in {style}",
    "a {script} character",
)
CATEGORIES = {
    "Lu": "uppercase letter", "Ll": "lowercase letter", "Lt": "titlecase letter", "Lm": "modifier letter",
    "Lo": "letter", "Mn": "combining mark", "Me": "enclosing mark", "Nd": "digit", "Nl": "letter number",
    "No": "number", "Pc": "connector", "Pd": "dash", "Ps": "opening bracket", "Pe": "closing bracket",
    "Pi": "opening quote", "Pf": "closing quote", "Po": "punctuation", "Sm": "math symbol",
    "Sc": "currency symbol", "Sk": "modifier symbol"}  # fmt: skip
CLASSES = (  # of characters that belong to no script: the first that is a part of the block's name
    "mathematical operator", "mathematical alphanumeric", "mathematical symbol", "arrow", "box drawing",
    "block element", "geometric shape", "dingbat", "technical", "punctuation", "combining", "domino tile",
    "tai xuan jing", "hexagram", "emoticon", "playing card", "letterlike", "currency", "enclosed alphanumeric",
    "modifier", "superscript")  # fmt: skip


@cache
def font(style: str, pixels: int) -> ImageFont.FreeTypeFont:
    """A style's font at a size in pixels."""
    return ImageFont.truetype(FONTS / f"{style}.ttf", pixels, layout_engine=ImageFont.Layout.BASIC)


@cache
def style_words(style: str) -> str:
    """A style in words: its font's full name in lower case."""
    with TTFont(FONTS / f"{style}.ttf", lazy=True) as opened:
        return str(opened["name"].getDebugName(4)).lower().replace("-", " ")


@cache
def characters() -> dict[str, list[str]]:
    """Each character that has a name and some ink, with its styles, the gallery style first."""
    styles = sorted(p.stem for p in FONTS.glob("*.ttf") if p.stem.startswith(("DejaVu", "STIX")))
    table: dict[str, list[str]] = {}
    for style in sorted(styles, key=lambda s: FIRST.index(s) if s in FIRST else len(FIRST)):
        with TTFont(FONTS / f"{style}.ttf", lazy=True) as opened:
            points = opened.getBestCmap() or ()
        for char in map(chr, points):
            if unicodedata.name(char, "") and font(style, SIZE).getmask(char).getbbox():  # blank ones have no box
                table.setdefault(char, []).append(style)
    return dict(sorted(table.items()))


def render(char: str, style: str, dx: float = 0.0, dy: float = 0.0, scale: float = 1.0) -> Image.Image:
    """Black on white, the advance box in the middle; made smaller or moved where ink would leave the picture."""
    pixels, room = round(SIZE * EM * scale), SIZE - 2
    left, top, right, bottom = font(style, pixels).getbbox(char, anchor="ls")
    if (longest := max(right - left, bottom - top)) > room:
        pixels = max(1, int(pixels * room / longest))
        left, top, right, bottom = font(style, pixels).getbbox(char, anchor="ls")
    advance = font(style, pixels).getlength(char) or left + right  # a mark without advance: its ink in the middle
    x = min(max((SIZE - advance) / 2 + dx * SIZE, 1 - left), SIZE - 1 - right)
    y = min(max(SIZE / 2 + 0.35 * pixels + dy * SIZE, 1 - top), SIZE - 1 - bottom)
    image = Image.new("L", (SIZE, SIZE), 255)
    ImageDraw.Draw(image).text((x, y), char, fill=0, font=font(style, pixels), anchor="ls")
    return image


@cache
def identities() -> dict[str, str]:
    """A hash of each character's picture in its gallery style: pixel-identical twins share it."""
    pictures = ((char, render(char, styles[0]).tobytes()) for char, styles in characters().items())
    return {char: hashlib.sha256(data).hexdigest()[:16] for char, data in pictures}


def choose_test() -> list[str]:
    """The lines of TEST_FILE: of the characters without a twin, the first by the hash of the code point."""
    shared = Counter(identities().values())
    alone = (char for char, identity in identities().items() if shared[identity] == 1)
    chosen = sorted(alone, key=lambda char: hashlib.sha256(str(ord(char)).encode()).digest())[:TEST_COUNT]
    return [f"{ord(char):05X} {unicodedata.name(char)}" for char in sorted(chosen)]


def sample(char: str, style: str, image: Image.Image, template: str) -> dict[str, Any]:
    """One sample in webdataset's form."""
    script, block = ucd.script(char), ucd.block(char).lower().replace("symbols and arrows", "")
    common = next((words for words in CLASSES if words in block), "symbol")
    meta = {
        "character": char, "codepoint": f"U+{ord(char):04X}", "name": unicodedata.name(char).lower(),
        "script": common if script in ("Zyyy", "Zinh") else ucd.script_name(script).lower(),
        "category": CATEGORIES.get(unicodedata.category(char), "symbol"),
        "style": style_words(style), "identity": identities()[char]}  # fmt: skip
    image.save(png := io.BytesIO(), "PNG", compress_level=1)
    key = f"{ord(char):05x}-{style.lower()}"
    return {"__key__": key, "png": png.getvalue(), "txt": template.format(**meta), "json": meta}


def train_samples() -> Iterator[dict[str, Any]]:
    """Every character but the test ones, in every style that has it, slightly moved and scaled."""
    held_out = {chr(int(line.split()[0], 16)) for line in TEST_FILE.read_text().splitlines()}
    pairs = [(c, s) for c, styles in characters().items() if c not in held_out for s in styles]
    digests = {pair: hashlib.sha256(f"{SEED} {ord(pair[0])} {pair[1]}".encode()).digest() for pair in pairs}
    for (char, style), digest in sorted(digests.items(), key=lambda item: item[1]):  # every shard is a fair sample
        a, b, c, d = (int.from_bytes(digest[i : i + 8], "big") / 2**64 for i in (0, 8, 16, 24))
        image = render(char, style, (2 * a - 1) * SHIFT, (2 * b - 1) * SHIFT, 1 + (2 * c - 1) * SCALE)
        yield sample(char, style, image, TEMPLATES[int(d * len(TEMPLATES))])


def test_samples() -> Iterator[dict[str, Any]]:
    """One picture of each test character, in its gallery style, not moved, with its plain name."""
    for line in TEST_FILE.read_text().splitlines():
        char = chr(int(line.split()[0], 16))
        yield sample(char, characters()[char][0], render(char, characters()[char][0]), "{name}")


def build(out: Path) -> None:
    """Write ``out/train``, ``out/test``, a tokenizer of the training captions, and last ``out/manifest.json``."""
    captions: list[str] = []

    def noting() -> Iterator[dict[str, Any]]:
        for made in train_samples():
            captions.append(made["txt"])
            yield made

    parts = {"train": write_shards(noting(), out / "train"), "test": write_shards(test_samples(), out / "test")}
    train_sentencepiece(captions, out / "tokenizer.model", vocab_size=2200, kind="bpe")
    (out / "manifest.json").write_text(json.dumps({name: part["samples"] for name, part in parts.items()}))
