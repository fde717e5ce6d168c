"""Ready vectors: a modality that is a recipe line, from shards to embeddings."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import mmcl
from mmcl import workflow
from mmcl.data import Source, read_samples, write_shards
from mmcl.embed import embed_shards
from mmcl.errors import BadSampleError, MmclError
from mmcl.model import Encoder, MultiTower
from mmcl.recipe import Recipe
from mmcl.towers import TOWERS, Tower

WIDTH = 6


def tower(**more: Any) -> Tower:
    made = TOWERS.check({"name": "vector", "width": WIDTH, **more}).build(dim=4)
    assert isinstance(made, Tower)
    return made.eval()


def row(value: Any, **more: Any) -> torch.Tensor:
    transform = tower(**more).transform(train=True)
    rows = transform.empty(1)
    transform(value, np.random.default_rng, rows[0])
    return rows[0]


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int64]
)
def test_numbers_of_any_kind_are_floats(dtype: torch.dtype) -> None:
    made = row(torch.arange(WIDTH).to(dtype))
    assert made.dtype == torch.float32
    assert made.tolist() == list(range(WIDTH))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (torch.zeros(WIDTH - 1), r"the shape \(5,\), and its tower takes \(6,\)"),
        (torch.zeros(1, WIDTH), r"the shape \(1, 6\)"),
        (torch.tensor([1.0, 2, 3, 4, 5, torch.nan]), "not finite"),
        (torch.full((WIDTH,), 1e300, dtype=torch.float64), "not finite"),
        (torch.zeros(WIDTH, dtype=torch.bool), "array of numbers, in a member `npy`; got torch.bool"),
        (torch.zeros(WIDTH, dtype=torch.complex64), "got torch.complex64"),
        ("0.1 0.2", "got str"),
    ],
)
def test_what_is_no_such_vector_is_a_bad_sample(value: Any, told: str) -> None:
    with pytest.raises(BadSampleError, match=told):
        row(value)


def test_unit_length_where_it_is_asked_for() -> None:
    rows = torch.randn(3, WIDTH) * 50
    one = tower(normalize=True)
    torch.testing.assert_close(one(rows), F.normalize(rows, dim=-1) @ one.head.weight.T)
    plain = tower()
    torch.testing.assert_close(plain(rows), rows @ plain.head.weight.T)
    with pytest.raises(BadSampleError, match="no direction"):
        row(torch.zeros(WIDTH), normalize=True)
    assert not row(torch.zeros(WIDTH)).any()


def test_nothing_in_it_can_be_computed_again() -> None:
    with pytest.raises(MmclError, match="gradient_checkpointing: Vector has no blocks"):
        tower(gradient_checkpointing=True)


def test_values_may_be_arrays_tensors_lists_or_files(tmp_path: Path) -> None:
    encoder = Encoder(MultiTower({"sensor": tower(head="norm_linear")}, 4))
    numbers = np.random.default_rng(0).normal(size=(3, WIDTH)).astype(np.float32)
    expected = F.normalize(encoder.model.tower("sensor")(torch.from_numpy(numbers)), dim=-1).detach()
    np.save(tmp_path / "v.npy", numbers[1])
    values = [numbers[0].astype(">f4"), tmp_path / "v.npy", torch.from_numpy(numbers[2])]
    torch.testing.assert_close(encoder.embed("sensor", values), expected)
    torch.testing.assert_close(encoder.embed("sensor", numbers), expected)
    torch.testing.assert_close(encoder.embed("sensor", numbers.tolist()), expected)
    for bad, told in (
        (["nowhere.npy"], "value 0: nowhere.npy: there is no such file"),
        ([numbers[0], [1.0, 2.0]], r"value 1: the vector has the shape \(2,\)"),
        ([[1.0, [2.0]]], "value 0: a vector is an array, a tensor or a list of numbers; got list"),
        ([["a"] * WIDTH], "value 0: a vector is an array"),
        ([None], "value 0: a vector is an array"),
        (numbers[0], "takes a list of values; got one ndarray"),
    ):
        with pytest.raises(MmclError, match=told):
            encoder.embed("sensor", bad)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, glyphs: Any) -> Path:
    """Glyphs, each with a vector: what its name's letters are, and noise."""
    root = tmp_path_factory.mktemp("vectors")
    rng = np.random.default_rng(0)
    samples = []
    for number, sample in enumerate(read_samples(glyphs.test)):
        letters = np.bincount([ord(c) % 31 for c in sample["txt"].decode()], minlength=31).astype(np.float16)
        kept = {name: sample[name] for name in ("__key__", "png", "txt")}
        samples.append({**kept, "npy": letters + rng.normal(scale=0.1, size=31).astype(np.float16)})
        if number == 5:
            samples[-1]["npy"] = samples[-1]["npy"][:-1]
    write_shards(samples, root)
    return root


def test_a_further_modality_is_a_recipe_line(data: Path, tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    task = tmp_path / "found.yaml"
    task.write_text(
        "title: found\nevaluator: {name: retrieval, modalities: [eeg, text]}\n"
        f"data: {{shards: '{data}', modalities: {{eeg: npy, text: txt}}}}\n"
    )
    recipe = tiny(
        tmp_path / "run",
        f"data.train.shards={data}",
        "data.train.modalities={image: png, text: txt, eeg: npy}",
        "towers.eeg={name: vector, width: 31, head: norm_linear}",
        f"tasks=['{task}']",
        "training.samples=256",
    )
    run = workflow.train(recipe)
    (bad,) = [json.loads(line) for line in (run / "bad_samples.jsonl").read_text().splitlines()]
    assert bad["modality"] == "eeg"
    assert "(30,), and its tower takes (31,)" in bad["reason"]
    encoder = mmcl.load(run)
    assert encoder.modalities == ("image", "text", "eeg")
    assert encoder.takes("eeg") == "vector"
    measured = mmcl.evaluate(encoder, str(task))
    assert measured["n"] == 499
    losses = [json.loads(line).get("loss") for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert losses[7] < losses[0] - 1
    manifest = embed_shards(
        encoder, Source(shards=str(data), modalities={"eeg": "npy", "text": "txt"}), tmp_path / "out"
    )
    assert manifest["modalities"] == ["eeg", "text"]
    vectors = np.load(tmp_path / "out" / "eeg_emb" / "eeg_emb_0000.npy")
    first = next(read_samples(data))
    (tmp_path / "first.npy").write_bytes(first["npy"])
    torch.testing.assert_close(torch.from_numpy(vectors[:1]), encoder.embed("eeg", [tmp_path / "first.npy"]))


def test_towers_without_a_weight_can_be_called_where_gradients_are_on() -> None:
    model = MultiTower({"sensor": tower(head="none", width=4)}, 4)
    rows = torch.randn(3, 4)
    assert torch.equal(model({"sensor": rows})["sensor"], rows)
    assert model({})["sensor"].shape == (0, 4)


def test_a_modality_that_is_absent_costs_no_pass() -> None:
    model = MultiTower({name: tower() for name in ("a", "b", "c")}, 4)
    passes = dict.fromkeys("abc", 0)
    for name in passes:
        model.tower(name).register_forward_hook(lambda *_, name=name: passes.update({name: passes[name] + 1}))
    given = {"b": torch.randn(2, WIDTH)}
    made = model(given)
    assert list(made) == ["b"]
    assert passes == {"a": 0, "b": 1, "c": 0}
    made["b"].sum().backward()
    assert [p.grad is None for p in model.parameters()] == [True, False, True]
    model({})
    assert passes == {"a": 0, "b": 1, "c": 0}
