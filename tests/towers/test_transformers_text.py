"""Text models of transformers behind the seam: the library's own vectors, from strings on."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers as tf
from safetensors.torch import load_file

from mmcl.errors import MmclError
from mmcl.model import Encoder, MultiTower
from mmcl.towers import TOWERS, Backbone, Tower
from tests.towers.tiny_texts import TEXTS, roberta_like, save

Made = dict[str, str]
CASES = {
    "clip": "own",
    "siglip": "own",
    "clap": "own",
    "bert": "mean",
    "roberta": "cls",
    "gpt2": "last",
    "qwen2": "eos",
    "t5": "mean",
}


def build(made: Made, kind: str, dim: int | None = None, **more: object) -> Backbone:
    spec = {"name": "transformers_text", "model": made[kind], "pool": CASES[kind], **more}
    backbone = TOWERS.check(spec).made(dim=dim)
    assert isinstance(backbone, Backbone)
    return backbone.eval()


def loaded(made: Made, kind: str, dim: int | None = None, **more: object) -> Backbone:
    backbone = build(made, kind, dim, **more)
    fits = {k: t for k, t in backbone.pretrained(None).items() if k in backbone.state_dict()}
    backbone.load_state_dict(fits)
    return backbone


def rows(backbone: Backbone, *texts: str) -> torch.Tensor:
    transform = backbone.transform(train=False)
    room = transform.empty(len(texts))
    for text, row in zip(texts, room, strict=True):
        transform(text, lambda: None, row)
    return transform.finish(room, torch.ones(len(texts), dtype=torch.bool))


def asked(folder: str, **more: object) -> dict[str, torch.Tensor]:
    words = tf.AutoTokenizer.from_pretrained(folder)
    if words.pad_token is None:
        words.pad_token = words.eos_token
    return dict(words(TEXTS, return_tensors="pt", **{"padding": True, **more}))


def reference(kind: str, folder: str) -> torch.Tensor:
    """As the library's documentation has it."""
    if kind == "clip":
        return tf.CLIPModel.from_pretrained(folder).get_text_features(**asked(folder)).pooler_output
    if kind == "siglip":
        model = tf.SiglipModel.from_pretrained(folder)
        return model.get_text_features(**asked(folder, padding="max_length", max_length=24)).pooler_output
    if kind == "clap":
        return tf.ClapTextModelWithProjection.from_pretrained(folder)(**asked(folder)).text_embeds
    model = (tf.T5EncoderModel if kind == "t5" else tf.AutoModel).from_pretrained(folder)
    given = asked(folder)
    if kind == "qwen2":  # an end of one's own, as E5-Mistral's authors set it
        words = tf.AutoTokenizer.from_pretrained(folder, pad_token="<e>")
        given = dict(words([text + "<e>" for text in TEXTS], return_tensors="pt", padding=True))
    hidden, mask = model.eval()(**given).last_hidden_state, given["attention_mask"]
    if kind in ("bert", "t5"):
        return (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    return hidden[:, 0] if kind == "roberta" else hidden[torch.arange(len(TEXTS)), mask.sum(1) - 1]


@pytest.mark.parametrize("kind", CASES)
@torch.no_grad()
def test_vectors_are_the_librarys_own_and_those_of_a_text_alone(made: Made, kind: str) -> None:
    backbone = loaded(made, kind, 20 if CASES[kind] == "own" else None)
    vectors = backbone(rows(backbone, *TEXTS))
    expected = reference(kind, made[kind])
    torch.testing.assert_close(vectors, expected, rtol=1e-5, atol=1e-5)
    assert vectors.shape[1] == backbone.width
    assert (vectors[:1] - vectors[1:]).abs().amax(1).min() > 0.01  # texts differ by more than what is allowed above
    alone = torch.cat([backbone(rows(backbone, text)) for text in TEXTS])
    torch.testing.assert_close(vectors, alone, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_claps_vectors_are_those_of_the_whole_model(made: Made) -> None:
    backbone = loaded(made, "clap", 20)
    whole = tf.ClapModel.from_pretrained(made["clap"]).eval()
    expected = whole.get_text_features(**asked(made["clap"])).pooler_output
    torch.testing.assert_close(F.normalize(backbone(rows(backbone, *TEXTS))), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "siglip", "clap"])
def test_without_its_projection_a_head_follows(made: Made, kind: str) -> None:
    backbone = loaded(made, kind)
    assert backbone.width == 32
    assert backbone(rows(backbone, "a cat")).shape == (1, 32)
    tower = TOWERS.check({"name": "transformers_text", "model": made[kind], "head": "mlp"}).build(dim=20, load=False)
    assert tower(rows(tower.backbone, "a cat")).shape == (1, 20)


def test_a_model_without_a_projection_has_a_head(made: Made) -> None:
    tower = TOWERS.check({"name": "transformers_text", "model": made["bert"], "pool": "mean"}).build(dim=32, load=False)
    assert isinstance(tower.head, torch.nn.Linear)
    own = TOWERS.check({"name": "transformers_text", "model": made["clip"]}).build(dim=20, load=False)
    assert isinstance(own.head, torch.nn.Identity)


@pytest.mark.parametrize("kind", CASES)
def test_names_of_whole_models_become_its_own(made: Made, kind: str) -> None:
    backbone = build(made, kind)
    state = backbone.translated(load_file(f"{made[kind]}/model.safetensors"))
    lacking = set(backbone.state_dict()) - set(state)
    assert lacking == ({"text.encoder.embed_tokens.weight"} if kind == "t5" else set())  # tied to another one
    assert set(backbone.translated(backbone.state_dict())) == set(backbone.state_dict())


def test_weights_that_are_missing_are_told(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made["roberta"], tmp_path / "m")
    tensors = load_file(tmp_path / "m/model.safetensors")
    from safetensors.torch import save_file

    save_file({k: t for k, t in tensors.items() if "layer.1.output.dense" not in k}, tmp_path / "m/model.safetensors")
    backbone = build({"roberta": str(tmp_path / "m")}, "roberta")
    with pytest.raises(MmclError, match="no weights for .*layer.1.output.dense"):
        backbone.pretrained(None)
    (tmp_path / "m/model.safetensors").unlink()
    with pytest.raises(MmclError, match="weights cannot be read"):
        backbone.pretrained(None)


@pytest.mark.parametrize("kind", ["clip", "bert", "qwen2"])
def test_activations_that_are_computed_again_give_the_same_gradients(made: Made, kind: str) -> None:
    backbone = loaded(made, kind)
    for module in backbone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0
    backbone.train()

    def gradients() -> dict[str, torch.Tensor]:
        backbone.zero_grad()
        backbone(rows(backbone, *TEXTS)).square().sum().backward()
        return {k: p.grad.clone() for k, p in backbone.named_parameters() if p.grad is not None}

    before = gradients()
    backbone.recompute_()
    calls = []
    backbone.text.register_forward_hook(lambda *_: calls.append(1))
    again = gradients()
    assert before.keys() == again.keys()
    assert any(getattr(m, "gradient_checkpointing", False) for m in backbone.modules())
    for name in before:
        torch.testing.assert_close(before[name], again[name], rtol=1e-5, atol=1e-6)


def test_every_weight_of_it_learns(made: Made) -> None:
    for kind in ("clip", "siglip", "bert", "roberta"):  # no pooler, no head that nothing comes of
        backbone = build(made, kind)
        backbone(rows(backbone, *TEXTS)).square().sum().backward()
        assert [k for k, p in backbone.named_parameters() if p.grad is None] == []


def test_varies_with_dropout(made: Made) -> None:
    assert build(made, "bert").varies
    assert not build(made, "clip").varies


def test_builds_on_the_meta_device(made: Made) -> None:
    with torch.device("meta"):
        for kind in ("clip", "siglip", "bert", "qwen2"):
            assert all(p.is_meta for p in build(made, kind).parameters())


@pytest.mark.parametrize(
    ("kind", "more", "told"),
    [
        ("bert", {"pool": "own"}, "pool: models of type bert do not say .* Say mean"),
        ("gpt2", {"pool": "cls"}, "sets no CLS token"),
        ("gpt2", {"context_length": 25}, "context_length: .* takes 24 tokens at most; got 25"),
        ("roberta", {"context_length": 25}, "takes 24 tokens at most"),
        ("siglip", {"suffix": " !"}, "suffix"),
        ("bert", {"context_length": 4, "prefix": "query : a"}, "leave no room"),
    ],
)
def test_what_cannot_be_is_told(made: Made, kind: str, more: dict[str, object], told: str) -> None:
    with pytest.raises(MmclError, match=told):
        build(made, kind, **more)


def test_a_model_that_takes_no_texts_is_told(tmp_path: Path) -> None:
    tf.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2).save_pretrained(tmp_path)
    with pytest.raises(MmclError, match="is a vit, which does not take texts"):
        TOWERS.check({"name": "transformers_text", "model": str(tmp_path), "pool": "mean"}).build(dim=24)


