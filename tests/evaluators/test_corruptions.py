import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mmcl.errors import MmclError
from mmcl.evaluators.corruptions import NAMES, SEVERITIES, Corruption, resized


def picture(height: int = 48, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    rows = np.stack([x * 255 / width, y * 255 / height, 128 + 100 * np.sin(x / 5) * np.cos(y / 7)], 2)
    return rows.astype(np.uint8)


def corrupted(name: str, severity: int = 3, seed: int = 0, size: int | None = None) -> np.ndarray:
    return Corruption(name, severity, size)(picture(), np.random.default_rng(seed))  # type: ignore[arg-type]


def test_they_are_the_package_s() -> None:
    import imagecorruptions

    assert list(NAMES) == imagecorruptions.get_corruption_names("common")


@pytest.mark.parametrize("name", NAMES)
def test_a_corruption_changes_a_picture_more_the_more_severe_and_never_its_form(name: str) -> None:
    clean, change = picture().astype(float), []
    for severity in SEVERITIES:
        found = corrupted(name, severity)
        assert found.shape == (48, 64, 3)
        assert found.dtype == np.uint8
        change.append(np.abs(found - clean).mean())
    assert change[0] > 0.5
    if name not in ("glass_blur", "elastic_transform", "frost"):  # not monotone by their published constants, or a draw
        assert change[-1] > change[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_draws_give_the_same_picture_and_leave_the_global_state(name: str) -> None:
    np.random.seed(5)
    before = np.random.get_state()[1].copy()  # type: ignore[union-attr,index]
    first = corrupted(name, seed=1)
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index]
    np.random.seed(6)
    assert (corrupted(name, seed=1) == first).all()
    drawn = name not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    assert (corrupted(name, seed=2) != first).any() == drawn


def test_threads_do_not_disturb_one_another() -> None:
    alone = [corrupted("gaussian_noise", seed=s) for s in range(24)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda s: corrupted("gaussian_noise", seed=s), range(24)))
    assert all((a == b).all() for a, b in zip(alone, together, strict=True))


def test_published_constants() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    for severity, scale in zip(SEVERITIES, (0.08, 0.12, 0.18, 0.26, 0.38), strict=True):
        noisy = Corruption("gaussian_noise", severity, None)(grey, np.random.default_rng(0)) / 255
        expected = np.clip(128 / 255 + scale * np.random.default_rng(1).normal(size=10**6), 0, 1).std()
        assert noisy.std() == pytest.approx(expected, rel=0.03)
    for severity, share in zip(SEVERITIES, (0.03, 0.06, 0.09, 0.17, 0.27), strict=True):
        noisy = Corruption("impulse_noise", severity, None)(grey, np.random.default_rng(0))
        assert (noisy != 128).mean() == pytest.approx(share, rel=0.08)
    for severity, share in zip(SEVERITIES, (0.4, 0.3, 0.2, 0.1, 0.05), strict=True):
        half = np.repeat(np.array([0, 200], np.uint8), 32)[:, None, None] * np.ones((1, 64, 3), np.uint8)
        flat = Corruption("contrast", severity, None)(half, np.random.default_rng(0))
        assert int(flat.max()) - int(flat.min()) == pytest.approx(200 * share, abs=1)


def test_pictures_are_brought_to_one_size_first() -> None:
    assert resized(picture(48, 64), 96).shape == (96, 128, 3)
    assert resized(picture(64, 48), 32).shape == (43, 32, 3)
    same = picture()
    assert resized(same, 48) is same
    assert corrupted("contrast", size=36).shape == (36, 48, 3)


def test_small_pictures_are_refused() -> None:
    with pytest.raises(MmclError, match="fog: a picture of 40 x 31 pixels; 32 are the least"):
        Corruption("fog", 1, None)(picture(31, 40), np.random.default_rng(0))


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(MmclError, match=r"pip install 'mmcl\[robustness\]'"):
        corrupted("fog")
