"""mteb's own tasks on a model of mmcl: the numbers are those of mmcl's evaluators, for texts, pictures and sounds."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from mmcl.adapters.mteb import MtebModel
from mmcl.errors import MmclError
from mmcl.evaluators import Embedded, Items
from mmcl.evaluators.retrieval import Retrieval
from mmcl.model import Encoder, MultiTower
from mmcl.towers import TOWERS
from tests import small_model

COUNT = 30
KIND = {"picture": "image", "caption": "text", "voice": "audio"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return small_model.encoder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(encoder: Encoder) -> MtebModel:
    return MtebModel(encoder)


@pytest.fixture(scope="module")
def values() -> dict[str, list[Any]]:
    return {
        "picture": small_model.pictures(COUNT),
        "caption": small_model.texts(COUNT),
        "voice": small_model.sounds(COUNT),
    }


@pytest.fixture(scope="module")
def vectors(encoder: Encoder, values: Mapping[str, list[Any]]) -> dict[str, torch.Tensor]:
    spoken = [(sound["array"], sound["sampling_rate"]) for sound in values["voice"]]
    return {m: encoder.embed(m, spoken if m == "voice" else values[m]) for m in values}


def metadata(kind: str, name: str, modalities: list[str], category: str, score: str) -> Any:
    from mteb.abstasks.task_metadata import TaskMetadata

    return TaskMetadata(
        type=kind,
        name=name,
        description="made in a test",
        reference="https://example.org",
        dataset={"path": "NA", "revision": "NA"},
        modalities=modalities,
        category=category,
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=score,
        date=("2026-01-01", "2026-01-01"),
        domains=[],
        task_subtypes=[],
        license="cc-by-4.0",
        annotations_creators="derived",
        dialect=[],
        sample_creation="found",
        bibtex_citation="",
    )


def scores(model: MtebModel, task: Any) -> dict[str, Any]:
    import mteb

    return mteb.evaluate(model, [task], cache=None, show_progress_bar=False, co2_tracker=False)[0].scores["test"][0]


@pytest.mark.parametrize(("query", "document"), [("caption", "picture"), ("picture", "caption"), ("voice", "caption")])
def test_retrieval_is_that_of_the_evaluator(
    query: str, document: str, model: MtebModel, values: dict[str, list[Any]], vectors: dict[str, torch.Tensor]
) -> None:
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData

    a, b = KIND[query], KIND[document]

    class Found(AbsTaskRetrieval):
        metadata = metadata("Any2AnyRetrieval", f"Found{a}{b}", [a, b], f"{a[0]}2{b[0]}", "recall_at_5")

        def load_data(self, *_: Any, **__: Any) -> None:
            self.dataset = {
                "default": {
                    "test": RetrievalSplitData(
                        queries=Dataset.from_dict({"id": [f"q{i}" for i in range(COUNT)], a: values[query]}),
                        corpus=Dataset.from_dict({"id": [f"d{i}" for i in range(COUNT)], b: values[document]}),
                        relevant_docs={f"q{i}": {f"d{i}": 1} for i in range(COUNT)},
                        top_ranked=None,
                    )
                }
            }
            self.data_loaded = True

    found = scores(model, Found())
    items = Items([str(i) for i in range(COUNT)], torch.arange(COUNT))
    data = Embedded.single({m: vectors[m] for m in (query, document)}, items)
    own = Retrieval((query, document)).measure(data, model.encoder).figures
    for k in (1, 5, 10):
        assert found[f"recall_at_{k}"] == pytest.approx(own[f"{query}_to_{document}/recall@{k}"].value, abs=1e-5)
    assert 0 < found["recall_at_10"] < 1


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")  # of labels that are not found
@pytest.mark.parametrize("modality", ["picture", "voice"])
def test_zero_shot_is_the_nearest_label(
    modality: str, model: MtebModel, values: dict[str, list[Any]], vectors: dict[str, torch.Tensor]
) -> None:
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.zeroshot_classification import AbsTaskZeroShotClassification

    kind, nearest = KIND[modality], (vectors[modality] @ vectors["caption"].T).argmax(1)
    assert len(nearest.unique()) > 2
    labels = [(int(own) + i % 3) % COUNT for i, own in enumerate(nearest)]  # every third one is right

    class Labels(AbsTaskZeroShotClassification):
        metadata = metadata("ZeroShotClassification", f"Labels{kind}", [kind, "text"], f"{kind[0]}2t", "accuracy")
        input_column_name = kind

        def load_data(self, *_: Any, **__: Any) -> None:
            self.dataset = DatasetDict(test=Dataset.from_dict({kind: values[modality], "label": labels}))
            self.data_loaded = True

        def get_candidate_labels(self) -> list[str]:
            return values["caption"]

    assert scores(model, Labels())["accuracy"] == pytest.approx(1 / 3)


def test_similarity_of_texts_is_the_cosine(
    model: MtebModel, values: dict[str, list[Any]], vectors: dict[str, torch.Tensor]
) -> None:
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.sts import AbsTaskSTS

    given, texts = np.random.default_rng(4).uniform(0, 5, COUNT - 1), values["caption"]

    class Similar(AbsTaskSTS):
        metadata = metadata("STS", "Similar", ["text"], "t2t", "cosine_spearman")

        def load_data(self, *_: Any, **__: Any) -> None:
            columns = {"sentence1": texts[1:], "sentence2": texts[:-1], "score": given}
            self.dataset = DatasetDict(test=Dataset.from_dict(columns))
            self.data_loaded = True

    found = scores(model, Similar())
    cosines = (vectors["caption"][1:] * vectors["caption"][:-1]).sum(1)
    expected = np.corrcoef(cosines, given)[0, 1]
    assert found["cosine_pearson"] == pytest.approx(expected, abs=1e-5)
    assert found["pearson"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those tasks have two samples each, for which their own statistics warn
def test_every_mock_task_of_mteb_runs(model: MtebModel) -> None:
    import mteb

    told = mteb.mock_run(model)
    failed = {name: result.exception for name, result in told.items() if hasattr(result, "exception")}
    assert {why for why in failed.values() if "torchcodec" not in why} == set()
    assert sum(result is not None for _, result in told.items()) - len(failed) >= 40


def test_a_text_with_a_picture_lies_between_both(
    model: MtebModel, values: dict[str, list[Any]], vectors: dict[str, torch.Tensor]
) -> None:
    from datasets import Dataset
    from mteb._create_dataloaders import create_dataloader
    from mteb.types import PromptType

    about = metadata("Any2AnyRetrieval", "Both", ["image", "text"], "it2it", "recall_at_5")
    data = Dataset.from_dict({"id": ["a", "b", "c"], "text": values["caption"][:3], "image": values["picture"][:3]})
    loader = create_dataloader(data, task_metadata=about, prompt_type=PromptType.document, batch_size=2)
    both = model.encode(loader, task_metadata=about, hf_split="test", hf_subset="default", batch_size=2)
    expected = F.normalize(vectors["caption"][:3] + vectors["picture"][:3], dim=-1)
    np.testing.assert_allclose(both, expected, atol=1e-5)


def test_similarities_are_cosines_of_either_kind_of_array(model: MtebModel) -> None:
    a, b = torch.randn(3, 4), np.random.default_rng(0).normal(size=(3, 4))
    expected = F.cosine_similarity(a[:, None], torch.tensor(b, dtype=torch.float32)[None], dim=-1)
    torch.testing.assert_close(model.similarity(a, b), expected)
    torch.testing.assert_close(model.similarity_pairwise(a, b), expected.diag())
    torch.testing.assert_close(model.similarity(a[0], b[1]), expected[:1, 1:2])


def test_channels_are_averaged(model: MtebModel, vectors: dict[str, torch.Tensor]) -> None:
    (sound,) = small_model.sounds(1)
    wide = {"array": np.stack([sound["array"] * 2, np.zeros_like(sound["array"])]), "sampling_rate": 8000}
    np.testing.assert_allclose(model.encode([{"audio": [wide]}]), vectors["voice"][:1], atol=1e-5)


def test_integers_are_the_floats_that_they_stand_for(model: MtebModel, vectors: dict[str, torch.Tensor]) -> None:
    (sound,) = small_model.sounds(1)
    samples = np.round(sound["array"] * 2**31).clip(-(2**31), 2**31 - 1).astype(np.int32)
    whole = {"array": np.stack([samples, samples]), "sampling_rate": 8000}
    np.testing.assert_allclose(model.encode([{"audio": [whole]}]), vectors["voice"][:1], atol=1e-5)


def test_results_of_other_weights_are_filed_elsewhere(encoder: Encoder) -> None:
    before = MtebModel(encoder, name="me/mine").mteb_model_meta
    weight = next(encoder.model.parameters())
    with torch.no_grad():
        weight.add_(1)
        after = MtebModel(encoder, name="me/mine").mteb_model_meta
        weight.sub_(1)
    assert before.name == after.name == "me/mine"
    assert before.revision != after.revision
    assert set(before.modalities) == {"text", "image", "audio"}
    assert before.embed_dim == 16


def test_a_missing_kind_and_a_doubtful_one_are_told(tmp_path: Path, encoder: Encoder) -> None:
    small = {"name": "vit", "image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "heads": 2}
    photos = Encoder(MultiTower({m: TOWERS.check(small).build(dim=16) for m in ("photo", "sketch")}, 16))
    with pytest.raises(MmclError, match="photo and sketch take image; say which, as in towers={'image': 'photo'}"):
        MtebModel(photos)
    told = MtebModel(photos, towers={"image": "sketch"})
    pictures = small_model.pictures(2)
    np.testing.assert_allclose(told.encode([{"image": pictures}]), photos.embed("sketch", pictures), atol=1e-6)
    with pytest.raises(MmclError, match="no tower for text; it has one for: image"):
        told.encode([{"text": ["a"], "image": pictures[:1]}])
    with pytest.raises(MmclError, match="'voice' takes no image"):
        MtebModel(encoder, towers={"image": "voice"})
    with pytest.raises(MmclError, match="'video' is no kind of input"):
        MtebModel(encoder, towers={"video": "voice"})


def test_mteb_knows_which_tasks_are_not_for_a_model(tmp_path: Path) -> None:
    import mteb
    from mteb.mocks.mock_tasks.sts import MockSTSTask

    towers = {"voice": small_model.towers(tmp_path)["voice"]}
    model = MtebModel(Encoder(MultiTower(towers, small_model.DIM)))
    with pytest.raises(ValueError, match="none overlap"):
        mteb.evaluate(model, [MockSTSTask()], cache=None, show_progress_bar=False)


def test_bad_input_is_told(model: MtebModel) -> None:
    with pytest.raises(MmclError, match="precision: mmcl's vectors are float32; got 'int8'"):
        model.encode([{"text": ["a"]}], precision="int8")
    with pytest.raises(MmclError, match="mteb: nothing to embed"):
        model.encode(DataLoader([]))  # type: ignore[arg-type]
    with pytest.raises(MmclError, match="a batch has no input; it has: label"):
        model.encode([{"label": [1]}])
    with pytest.raises(MmclError, match='a sound is {"array": samples, "sampling_rate": rate} here; got list'):
        model.encode([{"audio": [[0.0, 1.0]]}])
    with pytest.raises(MmclError, match=r"is \(channels, frames\) here; got \(8000, 2\)"):
        model.encode([{"audio": [{"array": np.zeros((8000, 2)), "sampling_rate": 8000}]}])
    with pytest.raises(MmclError, match="mteb wants organization/model, with one slash; got 'mine'"):
        MtebModel(model.encoder, name="mine")


def test_without_mteb_it_is_told(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb.models", None)
    with pytest.raises(MmclError, match="mteb is not installed: pip install mteb"):
        MtebModel(encoder)
