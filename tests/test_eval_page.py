"""The page of an evaluation: what it says, and how it looks in a real browser (headless Chromium)."""

import io
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from playwright.sync_api import Browser, Page

from mmcl.compare import Measurement
from mmcl.data import write_shards
from mmcl.errors import MmclError
from mmcl.eval_page import write_page
from mmcl.evaluators import Confusion, Embedded, Items
from mmcl.tasks import Measured, Result, Task, load_task
from tests import small_model
from tests.browsing import WIDTHS, opened, sticking_out

HOSTILE = "<script>document.title = 'broken in'</script>"
LONG = "a very long caption that goes on and on, " * 400
WORD = "Donaudampfschiff" * 40
MODELS = ("runs/one", f"runs/{WORD}")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Task]:
    """Retrieval among hostile and long captions, some pictures broken; and zero-shot classification."""
    folder = tmp_path_factory.mktemp("eval_page")
    samples = list[dict[str, Any]]()
    for i, (text, picture) in enumerate(zip(small_model.texts(60), small_model.pictures(60), strict=True)):
        out = io.BytesIO()
        picture.resize((24, 24)).save(out, "png")
        label = json.dumps({"script": f"script {i % 17}"})
        samples.append({"__key__": f"{i:03}", "png": out.getvalue(), "txt": text, "json": label})
    for sample in samples[::20]:
        sample["png"] = b"broken"
    samples[1]["txt"], samples[2]["txt"], samples[59]["txt"] = HOSTILE, LONG, WORD
    classes = {name: name for name in (f"script {i}" for i in range(17))}
    write_shards(samples, folder / "shards")
    data = f"shards: '{folder / 'shards'}', modalities: {{picture: png, caption: txt, script: 'json:script'}}"
    evaluators = {
        "found": "{name: retrieval, modalities: [caption, picture]}",
        "script": f"{{name: zeroshot, modality: picture, prompts: caption, label: script, classes: {classes}}}",
        "many": "{name: zeroshot, modality: picture, prompts: caption, label: script, classes: {a: a}}",
    }
    made = {}
    for name, evaluator in evaluators.items():
        evaluator = evaluator.replace("label:", "templates: ['{c}'], label:")
        (folder / f"{name}.yaml").write_text(f"title: {name}\nevaluator: {evaluator}\ndata: {{{data}}}\n")
        made[name] = load_task(str(folder / f"{name}.yaml"))
    return made


@pytest.fixture(scope="module")
def found(tasks: dict[str, Task], tmp_path_factory: pytest.TempPathFactory) -> list[Measurement]:
    """Two models on two tasks, measured; and on one of which the numbers are made up."""
    encoder = small_model.encoder(tmp_path_factory.mktemp("model"))
    measured = [tasks[name].measure(encoder, None, True) for name in ("found", "script")]
    return [
        *(Measurement(model, one, it) for model in MODELS for one, it in zip(tasks.values(), measured, strict=False)),
        *(Measurement(model, tasks["many"], many(shift)) for model, shift in zip(MODELS, (0.0, 0.3), strict=True)),
    ]


def many(shift: float) -> Measured:
    """Hundreds of classes, numbers that are none, no pictures, and no items of which there were vectors."""
    classes = [f"{HOSTILE} {WORD} {i}" for i in range(200)]
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 3, (200, 200), generator=generator)
    acc1, n = 0.2 + shift, int(counts.sum())
    numbers = {"acc1": acc1, "ece": math.nan, "unheard/of": math.inf, "large": 123.4, "n": float(n), "skipped": 2.0}
    example = {"query": "key", "modality": "picture", "correct": classes[:9], "found": classes[9:30], "pictures": {}}
    vectors = F.normalize(torch.randn(200, 4, generator=generator), dim=1)
    return Measured(
        Result(
            numbers,
            {
                "task": "many",
                "title": HOSTILE,
                "version": "1",
                "headline": "acc1",
                "evaluator": "zeroshot",
                "score": "cosine",
                "precision": {"towers": "float32", "scores": "float32"},
                "packages": {"mmcl": "0", "torch": "0"},
                "counts": {"acc1": n, "ece": n, "unheard/of": 3, "large": 1},
                "intervals": {"acc1": [acc1 - 0.1, acc1 + 0.1], "ece": [math.nan, math.nan]},
                "details": {"prompts": 200, "by_class": dict.fromkeys(classes, math.nan)},
                "skipped": {"samples": 2, "bad": [{"shard": "s", "key": "k", "modality": "m", "reason": HOSTILE}]},
            },
        ),
        [example | {"kind": kind, "gallery": "caption", "group": "worst"} for kind in ("items", "labels")],
        Confusion(classes, counts.tolist()),
        Embedded.single(
            {"picture": vectors},
            Items([str(i) for i in range(200)], torch.arange(200), {"script": [[name] for name in classes]}),
        ),
    )


