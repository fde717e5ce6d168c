"""Audio encoders of transformers: the library's own vectors, its feature extractors included."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers as tf
from transformers.models.clap import feature_extraction_clap

from mmcl.errors import MmclError
from mmcl.model import Encoder, MultiTower
from mmcl.towers import TOWERS, Tower, TowerSpec
from mmcl.towers.transformers_audio import TransformersAudio

RNG = np.random.default_rng(0)
TEXT: dict[str, Any] = {
    "vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8
}  # fmt: skip
HTSAT: dict[str, Any] = {
    "spec_size": 128, "num_mel_bins": 64, "patch_size": 4, "patch_stride": [4, 4], "depths": [1, 1], "hidden_size": 16,
    "num_attention_heads": [2, 2], "patch_embeds_hidden_size": 8, "window_size": 4, "num_hidden_layers": 2,
}  # fmt: skip
EXTRACTOR: dict[str, Any] = {
    "feature_size": 64, "sampling_rate": 8_000, "hop_length": 80, "max_length_s": 2, "fft_window_size": 1024,
    "frequency_min": 50, "frequency_max": 4_000,
}  # fmt: skip
RATES = {"clap": 8_000, "clap_fused": 8_000, "ast": 16_000, "whisper": 16_000}


def clap(folder: Path, fuses: bool) -> tf.PreTrainedModel:
    config = tf.ClapConfig(
        text_config=tf.ClapTextConfig(**TEXT),
        audio_config=tf.ClapAudioConfig(**HTSAT, enable_fusion=fuses),
        projection_dim=12,
    )
    truncation = "fusion" if fuses else "rand_trunc"
    tf.ClapFeatureExtractor(**EXTRACTOR, truncation=truncation).save_pretrained(folder)
    return tf.ClapModel(config)


def ast(folder: Path) -> tf.PreTrainedModel:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = tf.ASTConfig(**sizes, max_length=96, num_mel_bins=32, patch_size=16, num_labels=3)
    tf.ASTFeatureExtractor(max_length=96, num_mel_bins=32, mean=-4.0, std=4.5).save_pretrained(folder)
    return tf.ASTForAudioClassification(config)


def whisper(folder: Path) -> tf.PreTrainedModel:
    config = tf.WhisperConfig(
        d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, max_source_positions=100, vocab_size=30, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    tf.WhisperFeatureExtractor(chunk_length=2).save_pretrained(folder)
    return tf.WhisperForConditionalGeneration(config)


MAKES: dict[str, Callable[[Path], tf.PreTrainedModel]] = {
    "clap": lambda folder: clap(folder, fuses=False),
    "clap_fused": lambda folder: clap(folder, fuses=True),
    "ast": ast,
    "whisper": whisper,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Any]]:
    """Folders, and what stands in them."""
    made = {}
    for name, make in MAKES.items():
        folder = tmp_path_factory.mktemp(name)
        torch.manual_seed(0)
        model = make(folder).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:  # large enough that sounds can be told apart; AST's positions begin at zero
                torch.nn.init.normal_(parameter, std=0.5)
        model.save_pretrained(folder)
        made[name] = (str(folder), model)
    return made


def backbone(folder: str, dim: int | None = None, **more: Any) -> TransformersAudio:
    made = TOWERS.check({"name": "transformers_audio", "model": folder, **more}).made(dim=dim)
    assert isinstance(made, TransformersAudio)
    made.load_state_dict({**made.state_dict(), **made.pretrained(None)})
    return made.eval()


def sounds(rate: int, *seconds: float) -> list[np.ndarray]:
    made = []
    for second in seconds:
        time = np.arange(round(second * rate)) / rate
        sweep = 0.3 * np.sin(2 * np.pi * (300 + 400 * time) * time) + 0.1 * RNG.standard_normal(len(time))
        made.append(sweep.astype(np.float32))
    return made


def ours(made: Any, waves: list[np.ndarray]) -> torch.Tensor:
    model = Encoder(MultiTower({"voice": Tower(made)}, dim=made.width))
    return model.embed("voice", [(wave, made.logmel.mel.rate) for wave in waves])


@torch.no_grad()
def theirs(name: str, folder: str, model: Any, waves: list[np.ndarray], **more: Any) -> torch.Tensor:
    extractor = tf.AutoFeatureExtractor.from_pretrained(folder)
    vectors = []
    for wave in waves:
        seen = extractor(wave, sampling_rate=RATES[name], return_tensors="pt", **more)
        if name == "ast":
            vectors.append(model.audio_spectrogram_transformer(**seen).pooler_output)
        elif name == "whisper":
            hidden = model.model.encoder(**seen).last_hidden_state
            vectors.append(hidden[:, : -(-len(wave) // 320)].mean(1))
        else:
            if name == "clap_fused":  # the extractor calls one sound of a batch long where none is
                seen["is_longer"] = torch.tensor([[len(wave) >= 16_080]])
            vectors.append(model.get_audio_features(**seen).pooler_output)
    return F.normalize(torch.cat(vectors), dim=-1)


@pytest.mark.filterwarnings("ignore:At least one mel filter")  # of the extractors
@pytest.mark.parametrize("name", MAKES)
def test_vectors_are_the_librarys(models: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model = models[name]
    waves = sounds(RATES[name], 1.3, 0.4, 0.96, 1.99)
    if name in ("ast", "whisper"):
        waves += sounds(RATES[name], 3.0)  # cut at its beginning, by both
    if name == "clap_fused":
        waves += [*sounds(8_000, 3.1, 7.0), sounds(8_000, 2.2)[0][:16_040]]
        firsts = iter(
            start for wave in waves[-3:-1] for spare in [(len(wave) - 16_000) // 80] for start in (0, spare // 2, spare)
        )

        def choice(third: np.ndarray) -> int:
            first = next(firsts)
            assert first in third
            return first

        monkeypatch.setattr(feature_extraction_clap.np.random, "choice", choice)
    dim = 12 if name.startswith("clap") else None
    found, expected = ours(backbone(folder, dim), waves), theirs(name, folder, model, waves)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (expected @ expected.T)[~torch.eye(len(waves), dtype=torch.bool)].min() < 0.99  # they can be told apart


@pytest.mark.parametrize("name", MAKES)
def test_a_sound_has_one_vector_alone_and_in_company(models: dict[str, Any], name: str) -> None:
    made = backbone(models[name][0])
    waves = sounds(RATES[name], 0.9, 3.4, 0.1, 2.0, 0.0002, 9.0)
    together = ours(made, waves)
    torch.testing.assert_close(together, torch.cat([ours(made, [w]) for w in waves]), rtol=0, atol=1e-5)
    assert together.isfinite().all()
    if name != "clap_fused":
        spread = backbone(models[name][0], windows=3)
        some = ours(spread, waves)
        torch.testing.assert_close(some, torch.cat([ours(spread, [w]) for w in waves]), rtol=0, atol=1e-5)
        torch.testing.assert_close(some[0], together[0], rtol=0, atol=1e-5)  # shorter than a window
        assert (some[5] - together[5]).abs().max() > 1e-3


@pytest.mark.parametrize("name", MAKES)
def test_weights_of_whole_models_find_their_place(models: dict[str, Any], name: str) -> None:
    folder, model = models[name]
    made = backbone(folder, dim=12)
    state = made.translated(model.state_dict())
    own = made.state_dict()
    assert set(own) <= set(state)
    assert all(torch.equal(own[key], state[key]) for key in own)
    again = made.translated(own)
    assert set(again) == set(own)
    part = model.audio_model if name.startswith("clap") else getattr(model, model.base_model_prefix)
    bare = backbone(folder)
    assert set(bare.state_dict()) <= set(bare.translated(part.state_dict()))


def test_former_names_of_ast_are_known(models: dict[str, Any]) -> None:
    folder, model = models["ast"]
    former = {}
    for key, t in model.state_dict().items():
        for new, old in {
            "q_proj": "attention.query", "k_proj": "attention.key", "v_proj": "attention.value",
            "attention.o_proj": "attention.output.dense", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
            "transformer.layers": "transformer.encoder.layer",
        }.items():  # fmt: skip
            key = key.replace(new, old)
        former[key] = t
    made = backbone(folder)
    state = made.translated(former)
    assert all(torch.equal(t, state[key]) for key, t in made.state_dict().items())


@pytest.mark.parametrize(("name", "pool"), [("ast", "mean"), ("whisper", "mean"), ("whisper", "own")])
def test_pooling(models: dict[str, Any], name: str, pool: str) -> None:
    folder, model = models[name]
    made = backbone(folder, pool=pool)
    (wave,) = sounds(16_000, 0.5)
    extractor = tf.AutoFeatureExtractor.from_pretrained(folder)
    seen = extractor(wave, sampling_rate=16_000, return_tensors="pt")
    inner = model.audio_spectrogram_transformer if name == "ast" else model.model.encoder
    hidden = inner(**seen).last_hidden_state[0]
    part = hidden[2:] if name == "ast" else hidden if pool == "mean" else hidden[:25]
    torch.testing.assert_close(ours(made, [wave])[0], F.normalize(part.mean(0), dim=0), rtol=0, atol=1e-5)


def test_whispers_mean_is_taken_in_fp32_under_autocast(models: dict[str, Any]) -> None:
    made, seen = backbone(models["whisper"][0]).eval(), []
    made.model.register_forward_hook(lambda _, __, out: seen.append(out.last_hidden_state) or out)
    waves = torch.full((1, made.samples), torch.nan)
    waves[:, : made.samples * 7 // 9] = torch.randn(made.samples * 7 // 9)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = made(waves)
    there = ~waves[0, :: 2 * made.logmel.mel.hop].isnan()
    torch.testing.assert_close(found, seen[0][:, there].float().mean(1), rtol=1e-5, atol=1e-6)


def test_towers_have_heads_where_the_model_has_no_projection(models: dict[str, Any]) -> None:
    for name, (folder, _) in models.items():
        spec = TOWERS.check({"name": "transformers_audio", "model": folder})
        assert isinstance(spec, TowerSpec)
        with torch.device("meta"):
            tower = spec.build(dim=6, load=False)
        assert all(p.is_meta for p in tower.parameters())
        assert isinstance(tower.head, torch.nn.Identity) == name.startswith("clap")
        rows = torch.from_numpy(np.stack(sounds(RATES[name], 1.0, 1.0)))
        if not name.startswith("clap"):
            assert spec.build(dim=6, load=False)(rows).shape == (2, 6)


@pytest.mark.parametrize("name", ["ast", "whisper"])
def test_recomputation_changes_nothing(models: dict[str, Any], name: str) -> None:
    made = backbone(models[name][0]).train()
    rows = torch.from_numpy(np.stack(sounds(16_000, 0.9, 0.9)))
    gradients = []
    for _ in range(2):
        made.zero_grad()
        made(rows).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in made.parameters() if p.grad is not None]))
        made.recompute_()
    torch.testing.assert_close(*gradients)
    assert made.varies
    assert not backbone(models["whisper"][0], crop="start").varies


def test_what_cannot_be_is_refused(models: dict[str, Any], tmp_path: Path) -> None:
    for name, more, told in [
        ("clap", {"pool": "mean"}, "CLAP's own vector is a mean"),
        ("clap", {"longest": 20}, "does not fuse"),
        ("clap_fused", {"windows": 2}, "fuses long sounds itself"),
    ]:
        with pytest.raises(MmclError, match=told):
            backbone(models[name][0], **more)
    with pytest.raises(MmclError, match="the configuration cannot be read: the folder"):
        backbone(str(tmp_path))
    tf.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(MmclError, match="is a bert"):
        backbone(str(tmp_path))
    with pytest.raises(MmclError, match="gradient_checkpointing"):
        backbone(models["clap"][0]).recompute_()
