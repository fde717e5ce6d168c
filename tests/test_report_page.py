"""The report of a run, looked at in a real browser (headless Chromium)."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from mmcl import workflow
from mmcl.data import read_samples, write_shards
from mmcl.recipe import Recipe
from mmcl.report import write_report
from mmcl.runs import Run

pytestmark = pytest.mark.slow
WIDTHS = (1280, 390)  # a screen, and a telephone
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; without one the tests are skipped, but not where they are asked for (MMCL_BROWSER=1, as CI does)."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None and not os.environ.get("MMCL_BROWSER"):
        pytest.skip("no chromium here")
    assert path is not None, "MMCL_BROWSER is set, and there is no chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield started
        started.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Recipe], glyphs: Any, task: Path) -> Path:
    """A run with everything that a report may show."""
    folder = tmp_path_factory.mktemp("page")
    samples = list(read_samples(str(glyphs.train / "00000.tar")))
    for sample in samples[::9]:
        sample["png"] = b"broken"
    samples[1]["txt"] = "<script>document.title = 'broken in'</script>"
    write_shards(samples, folder / "shards")
    measured = [f"tasks=[{task}]", "training.eval_every_steps=4", f"training.best={task}/text_to_image/recall@10"]
    made = workflow.train(
        tiny(
            folder / "run",
            f"data.train.shards={folder / 'shards'}/*.tar",
            "data.max_bad=1",
            "training.ema={decay: 0.9, evaluate: true}",
            *measured,
        )
    )
    warning = {"step": 3, "about": "a", "warning": "<b>all vectors</b> of image lie in one place " + "and so on " * 30}
    with (made / "warnings.jsonl").open("a") as file:
        file.write(json.dumps(warning) + "\n")
    write_report(Run(made), {str(task): "found"})
    return made


@pytest.fixture(params=WIDTHS)
def page(browser: Browser, run: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The report, opened; nothing is loaded from elsewhere, and nothing is wrong with it."""
    opened = browser.new_page(viewport={"width": request.param, "height": 900})
    wrong: list[str] = []
    opened.on("console", lambda message: wrong.append(message.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on(
        "request", lambda asked: wrong.append(asked.url) if not asked.url.startswith(("file:", "data:")) else None
    )
    opened.goto((run / "report.html").as_uri())
    yield opened
    opened.close()
    assert wrong == []


def test_it_shows_what_the_run_came_to(page: Page, task: Path) -> None:
    assert page.title() == "Run run"
    headings = page.locator("h2").all_inner_texts()
    for heading in ("Warnings", "Measured", "Examples: found", "Training", "Samples that could not be used", "Recipe"):
        assert heading in headings
    body = page.locator("body").inner_text()
    assert "<b>all vectors</b> of image lie in one place" in body  # as it was written, not as HTML
    assert "image cannot be decoded" in body
    assert f"Best {task}/text_to_image/recall@10" in body
    assert "The moving average of the weights (EMA)." in body


def test_curves_and_pictures_are_seen(page: Page) -> None:
    curves = page.locator(".curves figure")
    titles = [text.splitlines()[0] for text in page.locator(".curves figcaption").all_inner_texts()]
    assert {"loss", "gradient of each tower", "speed", "uniformity", "found"} <= set(titles)
    for curve in curves.all():
        box = curve.locator("svg").bounding_box()
        assert box is not None
        assert box["width"] > 200
        assert box["height"] > 100
        assert curve.locator("svg path").count() > 3
    pictures = page.locator("img")
    assert pictures.count() >= 10
    assert all(pictures.evaluate_all("all => all.map(one => one.complete && one.naturalWidth > 0)"))


def test_nothing_sticks_out(page: Page) -> None:
    width, seen = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= seen
    covered = page.evaluate(
        """() => [...document.querySelectorAll('p, td, th, li, figcaption, h2, h3')].filter(one => {
            const box = one.getBoundingClientRect();
            return box.width > 0 && (box.left < 0 || box.right > window.innerWidth + 1) && !one.closest('pre');
        }).map(one => one.innerText.slice(0, 60))"""
    )
    assert covered == []