@pytest.fixture(scope="module")
def path(found: list[Measurement], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of all of it."""
    return write_page(tmp_path_factory.mktemp("page") / "new" / "page.html", found)


def test_it_is_one_file_without_scripts(path: Path) -> None:
    text = path.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    links = re.findall(r'(?:src|href|url)\s*[=(]\s*"?([^"\s)>]{1,60})', text)
    assert links
    assert all(link.startswith(("#", "data:image/")) for link in links)
    assert len(text) < 3_000_000


def test_of_one_model_without_intervals_nothing_is_compared(tasks: dict[str, Task], tmp_path: Path) -> None:
    made = many(0.0)
    about = {key: value for key, value in made.result.about.items() if key not in ("intervals", "skipped", "details")}
    bare = made._replace(result=Result(made.result, about | {"details": {}}), examples=[], confusion=None)
    text = write_page(tmp_path / "page.html", [Measurement("runs/one", tasks["many"], bare)]).read_text()
    assert "Without intervals" in text
    for word in ("★ marks", "Examples", "What was taken", "skipped<", "else the evaluator"):
        assert word not in text
    assert '<i class="dot"' in text


def test_a_model_that_was_not_measured_on_a_task_has_no_number(found: list[Measurement], tmp_path: Path) -> None:
    text = write_page(tmp_path / "page.html", [found[0], found[3]]).read_text()  # one task each
    assert text.count("<td>–</td>") >= 2


def test_numbers_of_no_group_stand_under_no_heading(path: Path) -> None:
    rows = path.read_text().split('<section id="task-3">')[1].split("</table>")[0]
    names = ("acc1", "ece", "large", ">unheard</th>", ">of<")
    assert sorted(names, key=rows.index) == list(names)


def test_a_folder_is_no_page(found: list[Measurement], tmp_path: Path) -> None:
    with pytest.raises(MmclError, match=re.escape(f"page {tmp_path} is a folder")):
        write_page(tmp_path, found)


@pytest.fixture(params=WIDTHS)
def page(browser: Browser, path: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    with opened(browser, path, request.param) as page:
        yield page


@pytest.mark.slow
def test_it_shows_what_was_measured(page: Page) -> None:
    assert page.title() == "Evaluation"
    assert page.locator("h2").all_inner_texts() == ["Side by side", "found", "script", HOSTILE]
    assert page.locator("section").nth(0).locator(".best").all_inner_texts() == ["0.500"]
    body = page.locator("body").inner_text()
    assert "★ marks the best number" in body
    assert "3 samples skipped" in body
    assert "PCA of 57 items" in body
    assert "t-SNE of 57 items" in body
    assert "image cannot be decoded" in (page.locator("details.skipped").nth(0).text_content() or "")
    assert "nan" in page.locator("section").nth(3).locator("td").all_inner_texts()


@pytest.mark.slow
def test_numbers_on_the_page_are_those_that_were_measured(page: Page, found: list[Measurement]) -> None:
    shown = page.locator("section").nth(1).locator("table.numbers td:not(.metric) > span:first-child").all_inner_texts()
    result = found[0].result
    names = sorted(result.about["counts"], key=lambda name: "/" in name)  # those of no direction come first
    expected = [result[name] for name in names for _ in MODELS]
    assert len(shown) == len(expected)
    for said, value in zip(shown, expected, strict=True):
        assert float(said) == pytest.approx(value, abs=0.051 if value > 10 else 0.00051)


@pytest.mark.slow
def test_pictures_maps_and_tables_are_seen(page: Page) -> None:
    pictures = page.locator("details[open] img")
    assert pictures.count() >= 40
    assert all(pictures.evaluate_all("all => all.map(one => one.complete && one.naturalWidth > 0)"))
    assert page.locator("details[open] .found img.right").count() > 0
    for name, count, side in ((".maps svg", 6, 100), ("svg.heat", 4, 60)):
        drawn = page.locator(name)
        assert drawn.count() == count
        for one in drawn.all():
            box = one.bounding_box()
            assert box is not None
            assert min(box["width"], box["height"]) > side
    title = page.locator("svg.heat g g title").nth(0).text_content()
    assert re.search(r"(taken for .*|, right): \d+ \(\d+ % of the row\)", title or "")


@pytest.mark.slow
def test_nothing_sticks_out(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert sticking_out(page, but=".scroll, pre") == []