def test_a_model_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # otherwise it tries again and again
    with pytest.raises(MmclError, match="no/where: the configuration cannot be read: no folder of that name"):
        TOWERS.check({"name": "transformers_text", "model": "no/where"}).made(dim=8)


def test_an_end_that_the_model_does_not_know_is_told(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made["clip"], tmp_path / "m")
    config = tf.CLIPConfig.from_pretrained(tmp_path / "m")
    for number in (1, 2):
        config.text_config.eos_token_id = number
        config.save_pretrained(tmp_path / "m")
        with pytest.raises(MmclError, match=f"eos_token_id is {number} and the tokenizer's is 3"):
            build({"clip": str(tmp_path / "m")}, "clip")


def test_a_tokenizer_of_another_model_is_told(tmp_path: Path) -> None:
    small = tf.RobertaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    folder = save(tmp_path / "m", small, roberta_like())
    with pytest.raises(MmclError, match="more tokens than the model"):
        build({"roberta": folder}, "roberta")


def test_prefix_and_suffix_stand_around_every_text_and_are_not_cut(made: Made) -> None:
    backbone = build(made, "bert", prefix="query : ", suffix=" !", context_length=10)
    words = tf.AutoTokenizer.from_pretrained(made["bert"])
    assert rows(backbone, "a cat")[0].tolist() == words("query : a cat !").input_ids
    for text in ("red boats on the sea " * 20, "a cat on the sea !"):
        row = rows(backbone, text)[0].tolist()
        assert row[1:3] == words("query :", add_special_tokens=False).input_ids
        assert row[-2:] == words("!").input_ids[1:]
        assert len(row) in (9, 10)


