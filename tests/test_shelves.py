"""Every file at the root is loaded: recipes, tasks, data tools, and the tables and blocks that speak of them."""

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mmcl import bundled
from mmcl.errors import MmclError
from mmcl.recipe import Recipe, check, load_recipe, read_yaml
from mmcl.tasks import TaskSpec, load_task
from mmcl.tasks.spec import read_prompts

ROOT = Path(__file__).parents[1]
RECIPES = bundled.names(bundled.shelf("recipes"), ".yaml")
TASKS = bundled.names(bundled.shelf("eval") / "tasks", ".yaml")
TOOLS = bundled.names(bundled.shelf("data_tools"), ".py")


def test_there_are_some_of_each() -> None:
    assert RECIPES
    assert TASKS
    assert TOOLS


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_loads_and_its_towers_build(name: str, whole: Callable[..., Recipe], tmp_path: Path) -> None:
    from mmcl.runs import build_model

    recipe = load_recipe(name)
    assert set(recipe.tasks) <= set(TASKS)
    text = (bundled.shelf("recipes") / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    assert f"mmcl train {name}" in text.split("run:")[0]
    if name == "glyphs/clip_tiny":
        with torch.device("meta"):
            model = build_model(whole(tmp_path))
        assert 0.5e6 < sum(p.numel() for p in model.parameters()) < 20e6


@pytest.mark.parametrize("name", TASKS)
def test_every_task_loads_and_says_what_it_is(name: str) -> None:
    path = bundled.shelf("eval") / "tasks" / f"{name}.yaml"
    spec = check(TaskSpec, read_yaml(path), name)

    def read(file: str) -> str:
        """Prompts that ship with mmcl; those of web data sets lie beside their shards."""
        beside = {"classnames.txt": "a\nb\n", "zeroshot_classification_templates.txt": "a photo of {c}\n"}
        return beside[file] if file in beside else read_prompts(file, None, path)

    spec.evaluator.build(**({"read": read} if "read" in spec.evaluator.wants else {}))
    assert spec.title
    assert spec.licence
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("name", TOOLS)
def test_every_data_tool_is_short_and_imports_nothing_of_ours_but_mmcl(name: str) -> None:
    path = bundled.shelf("data_tools") / f"{name}.py"
    text = path.read_text()
    assert text.count("\n") <= 160
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    assert "build" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    ours = {path.stem for path in ROOT.iterdir()} - {"mmcl"}
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not ours & {module.split(".")[0] for module in modules if module}


def test_a_file_that_begins_with_an_underscore_is_a_part_of_its_neighbours() -> None:
    parts = {path.stem for path in bundled.shelf("data_tools").glob("_*.py")}
    assert parts == {"_debian", "_speech", "_tuxpaint"}
    assert parts.isdisjoint(TOOLS)
    with pytest.raises(MmclError, match="no data set is called '_speech'"):
        bundled.find("data set", "_speech", bundled.shelf("data_tools"), ".py", "mmcl data list")


@pytest.mark.parametrize(
    ("folder", "listed"),
    [("recipes", RECIPES), ("eval", TASKS), ("data_tools", TOOLS)],
    ids=["recipes", "eval", "data"],
)
def test_the_table_of_a_shelf_lists_exactly_its_files(folder: str, listed: list[str]) -> None:
    readme = (ROOT / folder / "README.md").read_text()
    assert sorted(re.findall(r"^\| `([^`]+)` \|", readme, re.MULTILINE)) == listed


def test_a_task_without_its_data_says_how_to_build_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MmclError, match=r"task glyphs/retrieval: data: .*data/glyphs/test.*Build them first"):
        load_task("glyphs/retrieval")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            "evaluator: {name: retrievel, modalities: [a, b]}",
            "no evaluator is called 'retrievel'; did you mean 'retrieval'",
        ),
        ("evaluator: {name: retrieval, modalities: [text, audio]}", "data.modalities does not say where audio lies"),
        ("evaluator: {name: retrieval, modalities: [text, text]}", "two sides that share no modality are needed"),
        (
            "evaluator: {name: zeroshot, modality: text, classes: {a: b}, templates: ['{c}'], label: text}",
            "data.extras: only training looks at extras",
        ),
    ],
)
def test_a_task_with_a_mistake_is_told(change: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(f"title: t\n{change}\ndata: {{shards: x, modalities: {{text: txt}}, extras: {{a: npy}}}}\n")
    with pytest.raises(MmclError, match=told):
        load_task(str(path))


def test_no_file_has_grown_too_long_and_none_has_a_name_that_says_nothing() -> None:
    files = [path for folder in ("mmcl", "data_tools", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert [str(p) for p in files if p.read_text().count("\n") > 400] == []
    assert {p.stem for p in files}.isdisjoint({"utils", "common", "helpers", "misc"})
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                assert node.end_lineno - node.lineno < 80, f"{path}: {node.name}"
