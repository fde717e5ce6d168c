"""A setting that has no effect is refused, and what is right is not."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmcl.errors import MmclError
from mmcl.losses import presets
from mmcl.recipe import Recipe, dump_yaml, load_recipe

CLIP = "glyphs/clip_tiny"
THREE = "glyphs/gram"
FIRST = "objective.0."
NO_IDENTITY = "data.train.identity=null"
CAPTIONS = ["data.train.modalities.text=json:captions", "data.train.captions=all"]
PAIR = "{pairs: [[image, text]]}"


def told(recipe: str, *overrides: str) -> str:
    with pytest.raises(MmclError) as caught:
        load_recipe(recipe, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        (CLIP, [NO_IDENTITY], "objective.0.negatives: `distinct` is about samples that show the same thing"),
        (CLIP, ["objective=supcon", NO_IDENTITY], "objective.0.targets: `shared` is about samples"),
        (
            CLIP,
            ["objective={multi_view: mv_dhel, negatives: distinct}", NO_IDENTITY],
            "objective.0.negatives: `distinct` is about samples",
        ),
        (CLIP, ["data.batch_size=1"], "data.batch_size: a row alone has nothing to be told from"),
        (CLIP, [FIRST + "weight=0"], "objective: no term counts at any of the 780 steps"),
        (CLIP, [FIRST + "weight={start: 0, end: 0, steps: 9}"], "objective: no term counts at any of the 780 steps"),
        (CLIP, [FIRST + "from_step=780"], "objective: no term counts at any of the 780 steps"),
        (CLIP, [FIRST + "from_step=3"], "objective: no term counts from step 0 to 2 of 780"),
        (CLIP, [FIRST + "until_step=700"], "objective: no term counts from step 700 to 779 of 780"),
        (CLIP, [FIRST + "weight={start: 1, end: 0, steps: 9}"], "objective: no term counts from step 9 to 779 of 780"),
        (
            CLIP,
            ["objective=[{until_step: 5, weight: 2}, {from_step: 9}]"],
            "objective: no term counts from step 5 to 8 of 780",
        ),
        (THREE, [f"objective={PAIR}"], "towers.font: no term of the objective looks at font, so that this tower would"),
        (
            THREE,
            [f"objective=[{PAIR}, {{weight: 0}}]"],
            "towers.font: no term of the objective looks at font",
        ),
        (
            THREE,
            ["objective={pairs: [[image, text]], targets: {name: soft, by: font}}"],
            "towers.font: no term of the objective looks at font",
        ),
        (CLIP, ["data.copies={image: 2}"], "data.copies.image: no term of the objective looks at image.2: .*leave it"),
        (
            CLIP,
            ["data.copies={image: 4}", "objective=slip"],
            "data.copies.image: no term of the objective looks at image.3: .*say image: 2",
        ),
        (
            CLIP,
            ["data.train.modalities={image: png, text: txt, text.wrong: json:wrong}"],
            "data.train.modalities.text.wrong: no term of the objective looks at text.wrong: .*leave it out",
        ),
        (
            CLIP,
            ["data.train.extras={grade: json:grade}"],
            "data.train.extras.grade: no term of the objective looks at grade: .*`by: grade`",
        ),
        (CLIP, ["objective=mil_nce"], r"objective.0.view: there is one text a sample.* data.copies: \{text: 5\}"),
    ],
)
def test_what_would_do_nothing_is_refused(recipe: str, overrides: list[str], message: str) -> None:
    assert re.search(rf"^  {message}", told(recipe, *overrides), re.MULTILINE), told(recipe, *overrides)


def test_all_of_it_is_told_at_once_each_under_its_path() -> None:
    text = told(
        CLIP,
        "objective=[{pairs: [[image, audio]]}, {regularize: {name: alignment, pairs: [[text, sound]]}}, supcon]",
        NO_IDENTITY,
        "training.ema=0.9",
    )
    lines = text.splitlines()[1:]
    assert [line.partition(": ")[0] for line in lines] == [
        "  objective.0",
        "  objective.1",
        "  objective.2.targets",
        "  training.ema",
    ]
    assert "in all" not in text


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        (CLIP, ["objective=[{}, {weight: 0, contrast: hinge}]", NO_IDENTITY]),
        (CLIP, ["objective=[{until_step: 5}, {from_step: 5, until_step: 800}]"]),
        (CLIP, ["objective=[{weight: {start: 1, end: 0, steps: 10}}, {weight: {start: 0, end: 1, steps: 10}}]"]),
        (CLIP, ["objective={weight: {start: 0, end: 1, steps: 10}}"]),
        (CLIP, ["objective=[{}, {from_step: 5000, regularize: koleo}]"]),
        (THREE, ["objective=imagebind"]),
        (THREE, [f"objective=[{PAIR}, {{regularize: koleo}}]"]),
        (THREE, [f"objective=[{PAIR}, {{from_step: 5000, anchor: font}}]"]),
        (CLIP, ["objective=slip", "data.copies={image: 2}"]),
        (CLIP, ["objective=mil_nce", "data.copies={text: 3}", NO_IDENTITY, *CAPTIONS]),
        (CLIP, ["objective={multi_view: poly, modalities: [image, image.2, image.3, text]}", "data.copies={image: 3}"]),
        (CLIP, ["objective=[{}, {regularize: {name: swapped, views: {image: image.2}}}]", "data.copies={image: 2}"]),
        (CLIP, ["objective={transform: {name: swap, pair: [image, image.2]}}", "data.copies={image: 2}"]),
        (CLIP, ["objective=negclip", "data.train.modalities={image: png, text: txt, text.wrong: json:wrong}"]),
        (
            CLIP,
            [
                "objective={targets: {name: soft, by: {image: ema.image.2, text: ema.text}}}",
                "data.copies={image: 2}",
                "training.ema=0.9",
            ],
        ),
        (CLIP, ["objective=gcl", "data.train.extras={grade: json:grade}"]),
        (CLIP, ["objective=multicsr", "data.train.extras={teacher.text: npy}"]),
        (
            CLIP,
            [
                "data.train=[{shards: a, modalities: {image: png, text: txt}},"
                " {shards: b, modalities: {text: txt}, identity: txt}]"
            ],
        ),
    ],
)
def test_what_does_something_is_not(recipe: str, overrides: list[str]) -> None:
    load_recipe(recipe, overrides)


NEEDS = {
    "simclr": ["data.copies={image: 2}"],
    "slip": ["data.copies={image: 2}"],
    "mil_nce": ["data.copies={text: 3}", *CAPTIONS],
    "negclip": ["data.train.modalities={image: png, text: txt, text.wrong: json:wrong}"],
    "momentum_distillation": ["training.ema=0.9"],
    "congrat": ["data.train.extras={teacher.text: npy}"],
    "multicsr": ["data.train.extras={teacher.text: npy}"],
    "modx": ["data.train.extras={teacher.text: npy, teacher.image: json:vector}"],
    "gcl": ["data.train.extras={grade: json:grade}"],
}
THREES = {"triangle", "symile", "three_towers"}


@pytest.mark.parametrize("preset", presets())
def test_every_preset_is_a_recipe(preset: str, tmp_path: Path) -> None:
    """With what its paper has, nothing of it does nothing."""
    content = load_recipe(THREE if preset in THREES else CLIP).model_dump(mode="json")
    modalities, towers = content["data"]["train"]["modalities"], content["towers"]
    if preset == "three_towers":
        towers["teacher"], modalities["teacher"] = towers.pop("font"), modalities.pop("font")
    if preset == "simclr":
        del towers["text"], modalities["text"]
    path = tmp_path / "r.yaml"
    path.write_text(dump_yaml({**content, "objective": preset}))
    load_recipe(path, NEEDS.get(preset, []))


def test_a_term_that_a_short_run_does_not_reach_is_told(
    tmp_path: Path, tiny: Callable[..., Recipe], capsys: pytest.CaptureFixture[Any]
) -> None:
    import mmcl

    mmcl.train(tiny(tmp_path / "run", "objective=[{}, {regularize: koleo, from_step: 100}]"))
    assert "objective.1: koleo counts from step 100 on: not in this run of 8" in capsys.readouterr().err


def test_a_term_that_no_sample_can_feed_is_told() -> None:
    """A sample is of one source; a regularizer may compare those of several."""
    sources = "data.train=[{shards: a, modalities: {image: png}}, {shards: b, modalities: {text: txt}}]"
    with pytest.raises(
        MmclError, match=r"objective.0: no sample has all that cosine_softmax compares, .*: image; text\."
    ):
        load_recipe(CLIP, [sources, "objective=[clip, {regularize: koleo}]"])
    load_recipe(CLIP, [sources, "objective=[{regularize: koleo}]"])
