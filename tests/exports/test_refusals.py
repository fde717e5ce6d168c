"""What a format cannot express is refused before anything lies there, with the reason and with what would do."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mmcl
from mmcl import checkpoints
from mmcl.errors import MmclError
from mmcl.exports import Source, open_export
from mmcl.exports.base import CLIP_SCALE
from mmcl.recipe import Recipe
from tests.exports.conftest import stored

Make = Callable[..., Recipe]


@pytest.fixture
def untrained(clip_recipe: Make, tmp_path: Path) -> Callable[..., Path]:
    """A run of so many overrides whose checkpoint holds random weights."""

    def make(*overrides: str) -> Path:
        return stored(clip_recipe(tmp_path / "run", *overrides))

    return make


@pytest.mark.parametrize(
    ("format", "override", "told"),
    [
        (
            "open_clip",
            "towers.text.causal=false",
            "towers.text: causal: false.*Other formats: safetensors .any towers.,",
        ),
        ("open_clip", "towers.image.head=mlp", "towers.image.head: CLIP projects by one matrix, and not by mlp"),
        ("open_clip", "towers.image.head={name: linear, bias: true}", "by one matrix, and not by linear"),
        ("open_clip", "towers.image.activation=quick_gelu", "quick_gelu in both towers, or in none"),
        ("transformers", "towers.image.pool=avg", "towers.image: pool: avg: a CLIPModel pools at the class token"),
        ("transformers", "towers.image.ln_pre=false", "ln_pre: false: a CLIPModel normalises before its first"),
        ("transformers", "towers.text.causal=false", "causal: false"),
    ],
)
def test_what_cannot_be_said_is_told(
    format: str, override: str, told: str, untrained: Callable[..., Path], tmp_path: Path
) -> None:
    run = untrained(override)
    with pytest.raises(MmclError, match=f"cannot be exported as {format}: .*{told}"):
        mmcl.export(run, format, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize("format", ["open_clip", "transformers"])
@pytest.mark.parametrize(
    "override",
    ["towers.text.head=linear", "towers.image.head=none", "towers.image.activation=gelu_tanh"],
)
def test_what_can_be_said_otherwise_is(
    format: str, override: str, untrained: Callable[..., Path], tmp_path: Path
) -> None:
    run = untrained(override, "dim=32")
    mmcl.export(run, format, tmp_path / "out")
    rows = torch.randint(0, 256, (4, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours = mmcl.load(run, "cpu")
    pixels = ours.model.tower("image").backbone.normalize(rows)
    tokens = torch.tensor([[9, 8, 7, 3] + [0] * 12])
    with torch.no_grad():
        if format == "open_clip":
            import open_clip

            model = open_clip.create_model(f"local-dir:{tmp_path / 'out'}").eval()
            vectors = model.encode_image(pixels, normalize=True), model.encode_text(tokens, normalize=True)
        else:
            from transformers import CLIPModel

            model = CLIPModel.from_pretrained(tmp_path / "out").eval()
            found = model(pixel_values=pixels, input_ids=tokens)
            vectors = found.image_embeds, found.text_embeds
    torch.testing.assert_close(vectors[0], ours.embed_rows("image", rows), atol=1e-5, rtol=0)
    torch.testing.assert_close(vectors[1], ours.embed_rows("text", tokens), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("objective", "scale", "bias"),
    [
        ("clip", None, None),
        ("siglip", None, -10.0),
        ("[{score: cosine, contrast: softmax}, {score: cosine, contrast: sigmoid}]", CLIP_SCALE, None),
    ],
)
def test_the_temperature_goes_with_it(
    objective: str, scale: float | None, bias: float | None, untrained: Callable[..., Path], tmp_path: Path
) -> None:
    import open_clip

    source = Source(untrained(f"objective={objective}"))
    expected = 1 / next(iter(source.objective.temperatures().values())).item()
    mmcl.export(source.run.path, "open_clip", tmp_path / "out")
    model = open_clip.create_model(f"local-dir:{tmp_path / 'out'}")
    said = model.logit_scale.exp().item()
    assert said == pytest.approx(expected if scale is None else torch.tensor(scale).exp().item(), rel=1e-5)
    assert (None if model.logit_bias is None else model.logit_bias.item()) == bias
    note = "2 terms with a temperature" if scale is not None else "one over the objective's temperature"
    assert note in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_adapters_become_weights(untrained: Callable[..., Path], tmp_path: Path) -> None:
    run = untrained("towers.image.policy={name: lora, rank: 2}", "towers.image.weights=random")
    path = next((run / "checkpoints").glob("*/weights.safetensors"))
    weights = {k: t + 0.1 if "lora_B" in k else t for k, t in load_file(path).items()}  # they begin at nothing
    assert any("lora_B" in k for k in weights)
    state = {"step": 4, "data": {"samples_seen": 96}, "bad": {"counts": {}}}
    checkpoints.write(run / "checkpoints", 4, {"weights": weights}, state, keep=1)
    rows = torch.randint(0, 256, (4, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours = mmcl.load(run, "cpu").embed_rows("image", rows)
    for format in ("safetensors", "open_clip", "transformers", "onnx"):
        mmcl.export(run, format, tmp_path / format)
        theirs = open_export(tmp_path / format, "cpu").embed_rows("image", rows)
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)


def test_an_export_is_no_run(untrained: Callable[..., Path], tmp_path: Path) -> None:
    mmcl.export(untrained(), "safetensors", tmp_path / "out")
    with pytest.raises(MmclError, match="out is an export itself, as safetensors; export the run that it was made of"):
        mmcl.export(tmp_path / "out", "open_clip", tmp_path / "again")
