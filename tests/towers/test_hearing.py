"""Backbones over spectrograms: each sound's own vector, whatever its length and company."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from mmcl.data import Source, Stream
from mmcl.errors import MmclError
from mmcl.model import Encoder, MultiTower
from mmcl.towers import TOWERS, Tower
from mmcl.towers.spectrogram_vit import SpectrogramVit, blanked, some
from tests.data.test_index import tar

SMALL = {"seconds": 2.0, "mel": {"mels": 32}, "patch": [8, 8], "width": 32, "layers": 2, "heads": 2}
RNG = np.random.default_rng(0)


def vit(**more: Any) -> SpectrogramVit:
    backbone = TOWERS.check({"name": "spectrogram_vit", **SMALL, **more}).made()
    assert isinstance(backbone, SpectrogramVit)
    return backbone


def sound(seconds: float, rate: int = 16_000) -> tuple[np.ndarray, int]:
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * (300 + 200 * time) * time) + 0.02 * RNG.standard_normal(len(time))), rate


def encoder(backbone: Any) -> Encoder:
    torch.manual_seed(0)
    return Encoder(MultiTower({"voice": Tower(backbone)}, dim=backbone.width))


SOUNDS = [sound(s) for s in (1.3, 0.25, 2.0, 5.0, 0.02)] + [sound(1.0, 22_050)]


@pytest.mark.parametrize("more", [{}, {"windows": 3}, {"mel": "ast"}, {"mel": {"preset": "clap", "mels": 32}}], ids=str)
def test_a_sound_has_one_vector_alone_and_in_company(more: dict[str, Any]) -> None:
    model = encoder(vit(**more))
    together = model.embed("voice", SOUNDS)
    alone = torch.cat([model.embed("voice", [x]) for x in SOUNDS])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(together, model.embed("voice", SOUNDS), rtol=0, atol=0)
    assert (together @ together.T)[~torch.eye(6, dtype=torch.bool)].max() < 0.99999


def test_vectors_are_timms_where_the_sound_fills_its_row() -> None:
    backbone = vit(seconds=1.6).eval()
    waves = torch.from_numpy(np.stack([sound(1.6)[0] for _ in range(2)])).float()
    theirs = backbone.transformer(backbone.logmel(waves).mT[:, None])
    torch.testing.assert_close(backbone(waves), theirs, rtol=1e-5, atol=1e-5)


def test_the_mean_is_taken_in_fp32_under_autocast() -> None:
    backbone = vit().eval()
    seen: list[torch.Tensor] = []
    backbone.transformer.blocks[-1].register_forward_hook(lambda _, __, tokens: seen.append(tokens))
    backbone.transformer.fc_norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        backbone(torch.from_numpy(sound(1.6)[0]).float()[None])
    tokens, mean = seen
    assert mean.dtype == torch.float32
    torch.testing.assert_close(mean, tokens.float().mean(1), rtol=1e-6, atol=1e-6)


def test_weights_of_another_longest_time_fit() -> None:
    longer, shorter = vit(seconds=4.0), vit()
    state = shorter.translated(longer.state_dict())
    shorter.load_state_dict(state)
    places = longer.transformer.pos_embed.unflatten(1, (4, 50))
    halved = shorter.transformer.pos_embed.unflatten(1, (4, 25))
    torch.testing.assert_close(halved, (places[:, :, ::2] + places[:, :, 1::2]) / 2)
    bare = vit().translated(vit().transformer.state_dict())
    assert set(bare) == set(shorter.state_dict())


def test_training_draws_what_it_is_told_to_and_learns() -> None:
    torch.manual_seed(0)
    backbone = vit(token_dropout=0.5, spec_augment=[0.3, 0.3]).train()
    rows = torch.from_numpy(np.stack([sound(2.0)[0] for _ in range(3)])).float()
    rows[1, 9_000:] = torch.nan
    first, second = backbone(rows), backbone(rows)
    assert not torch.allclose(first, second)
    first.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())
    assert backbone.varies
    assert not vit(crop="middle").varies


def test_recomputation_changes_nothing() -> None:
    backbone = vit().train()
    rows = torch.from_numpy(sound(1.0)[0][None]).float()
    gradients = []
    for _ in range(2):
        backbone.zero_grad()
        backbone(rows).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in backbone.parameters() if p.grad is not None]))
        backbone.recompute_()
    torch.testing.assert_close(*gradients)


def test_dropout_leaves_each_sound_its_share() -> None:
    tokens = torch.arange(20.0).repeat(2, 1)[..., None]
    own = torch.arange(20) < torch.tensor([[20], [5]])
    kept, there = some(tokens, own, 0.4)
    assert there.sum(1).tolist() == [8, 2]
    assert kept[1][there[1]].max() < 5
    assert len(kept[0][there[0]].unique()) == 8


def test_augmentation_blanks_one_stretch_each() -> None:
    torch.manual_seed(0)
    hidden = blanked(torch.ones(200, 50, 20), torch.full((200,), 40), (0.5, 0.25)) == 0
    time, bands = hidden.all(2).sum(1), hidden.all(1).sum(1)
    assert not hidden.all(2)[:, 40:].any()
    assert 15 <= time.max() <= 20
    assert 3 <= bands.max() <= 5
    assert (hidden.all(2).float().diff(dim=1) == 1).sum(1).max() <= 1


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"patch": [7, 8]}, "32 bands are no multiple of 7"),
        ({"heads": 3}, "3 do not divide the width 32"),
        ({"seconds": 0.001}, "shorter than one frame"),
    ],
)
def test_what_does_not_fit_is_refused(more: dict[str, Any], told: str) -> None:
    with pytest.raises(MmclError, match=told):
        vit(**more)


def test_it_builds_without_memory() -> None:
    with torch.device("meta"):
        assert all(p.is_meta for p in vit().parameters())


def test_sounds_of_any_make_have_a_vector(tmp_path: Path) -> None:
    model = encoder(vit())
    mono, rate = sound(1.0)
    paths = []
    for name, samples, subtype in [
        ("mono.wav", mono, "PCM_16"),
        ("stereo.wav", np.stack([mono, mono], axis=1), "PCM_24"),
        ("coarse.wav", mono, "PCM_U8"),
        ("one.flac", mono[:1], None),
    ]:
        soundfile.write(tmp_path / name, samples, rate, subtype=subtype)
        paths.append(tmp_path / name)
    vectors = model.embed("voice", [*paths, (mono[:1], rate), (np.stack([mono, mono], axis=1), rate)])
    assert vectors.isfinite().all()
    torch.testing.assert_close(vectors[0], vectors[1], rtol=0, atol=1e-3)
    torch.testing.assert_close(vectors[3], vectors[4], rtol=0, atol=1e-3)
    assert vectors[0] @ vectors[2] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_three_hours_cost_what_is_heard_of_them(tmp_path: Path, kind: str) -> None:
    minute, rate = (sound(60.0, 8_000)[0] * 0.5).astype(np.float32), 8_000
    path = tmp_path / f"long.{kind}"
    with soundfile.SoundFile(path, "w", rate, 1) as file:
        for _ in range(180):
            file.write(minute)
    model = encoder(vit(windows=4))
    model.embed("voice", [sound(3.0)])
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    vector = model.embed("voice", [path])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KB; decoded it has 345 MB
    assert vector.isfinite().all()
    torch.testing.assert_close(vector, model.embed("voice", [path, sound(0.5)])[:1], rtol=0, atol=1e-5)


def test_a_stream_lists_bad_sounds_and_goes_on(tmp_path: Path) -> None:
    good, empty = io.BytesIO(), io.BytesIO()
    soundfile.write(good, sound(0.5)[0], 16_000, format="WAV")
    soundfile.write(empty, np.zeros(0, np.float32), 16_000, format="WAV")
    nan = io.BytesIO()
    soundfile.write(nan, np.full(500, np.nan, np.float32), 16_000, format="WAV", subtype="FLOAT")
    sounds = {"a": good, "b": empty, "c": nan, "d": good}
    tar(tmp_path / "0.tar", [(f"{key}.wav", data.getvalue()) for key, data in sounds.items()])
    source = Source(shards=str(tmp_path), modalities={"audio": "wav"})
    (batch,) = Stream(source, batch_size=4, shuffle=False, transforms={"audio": vit().transform(train=True)})
    assert batch.present["audio"].tolist() == [True, False, False, True]
    assert [bad.reason for bad in batch.bad] == ["audio without samples", "audio is not finite"]
    assert batch["audio"].shape == (4, 8_960)  # half a second, in whole patches
    assert not batch["audio"][1].any()


def test_bad_sounds_are_refused_with_words(tmp_path: Path) -> None:
    model = encoder(vit())
    (tmp_path / "empty.wav").touch()
    for bad, told in [
        ((np.zeros(0, np.float32), 16_000), "without samples"),
        ((np.array([0.1, np.nan] * 500), 16_000), "not finite"),
        ((np.zeros(100), 0), "0 Hz"),
        (tmp_path / "none.wav", "no such file"),
        (tmp_path / "empty.wav", "empty audio"),
    ]:
        with pytest.raises(MmclError, match=told):
            model.embed("voice", [bad])
