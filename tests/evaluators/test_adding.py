"""The evaluator of docs/adding.md, registered as it stands there, measures a task with an interval."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mmcl.data import write_shards
from mmcl.evaluators import EVALUATORS
from mmcl.model import Encoder
from mmcl.tasks import load_task
from tests.small_model import encoder
from tests.tasks.conftest import PAIRS, sample

DOCS = Path(__file__).parents[2] / "docs" / "adding.md"


@pytest.fixture
def registered() -> Any:
    """The class, for this test alone."""
    (code,) = [
        block.partition("```")[0] for block in DOCS.read_text().split("```python\n") if "class Agreement" in block
    ]
    scope: dict[str, Any] = {}
    exec(code, scope)
    yield scope["Agreement"]
    del EVALUATORS.classes["agreement"], EVALUATORS._specs["agreement"]


def test_it_is_a_line_of_a_task(registered: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMCL_CACHE", str(tmp_path / "cache"))
    write_shards([sample(number) for number in range(20)], tmp_path / "shards", 10)
    (tmp_path / "t.yaml").write_text(
        "title: t\nevaluator: {name: agreement, modalities: [caption, picture], above: 0.0}\n"
        f"data: {{shards: '{tmp_path / 'shards'}', {PAIRS}}}\n"
    )
    small: Encoder = encoder(tmp_path)
    measured = load_task(str(tmp_path / "t.yaml")).measure(small, with_intervals=True)
    cosines = (measured.data.vectors["caption"] * measured.data.vectors["picture"]).sum(1)
    assert measured.result.headline == pytest.approx((cosines > 0).double().mean().item())
    assert 0 < measured.result.headline < 1
    assert measured.result.interval("agreement") is not None
    assert torch.isfinite(torch.tensor(measured.result.interval("agreement"))).all()
