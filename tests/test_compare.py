"""Several models on several tasks: what is read first, what may be left out, and what is said."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmcl.cli import main
from mmcl.compare import compare, load_tasks
from mmcl.data import Source, write_shards
from mmcl.embed import embed_shards
from mmcl.errors import MissingDataError, MmclError
from tests.small_model import encoder
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


def test_ready_vectors_are_of_one_model_and_of_no_other(shards: Path, tmp_path: Path, monkeypatch: Any) -> None:
    small, other = encoder(tmp_path), encoder(tmp_path)
    with torch.no_grad():
        next(other.model.parameters()).add_(1)
    source = Source(shards=str(shards), modalities={"picture": "png", "caption": "txt"})
    embed_shards(small, source, tmp_path / "out", part_size=10, batch_size=5)
    opened = {"small": small, "other": other}
    monkeypatch.setattr("mmcl.compare.load", lambda model, *_: opened[model])
    tasks = load_tasks([written(tmp_path / "t.yaml", shards)])
    (found,) = compare(["small"], tasks, embeddings=tmp_path / "out")
    (alone,) = compare([], tasks, embeddings=tmp_path / "out")
    assert dict(found.result) == dict(alone.result)
    with pytest.raises(MmclError, match="these vectors were not made by other"):
        list(compare(["other"], tasks, embeddings=tmp_path / "out"))
    with pytest.raises(MmclError, match="vectors are of one model, and 2 are named"):
        list(compare(["small", "other"], tasks, embeddings=tmp_path / "out"))


def test_what_was_measured_before_a_model_failed_is_there(shards: Path, tmp_path: Path, monkeypatch: Any) -> None:
    small = encoder(tmp_path)

    def load(model: str, *_: Any) -> Any:
        if model == "gone":
            raise MmclError("gone is no run folder")
        return small

    monkeypatch.setattr("mmcl.compare.load", load)
    monkeypatch.setattr("mmcl.opening.form_of", lambda model: None)
    monkeypatch.setenv("MMCL_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "below" / "found.json"
    with pytest.raises(SystemExit) as ended:
        main(["eval", "small", "gone", "--on", written(tmp_path / "t.yaml", shards), "--json", "--out", str(out)])
    assert ended.value.code == 2
    assert json.loads(out.read_text())[str(tmp_path / "t.yaml")]["n"] == 20


def test_a_suite_of_ones_own(shards: Path, tmp_path: Path) -> None:
    one, two = written(tmp_path / "one.yaml", shards), written(tmp_path / "two.yaml", shards)
    (tmp_path / "suite.yaml").write_text(f"title: mine\ntasks: ['{one}', '{two}', '{one}']\n")
    assert [task.name for task in load_tasks([str(tmp_path / "suite.yaml")])] == [one, two]
