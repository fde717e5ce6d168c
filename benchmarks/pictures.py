"""Shards of photograph-like JPEGs with captions, in the layout of img2dataset, for measuring.

A picture is a random crop (of 20 to 100 % of the area) of one of scikit-learn's two photographs, resized to the size
that is asked for, mirrored or not, with its colours and contrast changed, and blended with 1/f and a little white
noise, so that its JPEG at quality 90 (4:2:0) takes the 2 to 3 bits per pixel of a real photograph. A sample is
NAME.jpg, NAME.txt and NAME.json.
"""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

PER_SHARD = 128
NOISE = 9.0  # standard deviation of the 1/f noise, in grey levels
SIZES = {"0.19 Mpx": (500, 375), "1 Mpx": (1152, 864)}
WORDS = ["a", "the", "of", "red", "old", "small", "photo", "temple", "flower", "roof", "sky", "leaf", "garden", "stone"]


def noise(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """(height, width, 1) of zero mean and unit deviation whose amplitude falls with the frequency."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    waves = np.fft.rfft2(rng.standard_normal((height, width))) / frequency
    field = np.fft.irfft2(waves, (height, width))
    return (field / field.std())[..., None]


def picture(rng: np.random.Generator, photographs: list[Image.Image], width: int, height: int) -> bytes:
    """One JPEG; sides are swapped for every third."""
    if rng.random() < 1 / 3:
        width, height = height, width
    photograph = photographs[rng.integers(len(photographs))]
    share = rng.uniform(0.2, 1.0) ** 0.5
    w, h = (int(side * share) for side in photograph.size)
    left, top = (int(rng.integers(full - part + 1)) for full, part in zip(photograph.size, (w, h), strict=True))
    part = photograph.resize((width, height), Image.Resampling.BICUBIC, box=(left, top, left + w, top + h))
    pixels = np.asarray(part, np.float32)[:, :: rng.choice([-1, 1])]
    pixels = (pixels - 128) * rng.uniform(0.7, 1.2, 3) + 128 + rng.uniform(-25, 25, 3)
    pixels += NOISE * rng.uniform(0.7, 1.3) * noise(rng, width, height) + rng.normal(0, 3.0, pixels.shape)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out := io.BytesIO(), "JPEG", quality=90)
    return out.getvalue()


def tiny(rng: np.random.Generator) -> bytes:
    """A JPEG of 32 x 32 pixels."""
    colours = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(colours).resize((32, 32)).save(out := io.BytesIO(), "JPEG")
    return out.getvalue()


def caption(rng: np.random.Generator) -> str:
    """Four to fifteen words."""
    return " ".join(rng.choice(WORDS, rng.integers(4, 16)))


def write_tar(path: Path, images: list[bytes], rng: np.random.Generator) -> None:
    """One shard, put into its place when it is whole."""
    partial = path.with_suffix(".partial")
    with tarfile.open(partial, "w") as tar:
        for number, data in enumerate(images):
            key, said = f"{path.stem}{number:05d}", caption(rng)
            record = {"caption": said, "key": key, "status": "success", "url": f"https://example.org/{key}.jpg"}
            members = {"jpg": data, "txt": said.encode(), "json": json.dumps(record).encode()}
            for extension, content in members.items():
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    partial.replace(path)


def shards(folder: Path, size: str, made: int, listed: int) -> Path:
    """Folder of ``listed`` shards, of which ``made`` are different files and the rest links to them.

    Args:
        folder: cache of all data sets; what is there is used again.
        size: one of `SIZES`.
        made: shards of `PER_SHARD` pictures each.
        listed: shards that readers see.
    """
    place = folder / f"{size.replace(' ', '')}-{made}-{listed}"
    if (place / f"{listed - 1:05d}.tar").exists():
        return place
    place.mkdir(parents=True, exist_ok=True)
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for number in range(made):
        rng = np.random.default_rng(number)
        images = [picture(rng, photographs, *SIZES[size]) for _ in range(PER_SHARD)]
        write_tar(place / f"{number:05d}.tar", images, rng)
    for number in range(made, listed):
        (place / f"{number:05d}.tar").hardlink_to(place / f"{number % made:05d}.tar")
    return place


def tiny_shard(folder: Path, samples: int) -> Path:
    """A shard of tiny pictures."""
    path = folder / f"tiny-{samples}.tar"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        write_tar(path, [tiny(rng) for _ in range(samples)], rng)
    return path


def jpegs(place: Path, count: int) -> list[bytes]:
    """The first pictures of a folder of shards."""
    found: list[bytes] = []
    for path in sorted(place.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    found.append(tar.extractfile(member).read())  # type: ignore[union-attr]
                    if len(found) == count:
                        return found
    return found
