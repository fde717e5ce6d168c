"""Pages, looked at in a real browser (headless Chromium)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page

WIDTHS = (1280, 390)  # a screen, and a telephone


@contextmanager
def opened(browser: Browser, path: Path, width: int) -> Iterator[Page]:
    """A page; nothing is loaded from elsewhere, and nothing is wrong with it."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: wrong.append(asked.url) if not asked.url.startswith(("file:", "data:")) else None)
    page.goto(path.as_uri())
    yield page
    page.close()
    assert wrong == []


def sticking_out(page: Page, but: str) -> list[str]:
    """Texts beside the window, but for those within what scrolls by itself; or that the page itself is too wide."""
    width, seen = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    found = page.evaluate(
        """but => [...document.querySelectorAll('p, td, th, li, figcaption, h1, h2, h3, summary, img, .text, .map')]
            .filter(one => {
                const box = one.getBoundingClientRect();
                return box.width > 0 && (box.left < 0 || box.right > window.innerWidth + 1) && !one.closest(but);
            }).map(one => one.innerText.slice(0, 60))""",
        but,
    )
    return found if width <= seen else [f"the page is {width} wide", *found]
