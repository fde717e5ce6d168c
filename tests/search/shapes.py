"""A small collection of three modalities, to be searched: shapes, tones, captions; the model has random weights."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image, ImageDraw

from mmcl import checkpoints
from mmcl.cli import main
from mmcl.data import write_shards
from mmcl.losses import Objective
from mmcl.recipe import load_recipe
from mmcl.runs import Run, build_model, create
from mmcl.towers import train_sentencepiece

COLOURS = {"red": "#d33", "green": "#3a5", "blue": "#36c", "yellow": "#eb2", "violet": "#93c", "orange": "#f82"}
SHAPES = ("circle", "square", "triangle", "cross")
TONES = {"low": 220, "middle": 440, "high": 880}
HOSTILE = "<script>document.title = 'broken in'</script><img src=x onerror=\"document.title = 'broken in'\">"
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>document.title = 'broken in'</script></svg>"
RATE = 8000

RECIPE = """
run: {folder}/run
seed: 0
dim: 16
towers:
  image: {{name: vit, image_size: 32, patch_size: 8, width: 32, layers: 1, heads: 2}}
  text: {{name: text_transformer, tokenizer: {{name: sentencepiece, model: {folder}/t.model}}, context_length: 12,
         width: 32, layers: 1, heads: 2}}
  audio: {{name: spectrogram_vit, seconds: 0.5, width: 32, layers: 1, heads: 2}}
objective: [{{score: cosine, contrast: softmax, pairs: [[text, image], [text, audio]], temperature: 0.07}}]
data:
  train: {{shards: '{folder}/shards', modalities: {{image: png, text: txt, audio: wav}}, optional: [image, audio]}}
  batch_size: 8
optimizer: {{name: adamw, lr: 1e-3}}
schedule: constant
training: {{samples: 8}}
"""


def picture(colour: str, shape: str, side: int = 120) -> bytes:
    """A PNG file."""
    made = Image.new("RGB", (side, side), "white")
    draw, box = ImageDraw.Draw(made), (side // 5, side // 5, side * 4 // 5, side * 4 // 5)
    if shape == "circle":
        draw.ellipse(box, fill=colour)
    elif shape == "square":
        draw.rectangle(box, fill=colour)
    elif shape == "triangle":
        draw.polygon([(side // 2, box[1]), (box[2], box[3]), (box[0], box[3])], fill=colour)
    else:
        draw.line(box, fill=colour, width=side // 6)
        draw.line((box[2], box[1], box[0], box[3]), fill=colour, width=side // 6)
    out = io.BytesIO()
    made.save(out, "png")
    return out.getvalue()


def tone(pitch: float, seconds: float = 1.0) -> bytes:
    """A WAV file."""
    time = np.arange(round(seconds * RATE)) / RATE
    out = io.BytesIO()
    soundfile.write(out, 0.4 * np.sin(2 * np.pi * pitch * time) * np.exp(-2 * time), RATE, format="WAV")
    return out.getvalue()


def samples() -> Iterator[dict[str, Any]]:
    """72 of them. The first has a hostile caption, the second a picture that is a program; every fifth has no sound."""
    every = [(c, s, t) for c in COLOURS for s in SHAPES for t in TONES]
    for i, (colour, shape, pitch) in enumerate(every):
        sample: dict[str, Any] = {
            "__key__": f"{i:03}",
            "png": picture(COLOURS[colour], shape),
            "txt": f"a {colour} {shape} and a {pitch} tone",
            "json": json.dumps({"colour": colour, "shape": shape, "pitch": TONES[pitch], "note": {"by": HOSTILE}}),
        }
        if i % 5:
            sample["wav"] = tone(TONES[pitch])
        yield sample | ({"txt": HOSTILE} if i == 0 else {"png": SVG} if i == 1 else {})


def made(folder: Path) -> Path:
    """Shards, a run and an export of it, which is returned."""
    write_shards(samples(), folder / "shards", 40)
    train_sentencepiece((one["txt"] for one in samples()), folder / "t.model", vocab_size=300)
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder))
    recipe = load_recipe(str(folder / "recipe.yaml"))
    torch.manual_seed(0)
    run, model = Run(Path(recipe.run)), build_model(recipe)
    create(run, recipe, model, begins=True)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:  # so large that the vectors of different inputs lie far apart
                weight.normal_(std=0.2)
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    objective = Objective(recipe.objective, recipe.dim).state_dict()
    weights |= {f"objective.{name}": value for name, value in objective.items()}
    state = {"step": 1, "data": {"samples_seen": 8}, "bad": {"counts": {}}}
    checkpoints.write(run.checkpoints, 1, {"weights": weights}, state, keep=1)
    main(["embed", str(run.path), "--shards", str(folder / "shards"), "--out", str(folder / "export")])
    return folder / "export"
