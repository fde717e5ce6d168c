"""Recipes: complete, checked, overridden by path, and the same after a round trip."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mmcl.errors import MmclError
from mmcl.losses import presets
from mmcl.recipe import Recipe, assets, check, dump_yaml, load_recipe, read_yaml

CLIP = "glyphs/clip_tiny"


def test_a_recipe_survives_a_round_trip_through_yaml(tmp_path: Path) -> None:
    recipe = load_recipe(CLIP)
    path = tmp_path / "again.yaml"
    path.write_text(dump_yaml(recipe.model_dump(mode="json")))
    assert load_recipe(path) == recipe


def test_overrides_are_yaml_and_go_by_path() -> None:
    recipe = load_recipe(CLIP, ["data.batch_size=64", "optimizer.lr=1e-3", "run=runs/no", "tasks=[]"])
    assert (recipe.data.batch_size, recipe.run, recipe.tasks) == (64, "runs/no", [])
    assert recipe.optimizer.model_dump()["lr"] == 1e-3  # YAML 1.1 would have made a string of it


def test_an_override_with_a_part_replaces_all_of_it() -> None:
    recipe = load_recipe(CLIP, ["optimizer=adamw"])
    assert recipe.optimizer.model_dump()["weight_decay"] == 0.2  # the default, not what the recipe said


def test_an_override_reaches_into_a_part_that_is_given_by_name(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    content = read_yaml(Path("recipes") / f"{CLIP}.yaml") if Path("recipes").is_dir() else None
    content = content or load_recipe(CLIP).model_dump(mode="json")
    content["schedule"] = "cosine"
    path.write_text(dump_yaml(content))
    assert load_recipe(path, ["schedule.warmup=0.5"]).schedule.model_dump()["warmup"] == 0.5


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("optimizer.lrr=1", r"optimizer.lrr: there is no such key; did you mean 'lr'"),
        ("trainin.samples=1", "trainin: there is no such key; did you mean 'training'"),
        ("training.samples=10", "training.samples: 10 is less than one batch"),
        ("objective=clop", "no objective is called 'clop'; did you mean 'clip'"),
        ("objective.0.pairs=[[image, audio]]", r"objective.0: the pair \['image', 'audio'\] is not among"),
        ("objective.7.weight=1", "'7' is no place in a list of 1"),
        ("towers.audio={name: vit}", "towers.audio: data.train does not say where audio lies"),
        ("data.train.modalities.audio=flac", "there is no tower for audio"),
        ("dim.width=3", "dim is 128, which has nothing inside"),
        ("nonsense", "no override; write key.path=value"),
        ("run=[", "no YAML"),
    ],
)
def test_a_mistake_is_told_where_it_is(override: str, told: str) -> None:
    with pytest.raises(MmclError, match=told):
        load_recipe(CLIP, [override])


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(MmclError, match=r"did you mean 'glyphs/clip_tiny'.*mmcl recipes"):
        load_recipe("glyphs/clip_tinny")


def test_files_that_a_run_needs_are_found_wherever_they_are_named() -> None:
    recipe = load_recipe(CLIP, ["towers.text.tokenizer.model=some/where.model"])
    assert assets(recipe) == [(("towers", "text", "tokenizer", "model"), Path("some/where.model"))]


def test_a_file_is_looked_for_beside_the_recipe_first(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    content = tiny(tmp_path / "run").model_dump(mode="json")
    content["towers"]["text"]["tokenizer"]["model"] = "beside.model"
    (tmp_path / "beside.model").write_bytes(b"x")
    path = tmp_path / "r.yaml"
    path.write_text(dump_yaml(content))
    assert assets(load_recipe(path))[0][1] == tmp_path / "beside.model"


def test_what_is_no_yaml_is_told(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("a: [1")
    with pytest.raises(MmclError, match="this is no YAML"):
        load_recipe(path)


def test_check_needs_a_mapping() -> None:
    with pytest.raises(MmclError, match=r"r.yaml:\n"):
        check(Recipe, [1, 2], "r.yaml")


def test_a_list_may_hold_presets_among_terms() -> None:
    recipe = load_recipe(CLIP, ["objective=[clip, {regularize: koleo}, promcse]"])
    assert [term.title for term in recipe.objective] == [
        "cosine_softmax",
        "koleo",
        "cosine_softmax",
        "cosine_hinge",
    ]
    with pytest.raises(MmclError, match=r"objective: no objective is called 'clop'; did.*mmcl objectives"):
        load_recipe(CLIP, ["objective=[siglip, clop]"])


def test_an_override_reaches_into_the_terms_of_a_preset(tmp_path: Path) -> None:
    changed = load_recipe(CLIP, ["objective=fastclip", "objective.0.contrast.gamma_steps=10"]).objective
    (said,) = presets()["fastclip"]
    contrast = changed[0].model_dump()["contrast"]
    assert contrast.pop("gamma_steps") == 10
    assert contrast.items() >= {k: v for k, v in said["contrast"].items() if k != "gamma_steps"}.items()
    assert said["contrast"]["gamma_steps"] == 48000  # the preset itself stays as it is
    path = tmp_path / "r.yaml"
    content = load_recipe(CLIP).model_dump(mode="json")
    path.write_text(dump_yaml({**content, "objective": ["cua", "barlip"]}))
    changed = load_recipe(path, ["objective.0.contrast.label_smoothing=0.1", "objective.4.weight=3"]).objective
    assert [term.title for term in changed] == ["cosine_softmax", "uniformity", "alignment", "cosine_softmax", "barlow"]
    assert changed[0].model_dump()["contrast"] == {"name": "softmax", "label_smoothing": 0.1, "positives": "out"}
    assert changed[4].weight == 3
    with pytest.raises(MmclError, match="'5' is no place in a list of 5"):
        load_recipe(path, ["objective.5.weight=3"])


def test_an_override_reaches_into_a_name_in_a_list() -> None:
    queue = ["objective.negatives.1.size=8", "objective.negatives.1.of=[text]"]
    changed = load_recipe(CLIP, ["objective={negatives: [in_batch, queue]}", *queue])
    assert changed.objective[0].model_dump()["negatives"][1]["size"] == 8


def test_a_term_alone_is_changed_by_its_keys() -> None:
    recipe = load_recipe(CLIP, ["objective={contrast: softmax}", "objective.contrast.label_smoothing=0.3"])
    assert recipe.objective[0].model_dump()["contrast"]["label_smoothing"] == 0.3
    assert load_recipe(CLIP, ["objective={contrast: hinge}", "objective.0.weight=2"]).objective[0].weight == 2
