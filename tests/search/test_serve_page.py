"""The search page in a real browser (headless Chromium): asking by words, files and samples, at two widths."""

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, expect

from mmcl.search import Collection
from tests.browsing import WIDTHS, sticking_out
from tests.search.served import Client, served
from tests.search.shapes import COLOURS, HOSTILE, made, picture, tone

pytestmark = pytest.mark.slow
CROSS = {"name": "cross.png", "mimeType": "image/png", "buffer": picture(COLOURS["blue"], "cross")}
HIGH = {"name": "high.wav", "mimeType": "audio/wav", "buffer": tone(880)}
DROP = """([files]) => {
    const carried = new DataTransfer();
    for (const [name, type, content] of files)
        carried.items.add(new File([Uint8Array.from(atob(content), c => c.charCodeAt(0))], name, {type}));
    for (const kind of ['dragover', 'drop'])
        document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: carried, bubbles: true, cancelable: true}));
}"""

LARGE = re.sub(r"Uint8Array.from\(.*charCodeAt\(0\)\)", "new Uint8Array(21 << 20)", DROP)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with served(Collection.open(made(tmp_path_factory.mktemp("shapes")), device="cpu")) as client:
        yield client


@contextmanager
def at(browser: Browser, client: Client, width: int, address: str = "", wrong: str = "") -> Iterator[Page]:
    """The page; nothing is loaded from elsewhere, and nothing is wrong with it but what is said."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    page, told = context.new_page(), list[str]()
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    known = (client.url, f"blob:{client.url}", "data:")
    page.on("request", lambda asked: None if asked.url.startswith(known) else told.append(asked.url))
    page.goto(client.url + address)
    shown(page)
    yield page
    assert page.title() == "export – search"  # no caption has changed it
    context.close()
    assert [one for one in told if not (wrong and re.search(wrong, one))] == []


@pytest.fixture(params=WIDTHS)
def page(browser: Browser, client: Client, request: pytest.FixtureRequest) -> Iterator[Page]:
    with at(browser, client, request.param) as page:
        yield page


def shown(page: Page) -> list[str]:
    """Keys of the results, once they are there."""
    expect(page.locator("#status")).not_to_have_text(re.compile("Searching|^$"))
    return page.locator("#hits .key").all_inner_texts()


def drop(page: Page, *files: dict[str, object]) -> None:
    said = [[one["name"], one["mimeType"], base64.b64encode(one["buffer"]).decode()] for one in files]  # type: ignore[arg-type]
    page.evaluate(DROP, [said])


def searched(page: Page, among: str) -> None:
    """Choose what is searched."""
    page.get_by_role("radio", name=among, exact=True).check()
    expect(page.locator("#status")).to_contain_text(f"nearest by {among}")


def reached(page: Page, seconds: float) -> None:
    """Wait until the second result's player is there; the page's policy forbids to ask from within."""
    for _ in range(200):
        if page.locator("#hits audio").nth(1).evaluate("one => one.currentTime") >= seconds:
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"the player has not reached {seconds} s")


def keys(client: Client, pieces: list[dict[str, object]], among: str, k: int = 24) -> list[str]:
    """What the server itself answers."""
    return [hit["key"] for hit in client.search({"pieces": pieces, "among": among, "k": k}).json["hits"]]


def test_it_opens_with_samples_and_says_what_it_is(page: Page) -> None:
    assert len(shown(page)) == 24
    expect(page.locator("header")).to_contain_text("72 samples of image, audio, text · ")
    about = page.locator("#about").inner_text()
    for word in ("Model", "/run", "Index of image", "16 numbers each", "20 MB"):
        assert word in about
    expect(page.locator("#status")).to_contain_text("24 samples from all over the collection")
    assert page.evaluate("document.activeElement.id") == "text"


def test_words_find_samples_and_the_address_carries_them(page: Page, client: Client, browser: Browser) -> None:
    page.get_by_role("searchbox").fill("a red circle & <b>")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("The 24 nearest by image")
    expected = keys(client, [{"modality": "text", "text": "a red circle & <b>"}], "image")
    assert shown(page) == expected
    page.locator("#k").select_option("12")
    expect(page.locator("#hits .hit")).to_have_count(12)
    searched(page, "audio")
    found, url = shown(page), page.url
    assert found == keys(client, [{"modality": "text", "text": "a red circle & <b>"}], "audio", 12)
    with at(browser, client, 1280, url.removeprefix(client.url)) as other:
        assert shown(other) == found
        expect(other.get_by_role("searchbox")).to_have_value("a red circle & <b>")
    page.go_back()
    page.go_back()
    expect(page.locator("#hits .hit")).to_have_count(24)
    assert shown(page) == expected


def test_pictures_of_results_are_seen(page: Page) -> None:
    page.locator("#k").select_option("200")
    expect(page.locator("#hits .hit")).to_have_count(72)
    for one in page.locator("#hits img").all():
        one.scroll_into_view_if_needed()
    page.wait_for_load_state("networkidle")
    widths = page.locator("#hits img").evaluate_all("all => all.map(one => one.naturalWidth)")
    assert widths == [120] * 71  # and one sample has none, since its picture is a program
    page.locator("#hits .hit").nth(0).scroll_into_view_if_needed()
    expect(page.locator("#hits .caption").nth(0)).to_have_text(HOSTILE)
    assert page.locator("#hits script, #hits .caption img").count() == 0


def test_a_dropped_picture_is_looked_for(page: Page, client: Client) -> None:
    drop(page, CROSS)
    expect(page.locator("#status")).to_contain_text("The 24 nearest by image")
    assert "blue cross" in page.locator("#hits .caption").nth(0).inner_text()
    expect(page.locator("#status")).to_contain_text("does not carry the files")
    expect(page.locator("#drop")).to_be_hidden()
    assert page.locator("#pieces img").evaluate("one => one.naturalWidth") == 120
    page.get_by_role("button", name="remove cross.png").click()
    expect(page.locator("#status")).to_contain_text("from all over")


def test_a_sound_is_looked_for_and_played(page: Page) -> None:
    page.set_input_files("#add-audio", [HIGH])  # type: ignore[list-item]
    expect(page.locator("#status")).to_contain_text("nearest by image")
    searched(page, "audio")
    assert "high tone" in page.locator("#hits .caption").nth(0).inner_text()
    players = page.locator("#hits audio")
    assert players.count() == 24
    page.locator("#pieces audio").evaluate("one => one.play()")
    players.nth(1).evaluate("one => one.play()")
    reached(page, 0.05)
    assert players.nth(1).evaluate("one => one.duration") == pytest.approx(1, abs=0.01)
    assert page.locator("#pieces audio").evaluate("one => one.paused")  # one at a time
    players.nth(1).evaluate("one => { one.currentTime = 0.5 }")
    reached(page, 0.5)


def test_parts_are_searched_together_by_weight(page: Page, client: Client) -> None:
    page.get_by_role("searchbox").fill("a red circle")
    drop(page, HIGH)
    expect(page.get_by_role("slider")).to_have_count(2)
    searched(page, "text")
    page.get_by_role("slider", name="weight of high.wav").fill("-0.4")
    page.get_by_role("slider", name="weight of the words").fill("0.5")
    expect(page.locator("#pieces output")).to_have_text(["0.50", "-0.40"])
    page.wait_for_load_state("networkidle")
    pieces = [
        {"modality": "text", "text": "a red circle", "weight": 0.5},
        {"modality": "audio", "file": "own", "weight": -0.4},
    ]
    answer = client.search({"pieces": pieces, "among": "text", "k": 24}, {"own": ("x.wav", tone(880))})
    assert shown(page) == [hit["key"] for hit in answer.json["hits"]]


def test_more_like_this(page: Page, client: Client) -> None:
    page.get_by_role("button", name=re.compile("^more like ")).nth(3).click()
    expect(page.locator("#pieces")).to_contain_text("more like its image")
    assert shown(page) == keys(client, [{"modality": "image", "like": 9}], "image")
    page.reload()
    assert shown(page) == keys(client, [{"modality": "image", "like": 9}], "image")
    page.get_by_role("button", name=re.compile("^details of ")).nth(0).click()
    row = int(page.locator("#sample h2").inner_text())
    page.get_by_role("button", name="More like its text").click()
    expect(page.locator("#pieces")).to_contain_text("more like its text")
    assert shown(page) == keys(client, [{"modality": "text", "like": row}], "image")


def test_filters(page: Page) -> None:
    page.get_by_role("button", name="+ filter").click()
    assert page.evaluate("document.activeElement.id") == "column"
    assert "json.pitch" in page.locator("#columns option").evaluate_all("all => all.map(one => one.value)")
    page.keyboard.type("json.pitch")
    page.locator("#op").select_option(">=")
    page.locator("#value").fill("800")
    page.keyboard.press("Enter")
    expect(page.locator("#filters li")).to_have_text([re.compile("json.pitch >= 800")])
    expect(page.locator("#hits .caption")).to_have_text([re.compile("high|<script>")] * 24)
    page.get_by_role("button", name=re.compile("^details of ")).nth(5).click()
    shape = page.locator("#sample dd").filter(has_text=re.compile("circle|square|triangle|cross")).first.inner_text()
    page.get_by_role("button", name="only json.shape").click()
    expect(page.locator("#filters li")).to_have_count(2)
    captions = page.locator("#hits .caption")
    expect(captions).to_have_count(6)
    assert shape.split()[-1] in captions.nth(0).inner_text()
    page.reload()
    expect(page.locator("#hits .hit")).to_have_count(6)
    page.get_by_role("button", name="remove the filter json.pitch").click()
    expect(page.locator("#hits .hit")).to_have_count(18)


def test_a_sample_is_shown_whole(page: Page) -> None:
    page.get_by_role("button", name=re.compile("^details of ")).nth(0).click()
    sample = page.get_by_role("dialog")
    expect(sample.locator(".caption")).to_have_text(HOSTILE)
    assert "json.note.by" in sample.inner_text()
    assert sample.locator("script, .caption img, dd img").count() == 0
    assert sticking_out(page, but="none") == []
    page.keyboard.press("Escape")
    expect(sample).to_be_hidden()


@pytest.mark.parametrize("width", WIDTHS)
def test_mistakes_are_said_on_the_page(browser: Browser, client: Client, width: int) -> None:
    with at(browser, client, width, wrong="status of (415|422)") as page:
        error = page.get_by_role("alert")
        drop(page, {"name": "notes.png", "mimeType": "image/png", "buffer": b"a text"})
        expect(error).to_contain_text("'notes.png' is no picture, whatever its name says")
        assert page.locator("#hits .hit").count() == 0
        page.get_by_role("button", name="remove notes.png").click()
        expect(error).to_be_hidden()
        drop(page, {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"a text"})
        expect(error).to_have_text("notes.txt cannot be searched with: drop a picture or a sound.")
        page.evaluate(LARGE, [[["large.png", "image/png", ""]]])
        expect(error).to_have_text("large.png has 21 MB; up to 20 MB can be searched with.")
        page.goto(f"{client.url}?where=%5B%22smell%22%2C%22%3D%22%2C%22red%22%5D")
        expect(error).to_contain_text("the metadata has no column 'smell'")
        page.goto(f"{client.url}?where=%5B%22json.shape%22%2C%22%3D%22%2C%22star%22%5D&in=nothing&k=7&like=x&weight=y")
        expect(page.locator("#status")).to_contain_text("Nothing passes the filters")
        page.goto(client.url)
        shown(page)


def test_everything_is_reached_by_keyboard_and_has_a_name(page: Page) -> None:
    page.get_by_role("searchbox").fill("a red circle")
    drop(page, CROSS, HIGH)
    page.get_by_role("button", name="+ filter").click()
    expect(page.get_by_role("slider")).to_have_count(3)
    shown(page)
    nameless = page.evaluate(
        """[...document.querySelectorAll('main button, main input, main select, main a, main audio, main img')].filter(
            one => one.offsetParent && !(one.getAttribute('aria-label') || one.labels?.length || one.innerText
                || one.getAttribute('alt') !== null || one.querySelector('img[alt]') || one.tagName === 'AUDIO'))
            .map(one => one.outerHTML.slice(0, 80))"""
    )
    assert nameless == []
    page.evaluate("document.getElementById('text').focus()")
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-label')"))
    wanted = {"add-image", "add-audio", "add-filter", "k", "column", "value", "weight of cross.png", "remove cross.png"}
    assert wanted <= seen


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_nothing_sticks_out_and_words_can_be_read(page: Page, colours: str) -> None:
    page.emulate_media(color_scheme=colours)  # type: ignore[arg-type]
    page.get_by_role("searchbox").fill("a red circle")
    drop(page, CROSS, HIGH)
    page.get_by_role("button", name="+ filter").click()
    expect(page.locator("#hits .hit")).to_have_count(24)
    assert sticking_out(page, but="none") == []
    pale = page.evaluate(
        """() => {
            const light = colour => {
                const [r, g, b] = colour.match(/[\\d.]+/g).map(x => x / 255)
                    .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const behind = one => {
                for (; one; one = one.parentElement) {
                    const colour = getComputedStyle(one).backgroundColor;
                    if (!/, 0\\)|transparent/.test(colour)) return light(colour);
                }
                return 1;
            };
            return [...document.querySelectorAll('main *')].filter(one => one.offsetParent
                && [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim())).map(one => {
                    const [a, b] = [light(getComputedStyle(one).color), behind(one)].sort((x, y) => y - x);
                    return [(a + 0.05) / (b + 0.05), one.innerText.slice(0, 40)];
                }).filter(([contrast]) => contrast < 4.5);
        }"""
    )
    assert pale == []
