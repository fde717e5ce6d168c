"""A zero-shot task over a model of open_clip gives the number that open_clip itself gives."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import mmcl
from mmcl.data import write_shards
from mmcl.tasks import load_task
from tests.towers.libraries import scene

CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "layers": 1, "heads": 2},
}
CLASSES = {"sea": "the sea", "dog": "dog", "boat": "two red boats", "moon": "Moon"}
TEMPLATES = ["a photo of {}.", "{} at night"]
COUNT = 40
LOGITS = 0.15  # of cosines times 100; 0.094 seen, of pixels that differ by 2 grey levels at most


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration, weights, and a task over shards of pictures of many sizes and tints."""
    folder = tmp_path_factory.mktemp("zeroshot")
    torch.manual_seed(14)  # of which no picture is between two classes
    (folder / "small.json").write_text(json.dumps(CONFIG))
    clip = open_clip.CLIP(**CONFIG)
    with torch.no_grad():
        for weight in clip.parameters():
            if weight.ndim > 1:  # so large that pictures, and classes, lie far apart
                weight.normal_(std=0.15)
        clip.logit_scale.fill_(np.log(100))
    save_file(clip.state_dict(), folder / "weights.safetensors")
    rng, samples = np.random.default_rng(0), []
    for number in range(COUNT):
        pixels = scene(40 + 3 * number, 90 - number, number) * rng.random(3)
        png = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(png, "PNG")
        label = list(CLASSES)[number % len(CLASSES)]
        samples.append({"__key__": f"{number:04d}", "png": png.getvalue(), "cls": label})
    write_shards(samples, folder / "shards", 16)
    task = {
        "title": "which is it",
        "evaluator": {
            "name": "zeroshot",
            "modality": "image",
            "classes": CLASSES,
            "templates": [t.replace("{}", "{c}") for t in TEMPLATES],
        },
        "data": {"shards": str(folder / "shards"), "modalities": {"image": "png", "label": "cls"}},
    }
    (folder / "task.yaml").write_text(json.dumps(task))
    (folder / "samples.json").write_text(json.dumps([sample["cls"] for sample in samples]))
    for sample in samples:
        (folder / f"{sample['__key__']}.png").write_bytes(sample["png"])
    return folder


@torch.no_grad()
def test_zero_shot_accuracy_is_that_of_open_clip(files: Path) -> None:
    open_clip.add_model_config(files / "small.json")
    weights = str(files / "weights.safetensors")
    model, _, preprocess = open_clip.create_model_and_transforms("small", pretrained=weights)
    model.eval()
    classes = open_clip.build_zero_shot_classifier(
        model, open_clip.get_tokenizer("small"), list(CLASSES.values()), TEMPLATES
    )
    pictures = [Image.open(files / f"{number:04d}.png") for number in range(COUNT)]
    images = model.encode_image(torch.stack([preprocess(picture) for picture in pictures]), normalize=True)
    logits = model.logit_scale.exp() * images @ classes
    labels = torch.tensor([list(CLASSES).index(label) for label in json.loads((files / "samples.json").read_text())])
    found = logits.argmax(1)
    assert len(found.unique()) > 2  # or any model would have this number
    assert logits.topk(2).values.diff().abs().min() > 2 * LOGITS  # or another processor might have another number

    encoder = mmcl.load(f"open_clip:{files / 'small.json'}", "cpu", weights=weights)
    measured = load_task(str(files / "task.yaml")).measure(encoder).result
    assert measured["n"] == COUNT
    assert measured["acc1"] == (found == labels).double().mean().item()
    prompts = [template.format(name) for name in CLASSES.values() for template in TEMPLATES]
    named = torch.nn.functional.normalize(encoder.embed("text", prompts).unflatten(0, (4, 2)).mean(1), dim=-1)
    ours = 100 * encoder.embed("image", pictures) @ named.T
    torch.testing.assert_close(ours, logits, atol=LOGITS, rtol=0)
