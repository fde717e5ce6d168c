"""The model card of an export: README.md."""

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2

from mmcl.exports.base import Source, Written
from mmcl.media import AudioTransform
from mmcl.overrides import flat
from mmcl.recipe import dump_yaml
from mmcl.towers import TowerSpec
from mmcl.towers.pictures import ImageBackbone
from mmcl.towers.tokens import TextTransform

LIBRARIES = {"sentence_transformers": "sentence-transformers", "safetensors": "mmcl"}
"""Names of libraries on the hub of Hugging Face, where they are not the format's."""
PIPELINES: dict[tuple[str, ...], str] = {
    ("image", "text"): "zero-shot-image-classification",
    ("audio", "text"): "zero-shot-audio-classification",
}
"""What the hub calls models of these kinds of input."""
VALUES = {
    "image": '["cat.jpg"]',
    "text": '["a photo of a cat"]',
    "audio": '["bark.wav"]',
    "vector": "numpy.zeros((1, width))",
}
"""What somebody hands to `embed`."""


def write_card(source: Source, kind: str, written: Written, folder: Path) -> None:
    """Write the card of an export from what lies in the run's folder.

    Args:
        source: the run.
        kind: the format's name.
        written: what the format has put into the folder.
        folder: of the export.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8"))
    kinds = {m: source.encoder.takes(m) for m in written.modalities}
    recipe, data, checkpoint = source.recipe, source.recipe.data, source.checkpoint
    trained = json.loads((source.run.path / "environment.json").read_text())["packages"]
    page = template.render(
        name=source.run.path.resolve().name,
        kind=kind,
        library=LIBRARIES.get(kind, kind),
        pipeline=PIPELINES.get(tuple(sorted(kinds.values())), "feature-extraction"),
        kinds=kinds,
        values=VALUES,
        dim=source.encoder.dim,
        notes=written.notes,
        needs_mmcl=written.needs_mmcl,
        texts=[m for m, takes in kinds.items() if takes == "text"],
        padding=json.dumps(written.padding).replace("true", "True"),
        towers=[_tower(source, m) for m in written.modalities],
        prepared=[f"{m}: {_prepared(source, m)}" for m in written.modalities],
        bases=sorted({base for m in written.modalities if (base := _base(source, m)) is not None}),
        objective=dump_yaml([term.model_dump(mode="json") for term in recipe.objective]),
        sources=[(s.shards, ", ".join(f"{m} ({where})" for m, where in s.modalities.items())) for s in data.sources],
        step=checkpoint.state["step"],
        samples=checkpoint.state["data"]["samples_seen"],
        batch=data.batch_size,
        precision=recipe.training.precision,
        average=recipe.training.ema is not None and recipe.training.ema.evaluate,
        optimizer=recipe.optimizer.name,
        bad=sum(checkpoint.state["bad"]["counts"].values()),
        results=list(_results(source)),
        tasks=recipe.tasks,
        versions=", ".join(f"{name} {number}" for name, number in trained.items()),
        mmcl=version("mmcl"),
    )
    (folder / "README.md").write_text(page, encoding="utf-8")


def _tower(source: Source, modality: str) -> dict[str, Any]:
    """A row of the table of towers."""
    part, tower = source.recipe.towers[modality], source.tower(modality)
    own = {key: v for key, v in part.model_dump(mode="json").items() if key not in TowerSpec.model_fields}
    sizes = [f"{key} {_short(value)}" for key, value in own.items() if value not in (None, "")]
    head = "its own projection" if part.head is None else f"head {part.head.name}"
    return {
        "modality": modality,
        "takes": tower.takes,
        "family": part.name,
        "parameters": f"{sum(p.numel() for p in tower.parameters()):,}",
        "sizes": ", ".join(sizes),
        "head": "one matrix" if part.head is None and len(list(tower.head.parameters())) else head,
        "policy": part.policy.name,
        "began": _began(source, modality),
    }


def _short(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    own = (f"{key} {inner}" for key, inner in value.items() if inner is not None)
    return str(value["name"]) if "name" in value else f"({', '.join(own)})"


def _weights(source: Source, modality: str) -> Any:
    """What the run wrote down of the weights that a tower began with."""
    path = source.run.path / "weights.json"
    return json.loads(path.read_text()).get(modality) if path.is_file() else None


def _began(source: Source, modality: str) -> str:
    found = _weights(source, modality)
    if isinstance(found, Mapping):
        return str(found["source"])
    return "random weights" if found == "random" else "not recorded"


def _base(source: Source, modality: str) -> str | None:
    """The model of a hub that a tower began with, by its name there."""
    found = _weights(source, modality)
    said = str(found["source"]) if isinstance(found, Mapping) else ""
    fetched = isinstance(found, Mapping) and not Path(said).exists()
    return said if fetched and said.count("/") == 1 and " " not in said and ":" not in said else None


def _prepared(source: Source, modality: str) -> str:
    """How a value becomes a row."""
    transform, backbone = source.encoder.transforms[modality], source.tower(modality).backbone
    if isinstance(backbone, ImageBackbone):
        shown = backbone.preprocessing
        side, whole = shown.size, shown.fit.resized or shown.size
        how = {
            "shortest": f"the shorter side is resized to {whole} pixels",
            "longest": f"the longer side is resized to {whole} pixels",
            "squash": f"resized to {whole} x {whole} pixels, whatever the proportions are",
        }[shown.fit.resize]
        cut = f"the middle {side} x {side} cut out" if whole > side or shown.fit.resize == "shortest" else ""
        filled = f"the rest filled with {list(shown.fit.fill)}" if shown.fit.resize == "longest" or whole < side else ""
        steps = ", ".join(filter(None, (f"{how} ({shown.fit.interpolation}, antialiased)", cut, filled)))
        return f"{steps}; then (pixel / 255 - mean) / std with mean {list(shown.mean)} and std {list(shown.std)}"
    if type(transform) is AudioTransform:
        return f"one channel at {transform.rate:,} Hz, {transform.seconds:g} seconds, shorter sounds: {transform.short}"
    if isinstance(transform, TextTransform):
        return f"at most {transform.length} tokens, special ones included; longer texts are cut"
    return "as `recipe.yaml` says; mmcl does it"


def _results(source: Source) -> Iterator[tuple[str, str, str, str]]:
    """Rows of the table of results: task, metric, value, n."""
    if not source.run.results.is_file():
        return
    for task, numbers in json.loads(source.run.results.read_text()).items():
        if task == "train":
            continue
        n = f"{numbers['n']:,.0f}" if "n" in numbers else ""
        for metric, value in flat(numbers, " "):
            if metric != "n":
                yield task, metric, f"{value:.4g}", n
