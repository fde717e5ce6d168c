"""What runs begin with, write down, keep and need no more."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

import mmcl
from mmcl import runs, workflow
from mmcl.errors import MmclError
from mmcl.recipe import Recipe, dump_yaml, load_recipe
from mmcl.towers import TOWERS, Backbone, model_folder
from mmcl.towers.folders import ModelFolder
from mmcl.towers.tensor_files import Tensors
from mmcl.towers.weights import _plain
from mmcl.types import Draw, Transform

SHORT = ["training.samples=32", "data.workers=1"]


class Words(Transform):
    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def empty(self, rows: int) -> Tensor:
        return torch.full((rows, 8), -1)

    def __call__(self, value: str, draw: Draw, out: Tensor) -> None:
        numbers = self.tokenizer.encode(value)[:8]
        out[: len(numbers)] = torch.tensor(numbers)


class Bert(Backbone):
    """A text model of transformers, as a family wraps it."""

    takes, named = "text", True

    def __init__(self, model: model_folder) -> None:
        super().__init__()
        self.folder = model
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        config = transformers.AutoConfig.from_pretrained(model)
        self.model = transformers.AutoModel.from_config(config)
        self.width = config.hidden_size

    def pretrained(self, tag: str | None) -> dict[str, Tensor]:
        try:
            return self.translated(transformers.AutoModel.from_pretrained(self.folder).state_dict())
        except OSError as error:
            raise MmclError(f"{self.folder} has no weights: {error}") from None

    def translated(self, state: Any) -> dict[str, Tensor]:
        return {k if k.startswith("model.") else f"model.{k}": t for k, t in state.items()}

    def transform(self, train: bool) -> Words:
        return Words(self.tokenizer)

    def forward(self, rows: Tensor) -> Tensor:
        mask = rows >= 0
        return self.model(rows.clamp(min=0), attention_mask=mask.long()).last_hidden_state[:, 0]


@pytest.fixture(scope="module", autouse=True)
def family() -> Iterator[None]:
    TOWERS.register("bert")(Bert)
    yield
    del TOWERS.classes["bert"], TOWERS._specs["bert"]


def bert(folder: Path) -> Path:
    words = ["[PAD]", "[UNK]", "greek", "small", "letter", "alpha", "latin", "capital"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    fast.save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.BertModel(transformers.BertConfig(vocab_size=8, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Recipe]) -> Path:
    """A run whose average is what is measured, with a head on its image tower."""
    ema = "training.ema={decay: 0.5, evaluate: true}"
    run = tmp_path_factory.mktemp("first") / "run"
    return workflow.train(tiny(run, "towers.image.head=linear", ema, "seed=7", *SHORT))


def test_a_run_is_where_another_one_begins(first: Path, tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    towers = [f"towers.{m}.weights={first}" for m in ("image", "text")]
    model = runs.build_model(tiny(tmp_path / "run", *towers, "towers.image.head=linear"))
    averaged = mmcl.load(first, "cpu").model.state_dict()
    for name, t in model.state_dict().items():
        torch.testing.assert_close(t, averaged[name], rtol=0, atol=0)
    loaded = model.tower("image").loaded
    assert loaded is not None
    assert loaded.head
    assert "run (step-00000001, averaged), and the head" in str(loaded)
    assert runs.beginnings(model)[0].startswith("towers.image: ")


def test_an_export_is_opened_and_begun_with_like_its_run(
    first: Path, tiny: Callable[..., Recipe], tmp_path: Path
) -> None:
    mmcl.export(first, "safetensors", tmp_path / "out")
    towers = [f"towers.{m}.weights={tmp_path / 'out'}" for m in ("image", "text")]
    model = runs.build_model(tiny(tmp_path / "run", *towers, "towers.image.head=linear"))
    averaged = mmcl.load(first, "cpu").model.state_dict()
    for state in (model.state_dict(), mmcl.load(tmp_path / "out", "cpu").model.state_dict()):
        for name, t in state.items():
            torch.testing.assert_close(t, averaged[name], rtol=0, atol=0)
    with pytest.raises(MmclError, match="LoRA's adapters .*mmcl export runs/x"):
        _plain(Tensors("x", {"backbone.a.base_layer.weight": torch.ones(1)}), Path("runs/x"))


def test_a_head_of_another_shape_is_left_random_and_said(
    first: Path, tiny: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = tiny(tmp_path / "run", f"towers.image.weights={first}", "towers.image.head=mlp")
    with pytest.raises(
        MmclError, match=r"Its head has other shapes: weight \(16, 32\) instead of 0.weight.*partial: true"
    ):
        runs.build_model(recipe)
    part = f"towers.image.weights={{from: '{first}', partial: true}}"
    model = runs.build_model(tiny(tmp_path / "run", part, "towers.image.head=mlp"))
    loaded = model.tower("image").loaded
    assert loaded is not None
    assert not loaded.head
    assert not loaded.unexpected
    assert (
        "; the head is random, since its shapes differ (weight (16, 32) instead of 0.weight"
        in runs.beginnings(model)[0]
    )
    elsewhere = tiny(tmp_path / "run", f"towers.text.weights={{from: '{first}', prefix: towers.words.}}")
    with pytest.raises(MmclError, match=r"text.weights: no tensor of .* is called towers.words"):
        runs.build_model(elsewhere)


def test_a_run_goes_on_when_its_file_is_gone(
    first: Path, tiny: Callable[..., Recipe], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    state = load_file(next((first / "checkpoints").iterdir()) / "weights.safetensors")
    ours = "model.towers.text.backbone."
    save_file({k: t for k, t in state.items() if k.startswith(ours)}, tmp_path / "t.safetensors")
    content = tiny(tmp_path / "run", *SHORT, "training.samples=64", "training.checkpoint_every_steps=1").model_dump(
        mode="json"
    )
    content["towers"]["text"]["weights"] = {"from": "t.safetensors", "prefix": ours}
    (tmp_path / "own.yaml").write_text(dump_yaml(content))
    shorter = load_recipe(tmp_path / "own.yaml", ["training.samples=32"])
    longer = load_recipe(tmp_path / "own.yaml")
    workflow.train(shorter)
    whole = sum(k.startswith(ours) for k in state)
    assert f"towers.text: {whole} of {whole} tensors from {tmp_path / 't.safetensors'}" in capfd.readouterr().err
    written = json.loads((tmp_path / "run" / "weights.json").read_text())
    assert written["image"] == "random"
    assert written["text"]["files"][0]["bytes"] == (tmp_path / "t.safetensors").stat().st_size
    assert len(written["text"]["loaded"]) == whole
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["parameters"]["text"]["trained"] > 0
    (tmp_path / "t.safetensors").unlink()
    with pytest.raises(MmclError, match=r"text.weights: there is no file"):
        runs.build_model(longer)
    workflow.train(longer, resume=True)
    assert json.loads((tmp_path / "run" / "weights.json").read_text()) == written
    assert mmcl.load(tmp_path / "run").embed("text", ["greek"]).shape == (1, 16)
    for other in ({"from": str(tmp_path / "else.safetensors")}, {"from": "random"}):
        changed = longer.model_copy(
            update={"towers": {**longer.towers, "text": TOWERS.check({**content["towers"]["text"], "weights": other})}}
        )
        with pytest.raises(MmclError, match=r"another recipe: towers.text.weights.from"):
            runs.check_free(runs.Run(tmp_path / "run"), changed, resume=True)


def test_a_run_keeps_what_its_model_of_transformers_is_made_of(
    tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bert(tmp_path / "models" / "bert")
    content = tiny(tmp_path / "run", *SHORT).model_dump(mode="json")
    content["towers"]["text"] = {"name": "bert", "model": "models/bert"}
    (tmp_path / "own.yaml").write_text(dump_yaml(content))
    recipe = load_recipe(tmp_path / "own.yaml")
    assert recipe.towers["text"].model == str(folder)  # type: ignore[attr-defined]
    run = workflow.train(recipe)
    kept = {path.name for path in (run / "assets" / "text-model").iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= kept
    assert not any(name.endswith(".safetensors") for name in kept)
    stored = runs.Run(run).recipe().towers["text"]
    assert stored.weights is not None
    assert stored.weights.source == str(folder)
    assert not runs.check_free(runs.Run(run), recipe, resume=True)  # the folder is that of the copy
    before = mmcl.load(run).embed("text", ["greek small letter alpha", "latin"])
    config = folder / "config.json"
    config.write_text(config.read_text().replace("0.1", "0.2"))
    with pytest.raises(MmclError, match=r"another recipe: towers.text.model.config.json differ"):
        runs.check_free(runs.Run(run), recipe, resume=True)
    shutil.rmtree(folder)
    moved = Path(shutil.move(run, tmp_path / "moved"))
    monkeypatch.chdir(tmp_path / "models")
    torch.testing.assert_close(mmcl.load(moved).embed("text", ["greek small letter alpha", "latin"]), before)
    with pytest.raises(MmclError, match=r"text.weights: there is no file or folder|no weights"):
        runs.build_model(runs.Run(moved).recipe())
    runs.build_model(runs.Run(moved).recipe(), load=False)


def test_a_folder_of_a_model_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(MmclError, match=r"no config.json"):
        ModelFolder().files(tmp_path)
    with pytest.raises(MmclError, match="no folder 'nobody/nothing', and no model of the hub"):
        ModelFolder().place("nobody/nothing")
