"""The report of a run, looked at in a real browser (headless Chromium)."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from mmcl import workflow
from mmcl.data import read_samples, write_shards
from mmcl.recipe import Recipe
from mmcl.report import write_report
from mmcl.runs import Run
from tests.browsing import WIDTHS, opened, sticking_out

pytestmark = pytest.mark.slow


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
    with opened(browser, run / "report.html", request.param) as found:
        yield found


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
    assert sticking_out(page, but=".scroll, pre") == []
