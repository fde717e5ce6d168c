"""The page of what shards hold: what it says, and how it looks in a real browser (headless Chromium)."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import soundfile
from playwright.sync_api import Browser

from mmcl.cli import main
from mmcl.data import write_shards
from mmcl.data_stats.cards import RATE, SECONDS, sound_url
from mmcl.media import Sound
from tests.browsing import WIDTHS, opened, sticking_out
from tests.data_stats.test_stats import photo, tone

HOSTILE = "<script>document.title = 'broken in'</script>"
WORD = "Donaudampfschiff" * 40
LONG = "a very long caption that goes on and on, " * 400


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of 60 samples, among them hostile and long captions, keys and fields, broken and repeated members."""
    folder = tmp_path_factory.mktemp("page")
    samples = list[dict[str, Any]]()
    for i in range(60):
        said = {HOSTILE: HOSTILE, WORD: WORD, "n": i, "kind": i % 3}
        sample = {
            "__key__": f"{i:03}",
            "jpg": photo(i % 50, 40 + i, 40),
            "txt": f"caption {i % 25}",
            "json": json.dumps(said),
        }
        samples.append(sample | ({"wav": tone(0.2 + i / 10)} if i % 10 == 0 else {}))
    for number, text in enumerate((HOSTILE, HOSTILE, LONG, WORD)):
        samples[number]["txt"] = text
    samples[7]["jpg"] = samples[8]["jpg"] = samples[9]["jpg"]
    samples[4] |= {"__key__": WORD, "jpg": b"broken", "wav": b"broken"}
    samples[5]["__key__"] = "<b>key</b>"
    write_shards(samples, folder / "shards", 25)
    main(["data", "stats", str(folder / "shards"), "--page", str(folder / "new" / "stats.html")])
    return folder / "new" / "stats.html"


def test_it_is_one_file_without_scripts(path: Path) -> None:
    text = path.read_text()
    assert "<script" not in text
    assert "<b>key" not in text
    assert "&lt;script&gt;document" in text
    links = re.findall(r'(?:src|href|url)\s*[=(]\s*"?([^"\s)>]{1,60})', text)
    assert {link.split("/")[0] for link in links if link[0] != "#"} == {"data:image", "data:audio"}
    assert len(text) < 2_000_000


def test_it_says_what_was_found(path: Path) -> None:
    text = re.sub(r"<[^>]*>|\s+", " ", path.read_text())
    text = re.sub(r" +", " ", text)
    titles = ("What cannot be read", "What comes more than once", "JSON fields", "The first", "Drawn")
    groups = ("image: smallest", "audio: longest", "text: longest", "image: the same bytes", "text: the same text")
    found = ("60 samples", "3 shards", "image cannot be decoded (cannot identify image file)", "3 pictures in 1 group")
    for said in (*titles, *groups, *found):
        assert said in text, said


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_its_window(browser: Browser, path: Path, width: int) -> None:
    with opened(browser, path, width) as page:
        assert page.title() != "broken in"
        assert sticking_out(page, but=".scroll") == []
        assert page.locator(".curves svg").count() >= 6
        broken = page.evaluate("[...document.images].filter(one => !one.naturalWidth).length")
        assert broken == 0
        assert page.locator(".repeated .cards").first.locator("img").count() == 3
        assert page.locator("audio").count() >= 6


def test_a_sound_that_is_long_becomes_short() -> None:
    small = tone(0.5)
    kind, _, data = sound_url(Sound(small), small).partition(",")
    assert (kind, base64.b64decode(data)) == ("data:audio/wav;base64", small)
    large = tone(20, 48_000, 2)
    kind, _, data = sound_url(Sound(large), large).partition(",")
    assert kind == "data:audio/flac;base64"
    info = soundfile.info(io.BytesIO(base64.b64decode(data)))
    assert (info.duration, info.samplerate, info.channels) == (SECONDS, RATE, 1)


def test_a_page_of_no_samples_says_so(tmp_path: Path) -> None:
    write_shards([{"__key__": "a", "txt": " "}], tmp_path / "s")
    main(["data", "stats", str(tmp_path / "s"), "--page", str(tmp_path / "p.html")])
    assert "What samples lack" in (tmp_path / "p.html").read_text()
