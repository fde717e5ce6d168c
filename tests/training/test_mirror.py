"""A run whose machine is gone goes on from its mirror, bit for bit; a mirror is whole at any instant."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pytest
import torch

from mmcl import checkpoints, workflow
from mmcl.data.remote import Patience, copies, download, names_below, remove, upload
from mmcl.errors import MmclError, StoppedError
from mmcl.recipe import Recipe, dump_yaml
from mmcl.runs import Run
from mmcl.training import mirror
from mmcl.training.mirror import Mirror, fetch
from tests.training.test_resume import same
from tests.training.test_stops import signal_at

URL = "memory://bucket/runs/mine"
QUICK = Patience(attempts=2, timeout=5, backoff=0.01)
MIRRORED = [f"training.mirror={URL}", "training.checkpoint_every_steps=2"]


@pytest.fixture(autouse=True)
def memory() -> Iterator[Any]:
    """A store that is empty."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "PATIENCE", QUICK)


def whatever(run: Run) -> None:
    """Lets any run go on."""


def shown(folder: Path) -> dict[str, bytes]:
    """Files of a run that are not hidden."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not Path(name).name.startswith(".")}


def there(system: Any) -> dict[str, bytes]:
    return {name: system.cat_file(f"/bucket/runs/mine/{name}") for name in names_below(URL)}


def written(run: Run, *steps: int, keep: int = 2) -> None:
    """Checkpoints of some steps, and rows up to them."""
    run.path.mkdir(exist_ok=True)
    (run.path / "recipe.yaml").write_text("run: x")
    for step in steps:
        with run.metrics.open("a") as file:
            file.write(json.dumps({"step": step}) + "\n")
        checkpoints.write(
            run.checkpoints, step, {"weights": {"x": torch.full((3,), float(step))}}, {"step": step}, keep
        )


def test_the_copy_is_the_run_and_goes_on_bit_for_bit(
    tmp_path: Path,
    tiny: Callable[..., Recipe],
    memory: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected, run = workflow.train(tiny(tmp_path / "whole", "training.checkpoint_every_steps=2")), tmp_path / "run"
    with monkeypatch.context() as patch:
        signal_at(patch, 4, signal.SIGTERM)
        with pytest.raises(StoppedError, match="stopped after step 5 of 8"):
            workflow.train(tiny(run, *MIRRORED))
    assert there(memory) == shown(run)
    assert [path.name for path in checkpoints.listed(run / "checkpoints")] == ["step-00000004", "step-00000005"]
    shutil.rmtree(run)
    workflow.train(tiny(run, *MIRRORED), resume=True)
    assert f"was fetched from {URL}, step 5" in capsys.readouterr().err
    same(run, expected)
    assert there(memory) == shown(run)


@pytest.mark.slow
def test_at_any_instant_the_newest_checkpoint_is_whole(
    tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine is gone after any number of requests that change the copy; one that tries again mends it."""
    run = Run(tmp_path / "run")
    written(run, 1, 2)
    Mirror(URL, run, QUICK).finish()
    begun = dict(memory.store)
    written(run, 3, 4)
    (run.checkpoints / "best.json").write_text('{"step": 4}')
    seen: list[int] = []
    for allowed in range(100):
        memory.store.clear()
        memory.store.update({name: file for name, file in begun.items()})
        left = iter(range(allowed))

        def counted(do: Callable[..., None], left: Iterator[int] = left) -> Callable[..., None]:
            def one(*args: Any) -> None:
                if next(left, None) is None:
                    raise MmclError("the machine is gone")
                do(*args)

            return one

        with monkeypatch.context() as patch:
            patch.setattr(mirror, "upload", counted(upload))
            patch.setattr(mirror, "remove", counted(remove))
            with contextlib.suppress(MmclError):
                Mirror(URL, run, QUICK).finish()
        other = Run(tmp_path / f"other-{allowed}")
        assert fetch(URL, other, whatever, resume=True, patience=QUICK) is not None
        found = checkpoints.latest(other.checkpoints)
        assert found is not None
        step = found.state["step"]
        assert torch.equal(found.tensors("weights")["x"], torch.full((3,), float(step)))
        assert json.loads(other.metrics.read_text().splitlines()[-1])["step"] >= step
        assert not list(other.path.rglob("*.partial"))
        seen.append(step)
        Mirror(URL, run, QUICK).finish()
        assert there(memory) == shown(run.path)
        if next(left, None) is not None:  # nothing failed
            break
    assert len(seen) > 8
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (2, 4)


def test_a_checkpoint_of_the_same_step_that_differs_is_sent_again(tmp_path: Path, memory: Any) -> None:
    run = Run(tmp_path / "run")
    written(run, 1, 2)
    Mirror(URL, run, QUICK).finish()
    checkpoints.write(run.checkpoints, 2, {"weights": {"x": torch.zeros(3)}}, {"step": 2}, 2)
    Mirror(URL, run, QUICK).finish()
    assert there(memory) == shown(run.path)


