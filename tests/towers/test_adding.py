"""The tower of docs/adding.md, registered as it stands there, is a recipe line."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor

import mmcl
from mmcl import workflow
from mmcl.errors import MmclError
from mmcl.media import ImageTransform
from mmcl.recipe import Recipe
from mmcl.towers import TOWERS, Backbone

DOCS = Path(__file__).parents[2] / "docs" / "adding.md"


@pytest.fixture
def colour() -> Iterator[None]:
    (code,) = [c for c in re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.M | re.S) if "(Backbone)" in c]
    names: dict[str, Any] = {
        "Annotated": Annotated, "Backbone": Backbone, "F": F, "Field": Field, "Float": Float, "MmclError": MmclError,
        "ImageTransform": ImageTransform, "TOWERS": TOWERS, "Tensor": Tensor, "UInt8": UInt8, "torch": torch,
        "__name__": "colour",
    }  # fmt: skip
    exec(compile(code, str(DOCS), "exec"), names)
    yield
    del TOWERS.classes["colour"], TOWERS._specs["colour"]


@pytest.mark.usefixtures("colour")
def test_the_tower_in_it_trains(tiny: Callable[..., Recipe], tmp_path: Path, glyphs: Any) -> None:
    recipe = tiny(tmp_path / "run", "towers.image={name: colour, grid: 8, size: 48, head: mlp}")
    encoder = mmcl.load(workflow.train(recipe))
    tower = encoder.model.tower("image")
    assert tower.backbone.width == 6 * 64
    assert not tower.varies
    pixels = torch.randint(0, 256, (3, 3, 48, 48), dtype=torch.uint8)
    cells = pixels.float().div(255).unflatten(2, (8, 6)).unflatten(4, (8, 6))  # batch, channel, row, y, column, x
    spread, mean = (f(cells, dim=(3, 5)) for f in (lambda x, dim: x.std(dim, correction=0), torch.mean))
    expected = torch.cat([mean.flatten(1), spread.flatten(1)], 1)
    torch.testing.assert_close(tower.backbone(pixels), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(MmclError, match="size 64 is no multiple of grid 5"):
        TOWERS.check({"name": "colour", "grid": 5}).build(dim=4)
