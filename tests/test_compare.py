"""Several models on several tasks: what is read first, what may be left out, and what is said."""

from pathlib import Path
from typing import Any

import pytest

from mmcl.compare import load_tasks
from mmcl.data import write_shards
from mmcl.errors import MissingDataError, MmclError
from tests.tasks.conftest import LABELLED, PAIRS, RETRIEVAL, ZEROSHOT, sample


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards."""
    write_shards([sample(number) for number in range(20)], tmp_path / "shards", 10)
    return tmp_path / "shards"


def written(path: Path, shards: Any, evaluator: str = RETRIEVAL, data: str = PAIRS) -> str:
    path.write_text(f"title: t\nevaluator: {evaluator}\ndata: {{shards: {shards}, {data}}}\n")
    return str(path)


def test_tasks_without_data_may_be_left_out_and_are_told(shards: Path, tmp_path: Path) -> None:
    there, gone = written(tmp_path / "there.yaml", shards), written(tmp_path / "gone.yaml", tmp_path / "nowhere")
    with pytest.raises(MissingDataError, match="nowhere"):
        load_tasks([there, gone])
    said: list[str] = []
    assert [task.name for task in load_tasks([there, gone], skip_missing=True, say=said.append)] == [there]
    assert said == [f"note: the data of 1 tasks are not there, and these are left out: {gone}."]
    with pytest.raises(MmclError, match="no task is left"):
        load_tasks([gone], skip_missing=True, say=said.append)


def test_nothing_else_is_left_out(shards: Path, tmp_path: Path) -> None:
    """A part of the shards, labels that are no classes, a folder without a file that the layout needs."""
    part = written(tmp_path / "part.yaml", f"['{shards}/00000.tar', '{shards}/00007.tar']")
    with pytest.raises(MmclError, match="1 of 2 shards"):
        load_tasks([part], skip_missing=True)
    wrong = written(tmp_path / "wrong.yaml", shards, ZEROSHOT.replace("{greek", "{hebrew"), LABELLED)
    with pytest.raises(MmclError, match="not among the 3 classes: greek"):
        load_tasks([wrong], skip_missing=True)
    layout = tmp_path / "layout.yaml"
    (tmp_path / "esc50" / "meta").mkdir(parents=True)
    layout.write_text(
        f"title: t\nevaluator: {ZEROSHOT}\nroot: {tmp_path / 'esc50'}\n"
        "data: {layout: esc50, modalities: {picture: wav, label: cls}}\n"
    )
    with pytest.raises(MmclError, match=r"meta/esc50\.csv"):
        load_tasks([str(layout)], skip_missing=True)


def test_labels_are_read_before_any_model_is_opened(shards: Path, tmp_path: Path) -> None:
    wrong = written(tmp_path / "wrong.yaml", shards, ZEROSHOT.replace("{greek", "{hebrew"), LABELLED)
    with pytest.raises(MmclError, match="labels of the data"):
        load_tasks([written(tmp_path / "there.yaml", shards), wrong])
