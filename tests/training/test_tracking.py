"""Trackers have the numbers of metrics.jsonl, go on where a run goes on, and never end one."""

import importlib.util
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

import mmcl
from mmcl.errors import MmclError
from mmcl.recipe import Recipe
from mmcl.training import tracking

STEPS, SAVED = 8, 5


def rows(run: Path) -> dict[str, dict[int, float]]:
    """Name -> step -> number, of metrics.jsonl."""
    found: dict[str, dict[int, float]] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        for name in row.keys() - {"step", "evaluated"}:
            found.setdefault(name, {})[row["step"]] = row[name]
    return found


@pytest.fixture
def stopped(tmp_path: Path, tiny: Callable[..., Recipe], task: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trains a run with a tracker, killed after step 7 with a checkpoint of step 5, to its end."""

    def make(tracker: str) -> Path:
        run = tmp_path / "runs" / "mine"
        words = [f"tasks=['{task}']", f"training.checkpoint_every_steps={SAVED}", "training.eval_every_steps=4"]
        recipe = tiny(run, f"training.trackers=[{tracker}]", *words)
        write = tracking.Tracked.write

        def dying(self: tracking.Tracked, row: dict[str, float]) -> None:
            write(self, row)
            if row["step"] == SAVED + 2:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(tracking.Tracked, "write", dying)
            with pytest.raises(KeyboardInterrupt):
                mmcl.train(recipe)
        return mmcl.train(recipe, resume=True)

    return make


def test_tensorboard_has_every_number_once(stopped: Callable[[str], Path]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = stopped("tensorboard")
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    expected = rows(run)
    assert set(events.Tags()["scalars"]) == set(expected)
    for name, numbers in expected.items():
        scalars = events.Scalars(name)
        assert [event.step for event in scalars] == list(numbers)
        assert [event.value for event in scalars] == pytest.approx(list(numbers.values()), rel=1e-6)
    assert sum(name.endswith("/recall@1") for name in expected) == 2


@pytest.mark.slow
def test_trackio_goes_on_with_the_same_run(
    stopped: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    from trackio.sqlite_storage import SQLiteStorage

    run = stopped("trackio")
    who = f"mine-{json.loads((run / 'tracking.json').read_text())['id']}"
    assert who in SQLiteStorage.get_runs(tracking.PROJECT)
    logged = SQLiteStorage.get_logs(tracking.PROJECT, who)
    expected = rows(run)
    for name, numbers in expected.items():
        found = {row["step"]: row[name] for row in logged if name in row}
        assert found == pytest.approx(numbers), name
    assert (tmp_path / "trackio").is_dir()


def records(content: bytes) -> Iterator[bytes]:
    """Those of wandb's file, in the form of leveldb's log: parts in blocks of 32 kB, each behind 7 bytes."""
    assert content[:4] == b":W&B"
    place, whole = 7, b""
    while place < len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
        _, length, kind = struct.unpack_from("<IHB", content, place)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


@pytest.mark.slow
def test_wandb_has_every_number(
    tmp_path: Path, tiny: Callable[..., Recipe], task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = mmcl.train(tiny(tmp_path / "mine", "training.trackers=[wandb]", f"tasks=['{task}']"))
    (file,) = (run / "wandb").glob("offline-run-*/run-*.wandb")
    found: dict[str, dict[int, float]] = {}
    who = []
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        if record.HasField("run"):
            who.append((record.run.project, record.run.display_name, record.run.run_id))
        for name in items.keys() - {"_step", "_runtime", "_timestamp"}:
            found.setdefault(name, {})[items["_step"]] = items[name]
    assert who[0] == (tracking.PROJECT, "mine", json.loads((run / "tracking.json").read_text())["id"])
    expected = rows(run)
    assert found.keys() == expected.keys()
    for name, numbers in expected.items():
        assert found[name] == pytest.approx(numbers), name


class Recorded(GeneralTracker):
    """A tracker that keeps what it is told, and breaks when it is told to."""

    name, requires_logging_directory, tracker = "wandb", False, None
    made: list["Recorded"] = []
    breaks_at: int | None = None

    def __init__(self, project: str, **said: Any) -> None:
        super().__init__()
        self.project, self.said, self.rows, self.config, self.finished = project, said, [], {}, False
        Recorded.made.append(self)

    def start(self) -> None:
        pass

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, Any], step: int) -> None:
        if self.breaks_at is not None and step >= self.breaks_at:
            raise ConnectionError("server gone")
        self.rows.append((step, values))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> type[Recorded]:
    Recorded.made, Recorded.breaks_at = [], None
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Recorded)
    monkeypatch.setattr(tracking, "check_installed", lambda names: None)
    return Recorded


def test_the_recipe_is_told_and_the_run_is_known_by_its_folder(
    tmp_path: Path, tiny: Callable[..., Recipe], recorded: type[Recorded]
) -> None:
    run = mmcl.train(tiny(tmp_path / "mine", "training.trackers=[wandb]"))
    (tracker,) = recorded.made
    assert (tracker.project, tracker.said["name"], tracker.said["resume"]) == (tracking.PROJECT, "mine", "allow")
    assert tracker.config["data.batch_size"] == 32
    assert tracker.config["towers.image.name"] == "vit"
    assert [step for step, _ in tracker.rows] == [*range(1, STEPS + 1), STEPS]
    assert tracker.finished
    assert rows(run)["loss"] == {step: values["loss"] for step, values in tracker.rows if "loss" in values}


def test_a_tracker_that_breaks_is_told_once_and_the_run_goes_on(
    tmp_path: Path, tiny: Callable[..., Recipe], recorded: type[Recorded], capsys: pytest.CaptureFixture[str]
) -> None:
    recorded.breaks_at = 3
    run = mmcl.train(tiny(tmp_path / "mine", "training.trackers=[wandb]"))
    said = capsys.readouterr().err
    assert said.count("wandb failed at step 3") == 1
    assert "ConnectionError: server gone" in said
    assert len(rows(run)["loss"]) == STEPS
    assert [step for step, _ in recorded.made[0].rows] == [1, 2]


def test_a_tracker_that_is_not_installed_is_told_before_anything_begins(
    tmp_path: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(tracking, "find_spec", lambda name: None if name == "wandb" else find(name))
    with pytest.raises(MmclError, match=r"wandb is not installed: pip install 'mmcl\[wandb\]'"):
        mmcl.train(tiny(tmp_path / "mine", "training.trackers=[wandb]"))
    assert not (tmp_path / "mine").exists()


def test_a_tracker_is_named_once(tmp_path: Path, tiny: Callable[..., Recipe]) -> None:
    with pytest.raises(MmclError, match="each of them once"):
        tiny(tmp_path / "mine", "training.trackers=[wandb, wandb]")