def test_an_end_is_set_where_the_tokenizer_sets_none_also_where_a_text_is_cut(made: Made) -> None:
    backbone = build(made, "gpt2", pool="eos", context_length=6)
    assert rows(backbone, "a cat")[0].tolist() == [2, 5, 1]
    assert rows(backbone, "a cat " * 50)[0].tolist() == [2, 5, 2, 5, 2, 1]


@pytest.mark.parametrize("kind", CASES)
def test_no_text_crashes(made: Made, kind: str) -> None:
    tower = Tower(build(made, kind))
    encoder = Encoder(MultiTower({"text": tower}, tower.backbone.width))
    texts = ["a cat " * 17000, "x" * 100_000, "\N{GRINNING FACE}" * 3]
    if kind == "gpt2":  # sets no token of its own
        for text in ("", "  \n"):
            with pytest.raises(MmclError, match="value 0: the tokenizer finds no token in the text"):
                encoder.embed("text", [text])
    else:
        texts += ["", "  \n"]
    vectors = encoder.embed("text", texts)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(texts)), rtol=1e-4, atol=1e-4)
    with pytest.raises(MmclError, match="value 1: the text holds half a character"):
        encoder.embed("text", ["a cat", "a \ud800 cat"])


def test_threads_share_a_tokenizer(made: Made) -> None:
    from concurrent.futures import ThreadPoolExecutor

    transform = build(made, "bert").transform(train=True)
    make: Callable[[int], list[int]] = lambda n: list(transform.tokens(TEXTS[n % 4]))  # noqa: E731
    expected = [make(n) for n in range(4)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(make, range(400))) == expected * 100
