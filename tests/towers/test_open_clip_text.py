"""Text towers of open_clip by name: its own vectors, from strings on."""

import json
import random
import string
import time
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

from mmcl.errors import MmclError
from mmcl.model import Encoder, MultiTower
from mmcl.towers import TOWERS, Backbone, Tower, train_sentencepiece
from mmcl.towers.library_tokenizers import Bpe
from mmcl.towers.tokenizers import TOKENIZERS
from tests.towers.test_transformers_text import rows
from tests.towers.tiny_texts import TEXTS

VISION = {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 16, "width": 32, "heads": 2, "layers": 2}
SIGLIP = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "norm_kwargs": {"eps": 1e-6}}
MORE = ["A photo of a cat, isn't it?!", "", "x" * 300]


@pytest.fixture(scope="module")
def files(made: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Configurations as open_clip has them."""
    root = tmp_path_factory.mktemp("open_clip")
    words = {"hf_tokenizer_name": made["siglip"], "tokenizer_kwargs": {"clean": "canonicalize"}, "vocab_size": 24}
    hugging = {"hf_model_name": made["roberta"], "hf_tokenizer_name": made["roberta"], "context_length": 20}
    texts = {
        "clip": TEXT,
        "siglip": {**TEXT, **SIGLIP, **words},
        "coca": {**TEXT, "embed_cls": True, "output_tokens": True},
        "roberta": {**hugging, "hf_pooler_type": "mean_pooler", "hf_model_pretrained": False},
    }
    for name, text in texts.items():
        config = {"embed_dim": 20, "vision_cfg": VISION, "text_cfg": text, "quick_gelu": name == "clip"}
        (root / f"{name}.json").write_text(json.dumps(config))
    return {name: root / f"{name}.json" for name in texts}


def build(file: Path | str, dim: int | None = 20, **more: object) -> Backbone:
    backbone = TOWERS.check({"name": "open_clip_text", "model": str(file), **more}).made(dim=dim)
    assert isinstance(backbone, Backbone)
    return backbone.eval()


def whole(file: Path, flat: bool) -> open_clip.CLIP | open_clip.CustomTextCLIP:
    config = json.loads(file.read_text())
    torch.manual_seed(1)
    model = (open_clip.CLIP if flat else open_clip.CustomTextCLIP)(**config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


@pytest.mark.parametrize(
    ("name", "flat"), [("clip", True), ("clip", False), ("siglip", False), ("coca", False), ("roberta", False)]
)
@torch.no_grad()
def test_vectors_are_open_clips_own_and_those_of_a_text_alone(files: dict[str, Path], name: str, flat: bool) -> None:
    model, config = whole(files[name], flat), json.loads(files[name].read_text())["text_cfg"]
    backbone = build(files[name])
    state = backbone.translated(model.state_dict())
    assert not set(backbone.state_dict()) - set(state)
    backbone.load_state_dict({k: t for k, t in state.items() if k in backbone.state_dict()})
    if "hf_tokenizer_name" in config:
        clean = config.get("tokenizer_kwargs", {})
        words = HFTokenizer(config["hf_tokenizer_name"], context_length=config["context_length"], **clean)
    else:
        words = SimpleTokenizer(context_length=config["context_length"])
    texts = [*TEXTS, *MORE]
    expected = model.encode_text(words(texts)) if name != "coca" else model.text(words(texts))[0]
    vectors = backbone(rows(backbone, *texts))
    torch.testing.assert_close(vectors, expected, rtol=1e-5, atol=1e-5)
    assert (vectors[:1] - vectors[1:]).abs().amax(1).min() > 1e-3
    alone = torch.cat([backbone(rows(backbone, text)) for text in texts])
    torch.testing.assert_close(vectors, alone, rtol=1e-5, atol=1e-5)


def test_positions_are_resized_to_another_length(files: dict[str, Path]) -> None:
    model = whole(files["clip"], flat=True)
    backbone = build(files["clip"], context_length=24)
    state = backbone.translated(model.state_dict())
    assert state["text.positional_embedding"].shape == (24, 32)
    assert model.state_dict()["positional_embedding"].shape == (16, 32)
    backbone.load_state_dict({k: t for k, t in state.items() if k in backbone.state_dict()})
    assert rows(backbone, "a cat").shape == (1, 24)


def test_without_its_projection_a_head_follows(files: dict[str, Path]) -> None:
    for name in ("clip", "siglip", "roberta"):
        backbone = build(files[name], None)
        assert backbone(rows(backbone, "a cat")).shape == (1, backbone.width) == (1, 32)
    spec = {"name": "open_clip_text", "model": str(files["clip"]), "head": "mlp"}
    assert TOWERS.check(spec).build(dim=12, load=False).head is not None


@pytest.mark.parametrize("causal", [True, False])
def test_a_tokenizer_of_ones_own(files: dict[str, Path], tmp_path: Path, causal: bool) -> None:
    captions = ["".join(random.Random(n).choices(string.ascii_lowercase + " ", k=30)) for n in range(200)]
    model = train_sentencepiece(captions, tmp_path / "t.model", vocab_size=300)
    file = files["clip" if causal else "siglip"]
    backbone = build(file, tokenizer={"name": "sentencepiece", "model": str(model)})
    assert backbone.text.vocab_size == 300
    with torch.no_grad():
        vectors = backbone(rows(backbone, *TEXTS, "日本語 ☃"))
        other = backbone(rows(backbone, "a cat", "☃" * 20))
    torch.testing.assert_close(vectors[0], other[0], rtol=1e-5, atol=1e-5)
    assert (vectors[:1] - vectors[1:]).abs().amax(1).min() > 1e-3


def test_bpe_for_a_transformer_of_ones_own() -> None:
    spec = {"name": "text_transformer", "tokenizer": "open_clip_bpe", "context_length": 16, "width": 32, "layers": 1}
    backbone = TOWERS.check({**spec, "heads": 2}).made(dim=8)
    assert rows(backbone, *TEXTS).equal(SimpleTokenizer(context_length=16)(TEXTS))
    with pytest.raises(MmclError, match="causal: false needs a padding token, and open_clip_bpe has none"):
        TOWERS.check({**spec, "heads": 2, "causal": False}).made(dim=8)


def test_a_tokenizer_of_transformers_for_a_transformer_of_ones_own(made: dict[str, str]) -> None:
    words = {"name": "transformers", "model": made["bert"]}
    spec = {"name": "text_transformer", "tokenizer": words, "context_length": 6, "width": 32, "layers": 1, "heads": 2}
    backbone = TOWERS.check({**spec, "causal": False}).made(dim=8)
    assert backbone.tokenizer.eos_id == 3
    assert rows(backbone, "a cat", "a cat on the sea").tolist() == [[2, 4, 7, 3, 0, 0], [2, 4, 7, 12, 13, 3]]
    assert TOKENIZERS.check({**words, "model": made["clip"]}).build().pad_id is None


def test_tokens_are_open_clips_in_bounded_time() -> None:
    ours, theirs = Bpe(context_length=77), SimpleTokenizer(context_length=77)
    draw = random.Random(0)
    alphabets = (string.ascii_lowercase, "ab", "!?.", "日本語", "äöü", string.printable, "<start_of_text> &amp; 1's")
    for alphabet in alphabets:
        for length in (1, 90, 101, 400):
            text = "".join(draw.choices(alphabet, k=length))
            expected = theirs(text)[0]
            assert expected[: len(ours.row(text))].tolist() == ours.row(text)
            assert not expected[len(ours.row(text)) :].any()
    start = time.process_time()
    ours.row("".join(draw.choices(string.ascii_lowercase, k=100_000)))
    ours.row("red boats " * 10_000)
    assert time.process_time() - start < 2  # open_clip's loop over one word of this length takes minutes


@pytest.mark.parametrize("name", ["clip", "siglip", "roberta"])
def test_no_text_crashes(files: dict[str, Path], name: str) -> None:
    tower = Tower(build(files[name]))
    encoder = Encoder(MultiTower({"text": tower}, 20))
    texts = ["", "  \n", "a cat " * 17000, "x" * 100_000, "\N{GRINNING FACE}" * 3]
    assert torch.allclose(encoder.embed("text", texts).norm(dim=1), torch.ones(5), atol=1e-4)
    with pytest.raises(MmclError, match="value 0: the text holds half a character"):
        encoder.embed("text", ["a \ud800 cat"])


@pytest.mark.parametrize("name", ["clip", "roberta"])
def test_activations_that_are_computed_again_give_the_same_gradients(files: dict[str, Path], name: str) -> None:
    backbone = build(files[name])
    for module in backbone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0
    backbone.train()
    found = []
    for _ in range(2):
        backbone.zero_grad()
        backbone(rows(backbone, *TEXTS)).square().sum().backward()
        found.append({k: p.grad.clone() for k, p in backbone.named_parameters() if p.grad is not None})
        backbone.recompute_()
    for key in found[0]:
        torch.testing.assert_close(found[0][key], found[1][key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("ViT-B-33", "open_clip has no model 'ViT-B-33'; did you mean 'ViT-B-32'"),
        ("nowhere.json", "there is no file 'nowhere.json'"),
        ("roberta-ViT-B-32", "roberta-base: the configuration of its text model cannot be read"),
        ("ViT-B-16-SigLIP", "timm/ViT-B-16-SigLIP: the tokenizer cannot be read"),
    ],
)
def test_what_is_not_there_is_told(model: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with torch.device("meta"), pytest.raises(MmclError, match=told):
        build(model)


def test_builds_on_the_meta_device_and_knows_its_tags() -> None:
    with torch.device("meta"):
        backbone = build("ViT-B-32", 512)
    assert sum(p.numel() for p in backbone.parameters()) == 63_428_096
    with pytest.raises(MmclError, match="no weights 'openay' of ViT-B-32; did you mean 'openai'"):
        backbone.pretrained("openay")


def test_weights_of_a_folder(files: dict[str, Path], tmp_path: Path) -> None:
    model = whole(files["clip"], flat=True)
    config = {"model_cfg": json.loads(files["clip"].read_text()), "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    torch.save(model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    backbone = build(f"local-dir:{tmp_path}")
    state = backbone.translated(backbone.pretrained(None))
    assert state["text.text_projection"].equal(model.state_dict()["text_projection"])
    with pytest.raises(MmclError, match="has one set of weights"):
        backbone.pretrained("openai")
