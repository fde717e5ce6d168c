"""Vectors from the cache: nothing is embedded twice, and no changed model or shard meets what is not its own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmcl.model import Encoder
from mmcl.tasks import Result, VectorStore, load_task
from tests.small_model import encoder
from tests.tasks.conftest import LABELLED, PAIRS, RETRIEVAL, ZEROSHOT, Write, sample


class Counted(Encoder):
    """Counts the rows that it embeds, but for probes (which come one by one)."""

    rows_seen = 0

    def embed_rows(self, modality: str, rows: torch.Tensor) -> torch.Tensor:
        self.rows_seen += len(rows) if len(rows) > 1 else 0
        return super().embed_rows(modality, rows)


def measured(path: Path, model: Encoder) -> tuple[Result, int]:
    """The result, and how many rows were embedded."""
    counted = Counted(model.model)
    return load_task(str(path)).measure(counted, VectorStore()).result, counted.rows_seen


@pytest.fixture
def tasks(samples: list[Any], task: Write) -> tuple[Path, Path]:
    """Retrieval and classification over the same shards."""
    first = task(samples, RETRIEVAL, PAIRS)
    second = first.with_name("second.yaml")
    shards = first.parent / "shards" / "task"
    second.write_text(f"title: t\nevaluator: {ZEROSHOT}\ndata: {{shards: '{shards}', {LABELLED}}}\n")
    return first, second


def test_a_second_task_on_the_same_data_embeds_nothing_but_its_prompts(
    small: Encoder, tasks: tuple[Path, Path]
) -> None:
    first, second = tasks
    result, rows = measured(first, small)
    assert rows == 60
    assert measured(first, small) == (result, 0)
    assert measured(second, small)[1] == 6  # three classes, two templates
    assert dict(result) == dict(load_task(str(first)).measure(small).result)


def test_many_prompts_are_embedded_once(small: Encoder, samples: list[Any], task: Write) -> None:
    many = ZEROSHOT.replace("['{c}', 'a {c}']", str([f"{{c}} {i}" for i in range(100)]))
    path = task(samples, many, LABELLED)
    result, rows = measured(path, small)
    assert rows == 30 + 300
    assert measured(path, small) == (result, 0)
    assert dict(result) == dict(load_task(str(path)).measure(small).result)


def test_another_tokenizer_is_another_model(tasks: tuple[Path, Path], tmp_path: Path) -> None:
    """One that makes the same of a probe, whose words it does not know, and other tokens of the captions."""
    model = encoder(tmp_path)
    measured(tasks[0], model)
    transform = model.model.tower("caption").transform(False)
    before = type(transform).__call__

    def turned(self: Any, value: Any, draw: Any, out: torch.Tensor) -> None:
        before(self, value.replace("greek", "latin"), draw, out)

    other = Counted(model.model)
    changed = type(type(transform).__name__, (type(transform),), {"__call__": turned})
    other.transforms["caption"].__class__ = changed
    result = load_task(str(tasks[0])).measure(other, VectorStore()).result
    assert other.rows_seen == 30
    assert dict(result) == dict(load_task(str(tasks[0])).measure(other).result)


def test_other_captions_are_not_those_of_before(small: Encoder, task: Write) -> None:
    samples = [sample(number, 2) for number in range(12)]
    one = PAIRS.replace("txt", "'txt:lines'")
    path = task(samples, RETRIEVAL, f"{one}, captions: first")
    measured(path, small)
    path.write_text(path.read_text().replace("captions: first", "captions: all"))
    assert measured(path, small)[1] == 24  # the pictures are there, but not both captions


def test_changed_weights_are_another_model(small: Encoder, tasks: tuple[Path, Path], tmp_path: Path) -> None:
    result, _ = measured(tasks[0], small)
    other = encoder(tmp_path)
    with torch.no_grad():
        weight = next(p for p in other.model.tower("picture").parameters() if p.ndim > 1)
        weight[0, 0] += 1
    changed, rows = measured(tasks[0], other)
    assert rows == 30  # the text tower is the same
    assert dict(changed) == dict(load_task(str(tasks[0])).measure(other).result)
    assert changed != result


class Turned(nn.Module):
    """A module without weights, whose name and settings say nothing of what it does."""

    def __init__(self, inner: nn.Module, turn: bool) -> None:
        super().__init__()
        self.inner, self.turn = inner, turn

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        vectors = self.inner(rows)
        return vectors.roll(1, -1) if self.turn else vectors


def test_a_setting_that_no_weight_shows_is_another_model(tasks: tuple[Path, Path], tmp_path: Path) -> None:
    model = encoder(tmp_path)
    tower = model.model.tower("picture")
    turned = Turned(tower.head, False)
    tower.head = turned
    measured(tasks[0], model)
    assert measured(tasks[0], model)[1] == 0
    turned.turn = True
    changed, rows = measured(tasks[0], model)
    assert rows == 30
    assert dict(changed) == dict(load_task(str(tasks[0])).measure(model).result)


def test_another_preparation_is_another_model(small: Encoder, tasks: tuple[Path, Path], tmp_path: Path) -> None:
    measured(tasks[0], small)
    other = Counted(encoder(tmp_path).model)
    other.transforms["picture"].size = 32  # type: ignore[attr-defined]
    other.transforms["picture"].mode = "changed"  # type: ignore[attr-defined]
    load_task(str(tasks[0])).measure(other, VectorStore())
    assert other.rows_seen == 30


def test_changed_shards_are_other_shards(small: Encoder, samples: list[Any], tasks: tuple[Path, Path]) -> None:
    measured(tasks[0], small)
    shard = tasks[0].parent / "shards" / "task" / "00000.tar"
    content = bytearray(shard.read_bytes())
    where = content.index(samples[0]["txt"].encode())
    content[where : where + 4] = b"beta"  # no size and no offset is another
    shard.write_bytes(content)
    changed, rows = measured(tasks[0], small)
    assert rows == 60
    assert dict(changed) == dict(load_task(str(tasks[0])).measure(small).result)


def test_a_damaged_file_is_made_again(small: Encoder, tasks: tuple[Path, Path]) -> None:
    result, _ = measured(tasks[0], small)
    files = sorted(VectorStore().folder.glob("*/*.safetensors"))
    assert len(files) == 2
    files[0].write_bytes(files[0].read_bytes()[:100])
    assert measured(tasks[0], small) == (result, 30)


def test_bad_samples_are_remembered(small: Encoder, samples: list[Any], task: Write) -> None:
    samples[7]["png"] = b"no picture"
    path = task(samples, RETRIEVAL, PAIRS)
    first, _ = measured(path, small)
    again, rows = measured(path, small)
    assert rows == 0
    assert again.about["skipped"] == first.about["skipped"]
    assert again.about["skipped"]["bad"][0]["key"] == "0007"


def test_the_folder_holds_no_more_than_it_may(small: Encoder, tasks: tuple[Path, Path]) -> None:
    store = VectorStore(gigabytes=3e-6)  # one column
    load_task(str(tasks[0])).measure(small, store)
    assert len(list(store.folder.glob("*/*.safetensors"))) == 1
    assert not list(store.folder.glob("*/*.partial"))


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(
    small: Encoder, tasks: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    store = VectorStore(tmp_path / "file" / "below")
    assert load_task(str(tasks[0])).measure(small, store).result["n"] == 30


def test_a_folder_that_can_only_be_read_is_read(
    small: Encoder, tasks: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = measured(tasks[0], small)

    def refused(path: Path) -> None:
        raise PermissionError

    monkeypatch.setattr("mmcl.tasks.store.os.utime", refused)
    assert measured(tasks[0], small) == (result, 0)


def test_a_disk_that_is_full_leaves_nothing_half_written(
    small: Encoder, tasks: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmcl.tasks.store.save", full)
    assert measured(tasks[0], small)[0]["n"] == 30
    assert not [path for path in VectorStore().folder.rglob("*") if path.is_file()]