def test_a_checkpoint_that_goes_while_it_is_sent_is_left_out(
    tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "run")
    written(run, 1, 2)

    def late(file: Path, url: str, patience: Patience) -> None:
        if file.parent.name == "step-00000001" and file.parent.exists():
            shutil.rmtree(file.parent)
        upload(file, url, patience)

    monkeypatch.setattr(mirror, "upload", late)
    Mirror(URL, run, QUICK).finish()
    assert there(memory) == shown(run.path)
    assert "checkpoints/step-00000002/checksums.json" in there(memory)


def test_a_fetch_that_is_killed_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, other = Run(tmp_path / "run"), Run(tmp_path / "other")
    written(run, 1, 2)
    Mirror(URL, run, QUICK).finish()
    for allowed in range(len(names_below(URL))):
        left = iter(range(allowed))

        def broken(url: str, file: Path, patience: Patience, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            download(url, file, patience)

        with monkeypatch.context() as patch:
            patch.setattr(mirror, "download", broken)
            with pytest.raises(KeyboardInterrupt):
                fetch(URL, other, whatever, resume=True, patience=QUICK)
        assert not other.path.exists()
    assert fetch(URL, other, whatever, resume=True, patience=QUICK) is not None
    assert shown(other.path) == shown(run.path)
    assert fetch(URL, other, whatever, resume=True, patience=QUICK) is None  # another process of the machine


@pytest.mark.slow
def test_a_run_that_had_no_checkpoint_yet_begins_again_on_another_machine(
    tmp_path: Path, tiny: Callable[..., Recipe], memory: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = workflow.train(tiny(tmp_path / "run", *MIRRORED))
    for path in memory.find("/bucket/runs/mine/checkpoints"):
        memory.rm_file(path)
    shutil.rmtree(run)
    with pytest.raises(MmclError, match=r"holds a run already \(step 0\)"):
        workflow.train(tiny(run, *MIRRORED))
    workflow.train(tiny(run, *MIRRORED), resume=True)
    assert "has no checkpoint to resume from; the run starts from the beginning" in capsys.readouterr().err
    assert there(memory) == shown(run)


def test_copies_that_are_not_this_run_are_refused(tmp_path: Path, tiny: Callable[..., Recipe], memory: Any) -> None:
    run = workflow.train(tiny(tmp_path / "run", *MIRRORED))
    before = there(memory)
    with pytest.raises(MmclError, match=r"holds a run already \(step 8\), and a run is never overwritten.*--resume"):
        workflow.train(tiny(tmp_path / "new", *MIRRORED))
    other = workflow.train(tiny(tmp_path / "other"))
    with pytest.raises(MmclError, match=r"runs/mine holds another run, which would be mixed"):
        workflow.train(tiny(other, *MIRRORED, "training.samples=320"), resume=True)
    shutil.copytree(run, tmp_path / "behind")
    shutil.rmtree(tmp_path / "behind" / "checkpoints" / "step-00000008")
    with pytest.raises(MmclError, match=r"holds step 8 of this run, and .*behind only step 6\. To go on from there"):
        workflow.train(tiny(tmp_path / "behind", *MIRRORED), resume=True)
    with pytest.raises(MmclError, match=r"not to go on so: .*/wide was made with another recipe: dim differ"):
        workflow.train(tiny(tmp_path / "wide", *MIRRORED, "dim=8"), resume=True)
    assert not (tmp_path / "wide").exists()
    memory.pipe("/bucket/else/mine.txt", b"dear diary")
    with pytest.raises(MmclError, match=r"holds files that are no copy of a run"):
        workflow.train(tiny(tmp_path / "fresh", "training.mirror=memory://bucket/else"))
    (tmp_path / "file").write_text("")
    with pytest.raises(MmclError, match=r"cannot be written: File exists|cannot be a folder"):
        workflow.train(tiny(tmp_path / "file" / "run", *MIRRORED), resume=True)
    assert there(memory) == before


def test_a_run_below_another_one_s_copy_stays_as_it_is(tmp_path: Path, memory: Any) -> None:
    above, below = Run(tmp_path / "above"), Run(tmp_path / "below")
    for run, url in ((above, "memory://bucket/runs"), (below, URL)):
        written(run, 1, 2)
        Mirror(url, run, QUICK).finish()
    before = there(memory)
    fetched = Run(tmp_path / "fetched")
    fetch("memory://bucket/runs", fetched, whatever, resume=True, patience=QUICK)
    assert shown(fetched.path) == shown(above.path)
    written(fetched, 3)
    Mirror("memory://bucket/runs", fetched, QUICK).finish()
    assert there(memory) == before


def test_marks_of_folders_are_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [f"/bucket/runs/mine/{name}" for name in ("", "checkpoints/", "a", "assets/b")]
    monkeypatch.setattr(copies, "below", lambda *_, **__: iter(found))
    assert names_below(URL) == {"a", "assets/b"}


def test_rows_reach_up_to_the_newest_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that comes while rows are sent waits for the next time."""
    run = Run(tmp_path / "run")
    written(run, 1)

    def late(file: Path, url: str, patience: Patience) -> None:
        upload(file, url, patience)
        if file == run.metrics and len(checkpoints.listed(run.checkpoints)) == 1:
            written(run, 2)

    copy = Mirror(URL, run, QUICK)
    monkeypatch.setattr(mirror, "upload", late)
    run.metrics.write_text(run.metrics.read_text() + '{"step": 1}\n')
    copy._update()
    assert [name for name in names_below(URL) if name.endswith("checksums.json")] == [
        "checkpoints/step-00000001/checksums.json"
    ]
    copy.finish()
    assert "checkpoints/step-00000002/checksums.json" in names_below(URL)


def test_a_slow_server_is_asked_once_for_all_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, asked = Run(tmp_path / "run"), []
    written(run, 1)
    copy = Mirror(URL, run, QUICK)
    begun = threading.Event()

    def refuse(*_: object) -> None:
        begun.wait()
        asked.append(1)
        raise MmclError("closed.")

    monkeypatch.setattr(mirror, "upload", refuse)
    for _ in range(20):
        copy.due()
    begun.set()
    copy.finish()
    assert len(asked) <= 3
    assert "is NOT up to date at the end of the run: closed. Keep" in caplog.text


def test_a_server_that_takes_nothing_is_told_before_the_first_step(
    tmp_path: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "put_file", refuse)
    with pytest.raises(MmclError, match=r"training.mirror: memory://bucket.*access was denied .*credentials"):
        workflow.train(tiny(tmp_path / "run", *MIRRORED))
    assert not (tmp_path / "run" / "checkpoints").exists()
    with pytest.raises(MmclError, match=r"mirror.*'/tmp/x' is no place for a copy.*run=DIR"):
        tiny(tmp_path / "run", "training.mirror=/tmp/x")
    for url in ("https://host/x", "s3://", "s3:///"):
        with pytest.raises(MmclError, match="is no place for a copy"):
            tiny(tmp_path / "run", f"training.mirror={url}")


def test_a_server_that_fails_later_stops_nothing(
    tmp_path: Path,
    tiny: Callable[..., Recipe],
    memory: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    quick: None,
) -> None:
    put = type(memory).put_file

    def failing(self: Any, here: str, path: str, **more: Any) -> None:
        if "step-00000002" in path:
            raise ConnectionError("gone")
        put(self, here, path, **more)

    monkeypatch.setattr(type(memory), "put_file", failing)
    run = workflow.train(tiny(tmp_path / "run", *MIRRORED, "training.keep_checkpoints=4"))
    left = {name for name in shown(run) if "step-00000002" not in name and "recipe" not in name}
    assert left <= there(memory).keys()
    assert "gone (2 attempts)" in caplog.text
    assert "The next checkpoint tries again" in caplog.text


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket behind an S3 API on loopback, for this process and those that it starts."""
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    said = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir("bucket")
    yield "s3://bucket/runs/mine"
    server.stop()


@pytest.mark.slow
def test_a_machine_of_two_processes_that_is_killed_goes_on_from_s3(
    tmp_path: Path, tiny: Callable[..., Recipe], s3: str
) -> None:
    length = ["training.samples=1920", "training.checkpoint_every_steps=5", "towers.image.patch_dropout=0.25"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mmcl"]

    def command(run: Path, *more: str) -> list[str]:
        path = tmp_path / f"{run.name}.yaml"
        path.write_text(dump_yaml(tiny(run, *length, *more).model_dump(mode="json")))
        return [*launch, "train", str(path), "--resume"]

    expected, run = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(expected), check=True, capture_output=True)
    begin = command(run, f"training.mirror={s3}")
    process = subprocess.Popen(begin, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 240
        while not any("step-00000010/checksums" in name for name in names_below(s3)):
            assert process.poll() is None
            assert time.monotonic() < deadline
    finally:
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            one.kill()
        process.wait()
    shutil.rmtree(run)
    done = subprocess.run(begin, check=True, capture_output=True, text=True)
    assert done.stderr.count(f"was fetched from {s3}") == 1
    same(run, expected)
    other = Run(tmp_path / "other")
    fetch(s3, other, whatever, resume=True)
    assert shown(other.path) == shown(run)
