"""The data set "glyphs": the named characters of matplotlib's DejaVu and STIX fonts, as pictures with captions.

Nothing is downloaded; every random choice is a hash of the seed and the sample.
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

from mmcl.data import read_samples, stream, write_shards
from mmcl.errors import MmclError
from mmcl.towers import train_sentencepiece

SIZE = 48  # stored width and height in pixels
EM = 0.75  # font size as a share of SIZE: a DejaVu line (1.16 em) leaves a small margin
SEED, PER_CHARACTER, SPOKEN = 0, 8, 3  # training samples of a character, and how many of them may speak
SHIFT, SCALE = 0.01, 0.03  # training: at most this shift (share of SIZE) and this change of the font size
TEST_FILE = Path(__file__).with_name("glyphs_test.txt")  # one test character a line: code point, then its name
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
FIRST = ("DejaVuSans", "DejaVuSansMono", "DejaVuSerif", "STIXGeneral")  # gallery style: the first that has it
TEMPLATES = (*12 * ["{name}"], "character {name}", "{name}, {category}", "{name} in {style}", "a {script} character")
CATEGORIES = {  # by the general category, or else by its first letter, or else a symbol
    "Lu": "uppercase letter", "Ll": "lowercase letter", "L": "letter", "M": "combining mark", "Nd": "digit",
    "N": "number", "P": "punctuation", "Sm": "math symbol"}  # fmt: skip
CLASSES = (  # of characters that belong to no script: the first that is a part of the block's name
    "mathematical operator", "mathematical alphanumeric", "mathematical symbol", "arrow", "box drawing",
    "block element", "geometric shape", "dingbat", "technical", "punctuation", "combining", "domino tile", "hexagram",
    "tai xuan jing", "emoticon", "playing card", "letterlike", "currency", "enclosed alphanumeric", "modifier",
    "superscript")  # fmt: skip


def draw(*key: object) -> list[float]:
    """Four numbers in [0, 1): the SHA-256 of the key in quarters."""
    digest = hashlib.sha256(" ".join(map(str, key)).encode()).hexdigest()
    return [int(digest[i : i + 16], 16) / 2**64 for i in (0, 16, 32, 48)]


@cache
def font(style: str, pixels: int) -> ImageFont.FreeTypeFont:
    """A style's font at a size in pixels."""
    return ImageFont.truetype(FONTS / f"{style}.ttf", pixels, layout_engine=ImageFont.Layout.BASIC)


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
    """The lines of TEST_FILE: of the characters without a twin, the first 500 by the hash of the code point."""
    shared = Counter(identities().values())
    chosen = sorted((c for c, own in identities().items() if shared[own] == 1), key=lambda c: draw(ord(c)))[:500]
    return [f"{ord(char):05X} {unicodedata.name(char)}" for char in sorted(chosen)]


def sample(key: str, char: str, style: str, image: Image.Image, template: str) -> dict[str, Any]:
    """One sample in webdataset's form."""
    script, category, block = ucd.script(char), unicodedata.category(char), ucd.block(char).lower()
    common = next((words for words in CLASSES if words in block.replace("symbols and arrows", "")), "symbol")
    meta = {
        "character": char, "codepoint": f"U+{ord(char):04X}", "name": unicodedata.name(char).lower(),
        "script": common if script in ("Zyyy", "Zinh") else ucd.script_name(script).lower(),
        "category": CATEGORIES.get(category, CATEGORIES.get(category[0], "symbol")), "identity": identities()[char],
        "style": " ".join(map(str, font(style, SIZE).getname())).lower()}  # fmt: skip
    image.save(png := io.BytesIO(), "PNG", compress_level=1)
    return {"__key__": key, "png": png.getvalue(), "txt": template.format(**meta), "json": meta}


def train_samples() -> Iterator[dict[str, Any]]:
    """PER_CHARACTER samples of every other character: its styles in turn, slightly moved and scaled."""
    held_out = {line.split()[0] for line in TEST_FILE.read_text(encoding="ascii").splitlines()}
    pairs = [(char, i) for char in characters() if f"{ord(char):05X}" not in held_out for i in range(PER_CHARACTER)]
    for char, i in sorted(pairs, key=lambda pair: draw("order", *pair)):  # so that every shard is a fair sample
        styles = sorted(characters()[char], key=lambda style: draw(SEED, ord(char), style))
        a, b, c, d = draw(SEED, ord(char), i)
        style, template = styles[i % len(styles)], TEMPLATES[int(d * len(TEMPLATES))]
        image = render(char, style, (2 * a - 1) * SHIFT, (2 * b - 1) * SHIFT, 1 + (2 * c - 1) * SCALE)
        yield sample(f"{ord(char):05x}-{i}", char, style, image, template)


def test_samples() -> Iterator[dict[str, Any]]:
    """One picture of each test character, in its gallery style, not moved, with its plain name."""
    for char in (chr(int(line.split()[0], 16)) for line in TEST_FILE.read_text(encoding="ascii").splitlines()):
        style = characters()[char][0]
        yield sample(f"{ord(char):05x}", char, style, render(char, style), "{name}")


def with_speech(samples: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same samples: those for testing, and a character's first SPOKEN in drawn voices, say its name (``mp3``)."""
    from _speech import Utterance, drawn, speak

    def utterance(made: dict[str, Any]) -> Utterance | None:
        name, copy = made["json"]["name"], made["__key__"].partition("-")[2]
        if not copy:
            return Utterance(name)
        return drawn(name, *draw("speech", SEED, made["__key__"])[:3]) if int(copy) < SPOKEN else None

    return speak(samples, utterance)


def build(out: Path, speech: bool = False) -> None:
    """Write ``out/train``, ``out/test``, a tokenizer of the training captions, and last ``out/manifest.json``.

    Args:
        out: folder to make.
        speech: let espeak-ng say the names of characters: a third modality.
    """
    for name, samples in {"train": train_samples, "test": test_samples}.items():
        if not (out / name / "manifest.json").exists():
            write_shards(with_speech(samples()) if speech else samples(), out / name)
        elif ("mp3" in next(read_samples(out / name))) != speech:
            raise MmclError(f"{out / name} was built with{'out' * speech} speech; remove it, or build elsewhere.")
    captions = (text for b in stream(out / "train", {"text": "txt"}, batch_size=1000) for text in b["text"])
    train_sentencepiece(captions, out / "tokenizer.model", vocab_size=2200, kind="bpe")
    counts = {name: json.loads((out / name / "manifest.json").read_text())["samples"] for name in ("train", "test")}
    (out / "manifest.json").write_text(json.dumps(counts))
