"""What cannot be used is counted, told of, and stops a run where it is too much."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mmcl
from mmcl.data import read_samples, write_shards
from mmcl.errors import MmclError
from mmcl.recipe import Recipe
from mmcl.training.bad_samples import BadSamples


@pytest.fixture
def broken(tmp_path: Path, glyphs: Any) -> Callable[[int], Path]:
    """Shards of 500 samples in which every n-th picture cannot be read."""

    def make(every: int) -> Path:
        samples = list(read_samples([str(glyphs.train / f"0000{i}.tar") for i in range(2)]))
        for sample in samples[::every]:
            sample["png"] = b"broken"
        write_shards(iter(samples), tmp_path / "broken", 100)
        return tmp_path / "broken"

    return make


@pytest.mark.slow
def test_too_many_bad_samples_stop_the_run_which_can_go_on(
    tmp_path: Path, tiny: Callable[..., Recipe], broken: Callable[[int], Path]
) -> None:
    shards = broken(5)
    overrides = [f"data.train.shards={shards}", "training.samples=2048", "training.checkpoint_every_steps=8"]
    with pytest.raises(MmclError) as stopped:
        mmcl.train(tiny(tmp_path / "run", *overrides))
    told = str(stopped.value)
    for word in ("of the last 1,024 samples", "image cannot be decoded", "bad_samples.jsonl", "mmcl data check", "0.1"):
        assert word in told
    assert (tmp_path / "run" / "checkpoints").is_dir()
    run = mmcl.train(tiny(tmp_path / "run", *overrides, "data.max_bad=0.3"), resume=True)
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    listed = [json.loads(line) for line in (run / "bad_samples.jsonl").read_text().splitlines()]
    assert last["step"] == 64
    assert last["bad_samples"] == len(listed)
    assert abs(len(listed) - 2048 / 5) < 30


def test_a_field_that_no_sample_has_stops_a_short_run_and_is_corrected_in_it(
    tmp_path: Path, tiny: Callable[..., Recipe], glyphs: Any
) -> None:
    shards = f"data.train.shards={glyphs.train}"
    wrong = [shards, "data.train.modalities.text=json:captoin", "training.checkpoint_every_steps=4"]
    with pytest.raises(MmclError, match=r"step 8: of the last 256 samples 256 had .*resume with the changed recipe"):
        mmcl.train(tiny(tmp_path / "run", *wrong))
    again = [shards, "data.train.modalities.text=json:cpation", "training.checkpoint_every_steps=4"]
    with pytest.raises(MmclError, match=r"step 8: of the last 128 samples 128 had"):
        mmcl.train(tiny(tmp_path / "run", *again), resume=True)
    right = [shards, "data.train.modalities.text=json:name", "training.checkpoint_every_steps=4"]
    run = mmcl.train(tiny(tmp_path / "run", *right), resume=True)
    assert "json:name" in (run / "recipe.yaml").read_text()
    listed = [json.loads(line) for line in (run / "bad_samples.jsonl").read_text().splitlines()]
    assert [line["step"] for line in listed] == sorted(step for step in range(4) for _ in range(32))


def test_the_share_is_judged_across_a_resume(tmp_path: Path) -> None:
    ledger = BadSamples(tmp_path / "bad.jsonl", 0.1)
    ledger.judge(90, 600, step=1)
    resumed = BadSamples(tmp_path / "bad.jsonl", 0.1)
    resumed.restore(ledger.state())
    resumed.begin(1)
    with pytest.raises(MmclError, match=r"of the last 1,000 samples 110 had"):
        resumed.judge(20, 400, step=2)
    resumed.judge(300, 400, step=3, last=True)  # too few to tell, after a thousand that did
    corrected = BadSamples(tmp_path / "bad.jsonl", 0.1)
    corrected.restore(ledger.state(), corrected=True)
    corrected.judge(20, 400, step=2)
    corrected.judge(0, 600, step=3)


def test_an_epoch_ends_with_a_summary(
    tmp_path: Path, tiny: Callable[..., Recipe], broken: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    shards = broken(20)
    mmcl.train(tiny(tmp_path / "run", f"data.train.shards={shards}", "training.samples=1024"))
    told = capsys.readouterr().err
    # the batch in which the epoch ends goes on with 12 samples of the next, one of them bad
    assert "epoch 0 ended: 512 samples; not usable: 26 image cannot be decoded (cannot identify image file)" in told
    assert "at the end: 1,024 samples; not usable:" in told


@pytest.mark.parametrize(("policy", "samples"), [("carry", 640), ("drop", 640), ("pad", 628), ("keep", 628)])
def test_the_last_batch_of_an_epoch_is_as_the_recipe_says(
    tmp_path: Path, tiny: Callable[..., Recipe], glyphs: Any, policy: str, samples: int
) -> None:
    """Two shards of 250 samples are 15 batches of 32 and 20 samples."""
    shards = f"data.train.shards=[{glyphs.train}/00000.tar,{glyphs.train}/00001.tar]"
    recipe = tiny(tmp_path / "run", shards, f"data.last_batch={policy}", "training.samples=640")
    run = mmcl.train(recipe)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows][-1] == 20
    assert rows[-1]["samples"] == samples
    assert json.loads((run / "results.json").read_text())["train"]["samples"] == samples
