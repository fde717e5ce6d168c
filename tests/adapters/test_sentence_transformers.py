"""An export as sentence-transformers opens it: one `encode` for texts, pictures and sounds, with the run's vectors."""

import base64
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import mmcl
from mmcl import workflow
from mmcl.adapters.mteb import MtebModel
from mmcl.adapters.sentence_transformers import MmclModule
from mmcl.errors import MmclError
from mmcl.exports import open_export
from mmcl.model import Encoder, MultiTower
from mmcl.recipe import Recipe
from tests import small_model


def opened(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), trust_remote_code=True, device="cpu", local_files_only=True)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return small_model.encoder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def three(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All kinds of input, in memory."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(modules=[MmclModule(encoder, tmp_path_factory.mktemp("none"))], device="cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Recipe]) -> Path:
    return workflow.train(tiny(tmp_path_factory.mktemp("adapters") / "run"))


def test_an_export_gives_the_runs_vectors(run: Path, tmp_path: Path) -> None:
    mmcl.export(run, "sentence_transformers", tmp_path / "out")
    model, own = opened(tmp_path / "out"), mmcl.load(run, "cpu")
    texts, pictures = small_model.texts(40), small_model.pictures(9)
    for modality, values in (("text", texts), ("image", pictures)):
        np.testing.assert_allclose(model.encode(values), own.embed(modality, values), atol=1e-5)
    np.testing.assert_allclose(model.encode(texts[3]), own.embed("text", texts[3:4])[0], atol=1e-5)
    prompted = own.embed("text", [f"a photo of {text}" for text in texts])
    np.testing.assert_allclose(model.encode(texts, prompt="a photo of "), prompted, atol=1e-5)
    expected = own.embed("text", texts) @ own.embed("image", pictures).T
    torch.testing.assert_close(model.similarity(model.encode(texts), model.encode(pictures)), expected)
    for path, name in ((run, "mmcl/run"), (tmp_path / "out", "mmcl/out")):  # mteb opens both
        same = MtebModel(path)
        assert same.mteb_model_meta.name == name
        np.testing.assert_allclose(same.encode([{"text": texts}]), own.embed("text", texts), atol=1e-5)
    assert model.get_embedding_dimension() == own.dim
    assert model.modalities == ["text", "image"]


def test_saved_again_with_other_weights(run: Path, tmp_path: Path) -> None:
    mmcl.export(run, "sentence_transformers", tmp_path / "out")
    model, texts = opened(tmp_path / "out"), small_model.texts(5)
    before = model.encode(texts)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    after = model.encode(texts)
    assert np.abs(after - before).max() > 1e-3
    model.save_pretrained(str(tmp_path / "again"), create_model_card=False)
    np.testing.assert_allclose(opened(tmp_path / "again").encode(texts), after, atol=1e-6)
    np.testing.assert_allclose(open_export(tmp_path / "again", "cpu").embed("text", texts), after, atol=1e-6)
    model.save_pretrained(str(tmp_path / "out"), create_model_card=False)  # in its place
    np.testing.assert_allclose(opened(tmp_path / "out").encode(texts), after, atol=1e-6)


def test_all_kinds_of_input_in_all_their_forms(encoder: Encoder, three: Any, tmp_path: Path) -> None:
    pictures, texts, sounds = small_model.pictures(3), small_model.texts(3), small_model.sounds(3)
    spoken = encoder.embed("voice", [(sound["array"], sound["sampling_rate"]) for sound in sounds])
    np.testing.assert_allclose(three.encode(sounds), spoken, atol=1e-5)
    np.testing.assert_allclose(three.encode([{"audio": sounds[1]}]), spoken[1:2], atol=1e-5)
    soundfile.write(tmp_path / "s.wav", sounds[0]["array"], 8000, subtype="FLOAT")
    np.testing.assert_allclose(three.encode([str(tmp_path / "s.wav")]), spoken[:1], atol=1e-5)
    shown = encoder.embed("picture", pictures)
    pictures[0].save(tmp_path / "p.png")
    pictures[1].save(file := io.BytesIO(), "png")
    forms = [
        str(tmp_path / "p.png"),
        f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}",
        {"image": pictures[2]},
        np.asarray(pictures[0]),
        torch.from_numpy(np.array(pictures[1])).permute(2, 0, 1),
    ]
    np.testing.assert_allclose(three.encode(forms), shown[[0, 1, 2, 0, 1]], atol=1e-5)
    np.testing.assert_allclose(three.encode(texts), encoder.embed("caption", texts), atol=1e-5)
    assert three.modalities == ["text", "image", "audio"]


def test_several_towers_of_a_kind_are_told_apart_by_the_task(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    towers = {f"{m}{n}": small_model.towers(tmp_path)[m] for m in ("caption", "voice") for n in (1, 2)}
    del towers["voice2"]
    encoder = Encoder(MultiTower(towers, small_model.DIM))
    model = SentenceTransformer(modules=[MmclModule(encoder, tmp_path)], device="cpu")
    texts = small_model.texts(3)
    for name in ("caption1", "caption2"):
        np.testing.assert_allclose(model.encode(texts, task=name), encoder.embed(name, texts), atol=1e-5)
    with pytest.raises(MmclError, match="caption1, caption2 takes text; say which"):
        model.encode(texts)
    with pytest.raises(MmclError, match="no tower 'voice1' takes text"):
        model.encode(texts, task="voice1")


def test_bad_input_is_told(three: Any) -> None:
    with pytest.raises(ValueError, match="mixes multiple modalities"):
        three.encode(["a", small_model.pictures(1)[0]])
    with pytest.raises(MmclError, match='a sound is {"array": samples, "sampling_rate": rate} here'):
        three.encode([np.zeros(800, np.float32)])
    with pytest.raises(MmclError, match="there is no such file"):
        three.encode([{"image": "nothing.png"}])


def test_it_says_that_mmcl_is_needed(run: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    mmcl.export(run, "sentence_transformers", tmp_path / "out")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SentenceTransformer(str(tmp_path / "out"), device="cpu", local_files_only=True)
    config = tmp_path / "out" / "config_sentence_transformers.json"
    said = json.loads(config.read_text())
    said["requirements"]["mmcl"]["specifier"] = ">=999"
    config.write_text(json.dumps(said))
    with pytest.raises(ImportError, match="mmcl"), warnings.catch_warnings():
        opened(tmp_path / "out")
