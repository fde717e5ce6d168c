"""Pictures that are mixtures of two before the towers."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mmcl
from mmcl.errors import MmclError
from mmcl.model import MultiTower
from mmcl.recipe import Recipe
from mmcl.specs import MixSpec
from mmcl.towers import Backbone, Tower, Vit
from mmcl.training import Trainer, mixing
from mmcl.training.record import gathered
from mmcl.types import Batch, Transform


class Words(Backbone):
    """Rows as they are."""

    takes = "text"

    def transform(self, train: bool) -> Transform:
        raise NotImplementedError

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows


def pictures(rows: int) -> torch.Tensor:
    """Row i is all i."""
    return torch.arange(rows).float()[:, None, None, None].expand(rows, 3, 10, 20).clone()


def test_a_cutmix_row_holds_as_much_of_the_other_as_its_weight_says() -> None:
    spec, present = MixSpec(p=0.8, group=8), torch.ones(32, dtype=torch.bool)
    present[[3, 20]] = False
    drawn = mixing.draw(spec, "image", present, offset=64, seed=1, step=5)
    x = pictures(32)[present]
    made, weight = mixing.mixed(spec, x, drawn, present)
    rows = present.nonzero()[:, 0].tolist()
    mixed = 0
    for place, row in enumerate(rows):
        other = int(drawn.partner[row])
        values = made[place].unique().tolist()
        assert set(values) <= {float(row), float(other)}
        assert present[other]
        assert other // 8 == row // 8
        assert (made[place] == row).float().mean().item() == pytest.approx(float(weight[row]), abs=1e-6)
        mixed += len(values) == 2
    assert mixed > 12
    assert weight[[3, 20]].tolist() == [1.0, 1.0]
    assert sorted(drawn.partner.tolist()) == list(range(32))


def test_a_mixup_row_is_the_weighted_sum() -> None:
    spec, present = MixSpec(kind="mixup", p=1.0, group=4), torch.tensor([True, True, False, True] * 3)
    drawn = mixing.draw(spec, "image", present, offset=0, seed=0, step=0)
    x = pictures(12)
    made, weight = mixing.mixed(spec, x[present], drawn, present)
    for place, row in enumerate(present.nonzero()[:, 0].tolist()):
        expected = weight[row] * x[row] + (1 - weight[row]) * x[drawn.partner[row]]
        torch.testing.assert_close(made[place], expected)
    assert (weight < 1).any()


def test_any_number_of_processes_draws_the_same() -> None:
    spec, present = MixSpec(group=4), torch.rand(24) < 0.8
    whole = mixing.draw(spec, "image", present, 0, seed=3, step=9)
    parts = [mixing.draw(spec, "image", present[o : o + 8], o, seed=3, step=9) for o in (0, 8, 16)]
    assert torch.equal(whole.partner, torch.cat([p.partner + o for p, o in zip(parts, (0, 8, 16), strict=True)]))
    assert torch.equal(whole.boxes, torch.cat([p.boxes for p in parts]))
    assert not torch.equal(whole.boxes, mixing.draw(spec, "image", present, 0, seed=3, step=10).boxes)
    mixing.check_blocks({"image": spec}, 24, 3)
    with pytest.raises(MmclError, match="not whole groups of 4"):
        mixing.check_blocks({"image": spec}, 24, 5)


def test_targets_follow() -> None:
    """A tower that averages pixels sees mixtures; the record says of what."""
    spec, rows = MixSpec(kind="mixup", p=1.0, group=4), 8
    present = {m: torch.ones(rows, dtype=torch.bool) for m in ("image", "text")}
    batch = Batch({}, present, [str(i) for i in range(rows)], torch.arange(rows), rows, 0, [])
    drawn = mixing.draw(spec, "image", present["image"], 0, seed=0, step=0)
    torch.manual_seed(0)
    image, text = torch.randn(rows, 4), torch.randn(rows, 4)
    made, weight = mixing.mixed(spec, image, drawn, present["image"])
    vectors, mixtures = {"image": made, "text": text}, {"image": (drawn.partner, weight)}
    e = gathered(vectors, batch, ("image", "text"), 4, torch.device("cpu"), {}, mixtures)
    a, b = (torch.nn.functional.normalize(x, dim=1) for x in (made, text))
    z = a @ b.T / 0.1
    target = torch.diag(weight)
    target[torch.arange(rows), drawn.partner] += 1 - weight
    expected = -(target * (z.log_softmax(1) + z.log_softmax(0))).sum() / (2 * rows)
    found = mmcl.objective({"temperature": 0.1})(e).total
    torch.testing.assert_close(found, expected)


def test_weights_are_shares_of_what_matters_and_is_seen() -> None:
    """Two patches high and four wide: pixels and patches counted one by one."""
    spec, present = MixSpec(p=1.0, group=4), torch.ones(8, dtype=torch.bool)
    drawn = mixing.draw(spec, "image", present, offset=0, seed=1, step=2)
    generator = torch.Generator().manual_seed(0)
    matter = torch.rand(8, 2, 4, generator=generator).flatten(1).softmax(1).view(8, 2, 4)
    made, weight = mixing.mixed(spec, pictures(8), drawn, present, matter)
    for row in range(8):
        own = other = 0.0
        for y in range(10):
            for x in range(20):
                patch = y // 5, x // 5
                if made[row, 0, y, x] == row:
                    own += float(matter[row][patch]) / 25
                else:
                    other += float(matter[drawn.partner[row]][patch]) / 25
        assert float(weight[row]) == pytest.approx(own / (own + other), abs=1e-5)
    assert (weight < 0.95).any()
    _, areas = mixing.mixed(spec, pictures(8), drawn, present)
    _, even = mixing.mixed(spec, pictures(8), drawn, present, torch.full((8, 2, 4), 1 / 8))
    torch.testing.assert_close(even, areas)


def test_what_matters_is_what_a_patch_has_of_the_text() -> None:
    torch.manual_seed(0)
    image = Vit(16, 8, width=8, layers=1, heads=2, pool="avg", patch_dropout=0.5, dim=4)
    model = MultiTower({"image": Tower(image), "text": Tower(Words())}, 4).train()
    rows = {"image": torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8), "text": torch.randn(3, 4)}
    present = {"image": torch.tensor([True, False, True, True]), "text": torch.tensor([True, True, False, True])}
    before = torch.get_rng_state()
    found = mixing.matters(model, rows, present, "image", "text")
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert image.training
    assert not found.requires_grad
    patches = image.eval().patches(rows["image"])
    torch.testing.assert_close(patches.mean((1, 2)), image(rows["image"]))  # the whole is the mean of its patches
    for row in (1, 2):
        torch.testing.assert_close(found[row], torch.full((2, 2), 0.25))
    for row, picture, text in ((0, 0, 0), (3, 2, 2)):
        cosines = torch.stack([p @ rows["text"][text] / p.norm() for p in patches[picture].flatten(0, 1)])
        expected = (cosines / rows["text"][text].norm() / 0.1).softmax(0).view(2, 2)
        torch.testing.assert_close(found[row], expected)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["", ", by: text"])
def test_a_run_with_mixed_pictures_goes_on_as_it_would_have(
    tmp_path: Path, tiny: Callable[..., Recipe], by: str
) -> None:
    common = ["objective=clip", "tasks=[]", "training.checkpoint_every_steps=4", "training.keep_checkpoints=9"]
    more = [*common, f"data.mix={{image: {{kind: cutmix, p: 0.9, group: 8{by}}}}}"]

    def last(run: Path) -> Path:
        return run / "checkpoints" / "step-00000008"

    plain = mmcl.train(tiny(tmp_path / "plain", *common))
    whole = mmcl.train(tiny(tmp_path / "whole", *more))
    weights = [(last(run) / "weights.safetensors").read_bytes() for run in (plain, whole)]
    assert weights[0] != weights[1]
    shutil.copytree(whole, tmp_path / "cut")
    shutil.rmtree(last(tmp_path / "cut"))
    mmcl.train(tiny(tmp_path / "cut", *more), resume=True)
    assert (last(tmp_path / "cut") / "weights.safetensors").read_bytes() == weights[1]


def test_what_cannot_be_mixed_is_refused(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    mix: Any = "data.mix={image: {group: 8}}"
    for objective, message in (("siglip", "sigmoid has one target a row"), ("align_uniform", "no targets to be mixed")):
        with pytest.raises(MmclError, match=message):
            tiny(tmp_path, mix, f"objective={objective}")
    with pytest.raises(MmclError, match="mixup mixes pictures all over"):
        tiny(tmp_path, "data.mix={image: {kind: mixup, by: text}}")
    with pytest.raises(MmclError, match="data.mix.image.by: it must name another one of"):
        tiny(tmp_path, "data.mix={image: {by: image}}")
    with pytest.raises(MmclError, match="data.mix.audio: it is not among"):
        tiny(tmp_path, "data.mix={audio: {}}")
    recipe = tiny(tmp_path, "data.mix={text: {group: 8}}", "objective=clip")
    with pytest.raises(MmclError, match="cutmix mixes pictures, and this is text"):
        Trainer(copy.copy(recipe), mmcl.runs.Run(tmp_path / "r"), lambda _: {})
