"""Towers whose weights lie in parts on all processes: their numbers are those of whole ones, checkpoints are whole."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.distributed.tensor import DTensor  # noqa: TID251

import mmcl
from mmcl import checkpoints, distributed, workflow
from mmcl.data import write_shards
from mmcl.errors import MmclError
from mmcl.model import MultiTower
from mmcl.optimizers import OPTIMIZERS
from mmcl.recipe import Recipe, check, dump_yaml, load_recipe
from mmcl.runs import Run
from mmcl.towers import TOWERS, train_sentencepiece
from mmcl.training import Trainer, devices
from mmcl.training.sharding import apart_, filler, parted, shard_, whole
from tests.distributed_worker import run_processes
from tests.small_model import DIM, WORDS, towers
from tests.training.test_resume import rows

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
KEPT = {**FSDP, "FSDP_RESHARD_AFTER_FORWARD": "false"}
STEPS, ROWS = 6, 11


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, texts and vectors; vectors only in some samples, so that processes, parts and a batch have none."""
    folder, rng = tmp_path_factory.mktemp("three"), np.random.default_rng(0)
    samples = []
    for i in range(STEPS * ROWS):
        picture, vector = io.BytesIO(), io.BytesIO()
        Image.fromarray((255 * rng.random((16, 16, 3))).astype(np.uint8)).save(picture, "png")
        sample: dict[str, Any] = {"__key__": f"{i:03d}", "png": picture.getvalue()}
        sample["txt"] = " ".join(rng.permutation(WORDS)[:4])
        np.save(vector, rng.standard_normal(6).astype(np.float32))
        if i % 14 == 0:  # 5 of them: one batch at least has none
            sample["npy"] = vector.getvalue()
        samples.append(sample)
    write_shards(samples, folder / "shards", 1000)
    train_sentencepiece([sample["txt"] for sample in samples], folder / "t.model", vocab_size=285)
    return folder


def recipe(shards: Path, run: Path, towers: dict[str, Any] | None = None, **training: Any) -> dict[str, Any]:
    """Towers of each kind, one with heads alone."""
    small = {"width": 16, "layers": 2, "heads": 2}
    more = towers or {}
    content: dict[str, Any] = {
        "run": str(run),
        "dim": 8,
        "towers": {
            "image": {"name": "vit", "image_size": 16, "patch_size": 8, **small, **more.get("image", {})},
            "text": {
                "name": "text_transformer",
                "tokenizer": {"name": "sentencepiece", "model": str(shards / "t.model")},
                "context_length": 9,
                "causal": False,
                **small,
                **more.get("text", {}),
            },
            "sensor": {"name": "vector", "width": 6, "head": {"name": "mlp", "hidden": 12}},
        },
        "objective": [{"temperature": {"init": 0.2}}, {"regularize": "swapped", "weight": 0.1}],
        "data": {
            "train": {
                "shards": str(shards / "shards"),
                "modalities": {"image": "png", "text": "txt", "sensor": "npy"},
                "optional": ["sensor"],
            },
            "batch_size": ROWS,
        },
        "optimizer": {"name": "adamw", "lr": 1e-3, "eps": 1e-4},
        "schedule": "cosine",
        "training": {"samples": STEPS * ROWS, "log_every_steps": 1, "checkpoint_every_steps": 3, **training},
    }
    return content


def train(jobs: Sequence[tuple[dict[str, Any], dict[str, str], bool]]) -> list[dict[str, Any]]:
    """Runs in this process, each in an environment; sizes of its weights here and in all."""
    found = []
    for content, environment, resume in jobs:
        job = check(Recipe, content, "test")
        with pytest.MonkeyPatch.context() as patch:
            for name, said in environment.items():
                patch.setenv(name, said)
            trainer = Trainer(job, Run(Path(job.run)), lambda _: {}, resume)
            Path(job.run).mkdir(parents=True, exist_ok=True)
            distributed.barrier()
            trainer.train()
            parts = dict(trainer.model.named_parameters())
            parts |= (
                {f"ema.{n}": p for n, p in trainer.learner.average.model.named_parameters()}
                if trainer.learner.average
                else {}
            )
            own = {n: p.to_local().numel() if isinstance(p, DTensor) else p.numel() for n, p in parts.items()}
            found.append({"own": own, "all": {n: p.numel() for n, p in parts.items()}, "notes": trainer.notes})
    return found


def tensors(run: Path, step: int = STEPS) -> dict[str, Tensor]:
    found = checkpoints.latest(run / "checkpoints")
    assert found is not None
    assert found.state["step"] == step
    return found.tensors("weights") | found.tensors("optimizer")


