"""Task files say what there is: parts, arguments, prompts, fields of the samples, and other suites' names."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmcl import bundled
from mmcl.data import Source, Stream
from mmcl.data.source import Selector
from mmcl.layouts import LAYOUTS, packed
from mmcl.recipe import read_yaml
from tests.layouts.miniatures import MINIATURES

SHELF = bundled.shelf("eval")
FILES = {name: SHELF / "tasks" / f"{name}.yaml" for name in bundled.names(SHELF / "tasks", ".yaml")}
TASKS: dict[str, dict[str, Any]] = {name: read_yaml(path) for name, path in FILES.items()}
SUITES: dict[str, dict[str, Any]] = {path.stem: read_yaml(path) for path in sorted((SHELF / "suites").glob("*.yaml"))}
OURS = ("fashion_mnist", "glyphs", "mnist5k", "stamps")  # whose data mmcl builds
OTHERS = [name for name in TASKS if name.split("/")[0] not in OURS]
LAID_OUT = [name for name in OTHERS if "layout" in TASKS[name]["data"]]
KEYS = ["title", "key", "version", "language", "evaluator", "headline", "root", "get", "data", "source", "licence"]
EVALUATORS = {
    "zeroshot": {"modality", "classes", "templates", "label", "labels", "groups", "at"},
    "retrieval": {"modalities", "at", "both", "folds", "equal_texts", "distractors", "without", "subset"},
    "choice": {"query", "right", "wrong", "foils", "groups"},
    "winoground": {"tags"},
    "association": {"right", "wrong", "sizes", "candidates"},
}
# key, name and main metric in tasklist.yml of mlfoundations/datacomp; acc1 where it names none
DATACOMP = """
vtab/caltech101|Caltech-101|mean_per_class_recall  cifar10|CIFAR-10|acc1  vtab/cifar100|CIFAR-100|acc1
vtab/clevr_count_all|CLEVR Counts|acc1  vtab/clevr_closest_object_distance|CLEVR Distance|acc1
country211|Country211|acc1  vtab/dtd|Describable Textures|acc1  vtab/eurosat|EuroSAT|acc1
fgvc_aircraft|FGVC Aircraft|mean_per_class_recall  food101|Food-101|acc1  gtsrb|GTSRB|acc1
imagenet1k|ImageNet 1k|acc1  imagenet_sketch|ImageNet Sketch|acc1  imagenetv2|ImageNet v2|acc1
imagenet-a|ImageNet-A|acc1  imagenet-o|ImageNet-O|acc1  imagenet-r|ImageNet-R|acc1
vtab/kitti_closest_vehicle_distance|KITTI Vehicle Distance|acc1  mnist|MNIST|acc1  objectnet|ObjectNet|acc1
vtab/flowers|Oxford Flowers-102|mean_per_class_recall  vtab/pets|Oxford-IIIT Pet|mean_per_class_recall
voc2007|Pascal VOC 2007|acc1  vtab/pcam|PatchCamelyon|acc1  renderedsst2|Rendered SST2|acc1
vtab/resisc45|RESISC45|acc1  cars|Stanford Cars|acc1  stl10|STL-10|acc1  sun397|SUN397|acc1  vtab/svhn|SVHN|acc1
retrieval/flickr_1k_test_image_text_retrieval|Flickr|mean_recall@1
retrieval/mscoco_2014_5k_test_image_text_retrieval|MSCOCO|mean_recall@1
misc/winogavil|WinoGAViL|jaccard_score_10-12  wilds/iwildcam|iWildCam|F1-macro_all  wilds/camelyon17|Camelyon17|acc1
wilds/fmow|FMoW|acc_worst_region  fairness/dollar_street|Dollar Street|acc_top5_wg  fairness/geode|GeoDE|acc_wg
"""
THEIRS = {
    "jaccard_score_10-12": "jaccard/10-12",
    "F1-macro_all": "f1_macro",
    "acc_worst_region": "worst_group_acc1",
    "acc_top5_wg": "worst_group_acc5",
    "acc_wg": "worst_group_acc1",
    "acc1": None,  # the evaluator's own
}


@pytest.mark.parametrize("name", TASKS)
def test_every_file_says_what_it_is(name: str) -> None:
    first = FILES[name].read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert first.endswith(".")
    task = TASKS[name]
    assert {"title", "evaluator", "data", "licence"} <= set(task)
    assert ("shards" in task["data"]) != ("layout" in task["data"])
    for where in task["data"]["modalities"].values():
        Selector.parse(where, name)
    assert set(task["data"].get("optional", [])) <= set(task["data"]["modalities"])


@pytest.mark.parametrize("name", OTHERS)
def test_data_of_others_say_where_they_come_from(name: str) -> None:
    task = TASKS[name]
    assert [key for key in KEYS if key in task] == list(task)  # nothing else, and in this order
    assert task["source"].startswith(("https://", "http://"))
    assert task["version"] == 1
    assert ("root" in task) == ("get" in task)
    assert "root" in task or name == "digits/zeroshot"
    evaluator = dict(task["evaluator"])
    assert set(evaluator) - {"name"} <= EVALUATORS[evaluator["name"]]


@pytest.mark.parametrize("name", [name for name in OTHERS if TASKS[name]["evaluator"]["name"] == "zeroshot"])
def test_prompts_are_there(name: str) -> None:
    """In the file, or in eval/prompts; those of web data sets lie beside their shards."""
    task = TASKS[name]
    classes, templates = task["evaluator"]["classes"], task["evaluator"]["templates"]
    if task["root"].split("/")[-1].startswith("wds_") if "root" in task else False:
        assert (classes, templates) == ("classnames.txt", "zeroshot_classification_templates.txt")
        return
    if isinstance(templates, str):
        templates = (SHELF / "prompts" / templates).read_text().splitlines()
    assert templates
    assert all("{c}" in template for template in templates)
    if isinstance(classes, str):
        classes = json.loads((SHELF / "prompts" / classes).read_text())
        assert set(map(type, classes.values())) == {str}
    expected = {"esc50": 50, "urbansound8k": 10, "vggsound": 309, "fsd50k": 200, "gtzan": 10}
    assert len(classes) == expected.get(name.split("/")[1], 10)
    values = list(classes.values()) if isinstance(classes, dict) else classes
    assert all(value.strip() == value and "_" not in value for value in values)
    assert len(set(values)) == len(values)


def test_prompts_that_are_shared_are_prompts() -> None:
    for path in (SHELF / "prompts").glob("*.txt"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert lines
        assert len(set(lines)) == len(lines)
        assert all("{c}" in line for line in lines)


def test_the_80_templates_are_those_of_clip() -> None:
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    lines = (SHELF / "prompts" / "imagenet_80.txt").read_text().splitlines()
    assert [line.replace("{c}", "cat") for line in lines] == [one("cat") for one in OPENAI_IMAGENET_TEMPLATES]


@pytest.mark.parametrize("name", LAID_OUT)
def test_what_a_task_asks_for_is_what_its_layout_gives(name: str, tmp_path: Path) -> None:
    """Every modality and field is in the samples of the layout's miniature, under the name that the task says."""
    data = TASKS[name]["data"]
    part = LAYOUTS.check(data["layout"])
    root = None
    if part.name != "digits":
        root = tmp_path / "root"
        part = LAYOUTS.check({"name": part.name, **MINIATURES[part.name](root).args})
    folder = str(packed(part, root, tmp_path / "cache"))
    source = Source(shards=folder, modalities=data["modalities"], optional=data.get("optional", []), captions="all")
    for batch in Stream(source, batch_size=64, shuffle=False):
        assert not batch.bad
        for modality, there in batch.present.items():
            assert modality in source.optional or there.all(), modality