def alike(run: Path, other: Path, rel: float = 1e-5) -> None:
    for row, expected in zip(rows(run), rows(other), strict=True):
        assert row == pytest.approx(expected, rel=rel, abs=rel)
    found, expected = tensors(run), tensors(other)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=rel, atol=rel, msg=lambda m, n=name: f"{n}: {m}")


def same(run: Path, other: Path) -> None:
    assert rows(run) == rows(other)
    found, expected = tensors(run), tensors(other)
    assert found.keys() == expected.keys()
    assert [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)] == []


@pytest.mark.slow
def test_sharded_runs_are_the_run_on_one_process(shards: Path, tmp_path: Path) -> None:
    """With texts and pictures that all have, and a modality that a process, a part or all of a batch have not."""
    everything = {"clip_norm": 0.5, "ema": {"decay": 0.9, "evaluate": True}}
    one = recipe(shards, tmp_path / "one", **everything)
    train([(one, {}, False)])
    jobs = [
        (recipe(shards, tmp_path / "sharded", **everything), FSDP, False),
        (recipe(shards, tmp_path / "kept", **everything, chunk=2), KEPT, False),
    ]
    ranks = run_processes(train, 2, tmp_path / "processes", jobs)
    alike(tmp_path / "sharded", tmp_path / "one")
    alike(tmp_path / "kept", tmp_path / "one")
    for job in range(len(jobs)):
        for name, numbers in ranks[0][job]["all"].items():
            parts = [rank[job]["own"][name] for rank in ranks]
            assert sum(parts) == numbers
            assert "resblocks" not in name or parts == [numbers // 2, numbers // 2], name


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("chunk", [None, 2])
def test_checkpoints_go_on_under_any_way_of_sharing(
    chunk: int | None, processes: int, shards: Path, tmp_path: Path
) -> None:
    """Bit for bit on as many processes; and what resumes elsewhere ends where it would have."""
    dropout = {"image": {"patch_dropout": 0.5}}

    def job(name: str, towers: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        return recipe(shards, tmp_path / name, towers, ema=0.9, chunk=chunk, **more) | {
            "objective": ["clip", {"regularize": {"name": "instance", "teachers": {"text": "ema.text"}}}]
        }

    runs = [(job(name, dropout), way, False) for name, way in (("fsdp", FSDP), ("kept", KEPT), ("ddp", {}))]
    runs += [(job(f"plain {name}"), way, False) for name, way in (("fsdp", FSDP), ("ddp", {}))]
    run_processes(train, processes, tmp_path / "a", runs)
    alike(tmp_path / "kept", tmp_path / "fsdp")
    alike(tmp_path / "plain fsdp", tmp_path / "plain ddp")
    train([(job("plain one"), {}, False)])
    alike(tmp_path / "plain fsdp", tmp_path / "plain one")

    def cut(name: str, to: str) -> None:
        shutil.copytree(tmp_path / name, tmp_path / to)
        shutil.rmtree(tmp_path / to / "checkpoints" / f"step-{STEPS:08d}")

    for name in ("fsdp", "kept"):
        cut(name, f"{name} again")
    cut("plain fsdp", "fsdp then ddp")
    cut("plain ddp", "ddp then fsdp")
    cut("plain fsdp", "fsdp then one")
    cut("plain fsdp", "fsdp then other")
    again = [(job(f"{name} again", dropout), way, True) for name, way in (("fsdp", FSDP), ("kept", KEPT))]
    run_processes(
        train,
        processes,
        tmp_path / "b",
        [*again, (job("fsdp then ddp"), {}, True), (job("ddp then fsdp"), FSDP, True)],
    )
    run_processes(train, 5 - processes, tmp_path / "c", [(job("fsdp then other"), FSDP, True)])
    said = train([(job("fsdp then one"), FSDP, True)])[0]["notes"]
    assert any("but this run has one process: its weights are whole" in note for note in said)
    for name in ("fsdp", "kept"):
        same(tmp_path / f"{name} again", tmp_path / name)
    for name in ("fsdp then ddp", "ddp then fsdp", "fsdp then one", "fsdp then other"):
        alike(tmp_path / name, tmp_path / "plain one")


@pytest.mark.slow
def test_towers_that_stand_still_adapt_or_compute_again(shards: Path, tmp_path: Path) -> None:
    ways: dict[str, dict[str, Any]] = {
        "frozen": {"image": {"policy": "frozen", "weights": "random"}},
        "later": {"text": {"policy": {"name": "trained", "from_step": 3}}},
        "lora": {"image": {"policy": {"name": "lora", "rank": 2, "targets": ["mlp.c_fc"]}, "weights": "random"}},
        "last": {"text": {"policy": {"name": "trained", "last_layers": 1}}},
        "again": {"image": {"gradient_checkpointing": True}, "text": {"gradient_checkpointing": True}},
    }
    jobs, names = [], []
    for name, changed in ways.items():
        for how, said in (("whole", {}), ("chunks", {"chunk": 2})):
            for way, environment in (("fsdp", FSDP), ("kept", KEPT)):
                names.append((name, how, way))
                jobs.append((recipe(shards, tmp_path / f"{name} {how} {way}", changed, **said), environment, False))
        train([(recipe(shards, tmp_path / name, changed), {}, False)])
    run_processes(train, 2, tmp_path / "processes", jobs)
    for name, how, way in names:
        alike(tmp_path / f"{name} {how} {way}", tmp_path / name)


def moved(names: Sequence[str], parts: bool) -> dict[str, dict[str, Tensor]]:
    """Weights after three steps of each optimizer with made gradients, the same on every process."""
    image = {"name": "vit", "image_size": 16, "patch_size": 8, "width": 16, "layers": 2, "heads": 2}
    sensor = {"name": "vector", "width": 6, "head": {"name": "mlp", "hidden": 12}}
    found = {}
    for name in names:
        torch.manual_seed(0)
        model = MultiTower({"image": TOWERS.check(image).build(dim=8), "sensor": TOWERS.check(sensor).build(dim=8)}, 8)
        if parts:
            shard_(model, torch.device("cpu"), True)
        others = nn.ParameterDict({"log_scale": torch.tensor(1.0)})
        optimizer = apart_(OPTIMIZERS.check({"name": name, "lr": 1e-2}).build().over([model, others], {}))
        for _ in range(3):
            for weight in [*model.parameters(), *others.parameters()]:
                weight.grad = parted(torch.randn(weight.shape), weight)
            optimizer.step()
        found[name] = whole({n: p.detach() for n, p in [*model.named_parameters(), *others.named_parameters()]})
    return found


@pytest.mark.slow
def test_optimizers_move_parts_as_they_move_whole_weights(tmp_path: Path) -> None:
    """Signs agree to the bit; roots, norms and products in bf16 are rounded otherwise in vectors of another length."""
    near = {"lion": 0.0, "adamw": 1e-6, "lamb": 1e-6, "muon": 2e-2}
    wholes, parts = moved(list(near), False), run_processes(moved, 2, tmp_path / "processes", list(near), True)[0]
    for name, rel in near.items():
        for key, expected in wholes[name].items():
            assert (parts[name][key] - expected).norm() <= rel * expected.norm(), f"{name}: {key}"


@pytest.mark.slow
def test_training_in_parts_moves_weights_as_training_of_whole_ones(shards: Path, tmp_path: Path) -> None:
    """Rates are such that most of a weight is what it was moved by.

    Not by lion: it takes the sign of what a gradient was rounded to, where that is all of it, and no two orders of
    summing agree on that.
    """
    few = {"lamb": 1e-4, "muon": 5e-2}  # muon multiplies in bf16
    rates = {"lamb": {"lr": 0.1, "eps": 1e-4}, "muon": {"lr": 2e-2, "adamw_lr": 1e-3, "eps": 1e-4}}

    def job(optimizer: str, where: str) -> dict[str, Any]:
        return recipe(shards, tmp_path / where) | {"optimizer": {"name": optimizer, **rates[optimizer]}}

    train([(job(name, name), {}, False) for name in few])
    run_processes(train, 2, tmp_path / "processes", [(job(name, f"{name} in parts"), FSDP, False) for name in few])
    for name, rel in few.items():
        found, expected = tensors(tmp_path / f"{name} in parts"), tensors(tmp_path / name)
        for key, tensor in expected.items():
            # keys' biases have no gradient but rounding; lamb counts steps by group
            if "in_proj_bias" not in key and not key.startswith("group"):
                assert (found[key] - tensor).norm() <= rel * tensor.norm(), f"{name}: {key}"


@pytest.mark.slow
def test_pictures_are_mixed_by_what_whole_towers_see(shards: Path, tmp_path: Path) -> None:
    def mixing(name: str) -> dict[str, Any]:
        content = recipe(shards, tmp_path / name)
        content["data"] |= {"batch_size": 12, "mix": {"image": {"by": "text", "p": 0.9, "group": 6}}}
        content["objective"] = "clip"
        content["training"]["samples"] = STEPS * 12
        return content

    train([(mixing("one"), {}, False)])
    run_processes(train, 2, tmp_path / "processes", [(mixing(n), way, False) for n, way in (("a", FSDP), ("b", KEPT))])
    alike(tmp_path / "a", tmp_path / "one")
    alike(tmp_path / "b", tmp_path / "one")


@pytest.mark.slow
def test_in_bf16_it_is_close_to_ddp(shards: Path, tmp_path: Path) -> None:
    jobs = [
        (recipe(shards, tmp_path / name, precision="bf16"), way, False) for name, way in (("fsdp", FSDP), ("ddp", {}))
    ]
    run_processes(train, 2, tmp_path / "processes", jobs)
    alike(tmp_path / "fsdp", tmp_path / "ddp", rel=1e-2)


@pytest.mark.slow
def test_the_command_trains_resumes_measures_and_exports(
    tiny: Callable[..., Recipe], task: Path, tmp_path: Path
) -> None:
    run, more = tmp_path / "run", [f"tasks=['{task}']", "training.processes=2", "training.checkpoint_every_steps=4"]
    path = tmp_path / "run.yaml"
    path.write_text(dump_yaml(tiny(run, *more, "training.ema={decay: 0.9, evaluate: true}").model_dump(mode="json")))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mmcl", "train"]
    environment = {**os.environ, **FSDP, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}

    def mmcl_train(*words: str) -> None:
        done = subprocess.run(
            [sys.executable, *command, *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        assert done.returncode == 0, done.stderr

    mmcl_train(str(path))
    before, measured = tensors(run, 8), rows(run)[-1]
    shutil.rmtree(run / "checkpoints" / "step-00000008")
    mmcl_train(str(run), "--resume")
    assert {name for name, tensor in tensors(run, 8).items() if not torch.equal(tensor, before[name])} == set()
    assert rows(run)[-1] == measured
    encoder = mmcl.load(run)
    workflow.train(load_recipe(run, [f"run={tmp_path / 'one'}", "training.processes=1"]))
    one = {name: value for name, value in rows(tmp_path / "one")[-1].items() if "rank" not in name}
    assert {name: measured[name] for name in one} == pytest.approx(one, rel=1e-3, abs=0.02)
    assert mmcl.export(run, "safetensors", tmp_path / "export")["dim"] == 16
    texts = ["LATIN SMALL LETTER A", "GREEK SMALL LETTER BETA"]
    torch.testing.assert_close(mmcl.load(tmp_path / "export").embed("text", texts), encoder.embed("text", texts))


def test_rows_for_a_process_that_has_none_are_such_as_every_tower_takes(tmp_path: Path) -> None:
    mels = {"name": "spectrogram_vit", "seconds": 0.5, "width": 16, "layers": 1, "heads": 2, "token_dropout": 0.5}
    vector = TOWERS.check({"name": "vector", "width": 6, "normalize": True}).build(dim=DIM)
    for tower in [*towers(tmp_path, causal=False).values(), TOWERS.check(mels).build(dim=DIM), vector]:
        rows = filler(tower)
        vectors = tower(rows)
        assert vectors.shape == (2, DIM)
        (0 * vectors).sum().backward()
        assert not any(p.grad.any() for p in tower.parameters() if p.grad is not None)  # also no NaN


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"FSDP_VERSION": "1"}, "FSDP version 1; only version 2 is supported"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, "FSDP_OFFLOAD_PARAMS=true .* would have no effect"),
        ({"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"}, "the blocks of each tower are units"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "towers.NAME.gradient_checkpointing=true"),
        ({"FSDP_SHARDING_STRATEGY": "HYBRID_SHARD"}, "fsdp_reshard_after_forward: true or false"),
        ({"FSDP_RESHARD_AFTER_FORWARD": "FULL_SHARD"}, "must be true or false"),
    ],
)
def test_what_would_have_no_effect_is_refused(said: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (FSDP | said).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MmclError, match=told):
        devices.sharding()


def test_what_accelerate_says_by_itself_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.sharding() is None
    said = {  # by accelerate 1.15 with --use_fsdp --fsdp_version 2, and more by a file of `accelerate config`
        "FSDP_SHARDING_STRATEGY": "FULL_SHARD",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        "FSDP_OFFLOAD_PARAMS": "false",
        "FSDP_MIN_NUM_PARAMS": "100000000",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
        "FSDP_FORWARD_PREFETCH": "false",
        "FSDP_USE_ORIG_PARAMS": "true",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
        "FSDP_SYNC_MODULE_STATES": "true",
        "FSDP_ACTIVATION_CHECKPOINTING": "false",
        "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD": "false",
    }
    for name, value in (FSDP | said).items():
        monkeypatch.setenv(name, value)
    assert devices.sharding() is None  # on one process
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    assert devices.sharding() == devices.Sharding(reshard=True)
    monkeypatch.setenv("FSDP_RESHARD_AFTER_FORWARD", "false")
    assert devices.sharding() == devices.Sharding(reshard=False)