@pytest.mark.parametrize("name", SUITES)
def test_suites_name_tasks(name: str) -> None:
    suite = SUITES[name]
    assert set(suite) == {"title", "tasks"}
    assert set(suite["tasks"]) <= set(TASKS)
    assert len(set(suite["tasks"])) == len(suite["tasks"])
    assert (SHELF / "suites" / f"{name}.yaml").read_text().startswith("# ")


def test_suites_are_whole() -> None:
    for folder in ("datacomp", "clip_benchmark", "audio", "composition", "multilingual"):
        assert sorted(SUITES[folder]["tasks"]) == [name for name in sorted(TASKS) if name.startswith(f"{folder}/")]
    counts = {name: len(suite["tasks"]) for name, suite in SUITES.items()}
    assert counts["datacomp"] == 38
    assert counts["clip_benchmark"] == 40
    assert counts["quick"] == 13


def test_keys_are_of_one_task_each() -> None:
    keys = [task.get("key", name) for name, task in TASKS.items()]
    assert len(set(keys)) == len(keys)


def test_datacomps_names_and_main_metrics() -> None:
    listed = [one.split("|") for one in DATACOMP.replace("\n", "  ").split("  ") if one.strip()]
    ours = {TASKS[name]["key"]: TASKS[name] for name in SUITES["datacomp"]["tasks"]}
    assert list(ours) == [
        key for key, _, _ in listed if not key.startswith(("wilds", "fairness", "retrieval", "misc"))
    ] + [key for key in ours if key.startswith(("wilds", "fairness", "retrieval", "misc"))]
    assert set(ours) == {key for key, _, _ in listed}
    for key, name, metric in listed:
        assert ours[key]["title"] == name
        assert ours[key].get("headline") == THEIRS.get(metric, metric), key


def test_web_data_sets_lie_where_their_suites_put_them() -> None:
    for name, task in TASKS.items():
        folder, _, _ = name.partition("/")
        if folder == "datacomp" and "shards" in task["data"]:
            place = task["key"].removeprefix("fairness/").replace("/", "-")
            assert task["root"] == f"data/wds_{place}_test"
            assert task["get"] == f"https://huggingface.co/datasets/djghosh/wds_{place}_test"
        if folder == "clip_benchmark":
            place = task["key"].removeprefix("wds/").replace("/", "-")
            assert task["root"] == f"data/wds_{place}"
            assert task["get"] == f"https://huggingface.co/datasets/clip-benchmark/wds_{place}"


@pytest.mark.parametrize("name", OTHERS)
def test_every_task_is_one_that_can_be_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its spec is right, and its evaluator builds and has the headline and all modalities and fields it needs."""
    spec = pytest.importorskip("mmcl.tasks.spec")
    found, path = spec.find_spec(name)

    def read(file: str) -> str:
        web = {"classnames.txt": "a\nb\nc\nd\ne\nf\n", "zeroshot_classification_templates.txt": "a {c}\n"}
        return web[file] if file in web else spec.read_prompts(file, None, path)

    evaluator = found.evaluator.build(**({"read": read} if "read" in found.evaluator.wants else {}))
    assert (found.headline or evaluator.headline) in evaluator.metrics()
    assert {*evaluator.modalities(), *evaluator.fields()} <= set(found.data.modalities)
