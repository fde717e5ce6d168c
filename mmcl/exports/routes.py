"""Towers of transformers as routes of sentence-transformers: its Transformer, a pooling, and layers that project."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from mmcl.errors import MmclError
from mmcl.exports.base import Source, plain
from mmcl.exports.pairs import of_pictures
from mmcl.model import Encoder, MultiTower
from mmcl.recipe import Recipe
from mmcl.runs import Run
from mmcl.towers import Tower
from mmcl.towers.transformers_image import CLIP
from mmcl.towers.transformers_models import quietly, read

CONFIG = "router_config.json"
POOLINGS: dict[str, Any] = {"mean": "mean", "cls": "cls", "last": "lasttoken", "eos": "lasttoken"}
ACTIVATIONS = (nn.GELU, nn.ReLU)


class Route(NamedTuple):
    """A tower in sentence-transformers' parts; the modules are the tower's own."""

    model: PreTrainedModel
    pooling: Literal["mean", "cls", "lasttoken"] | None
    """Over the tokens; None where the model itself makes a vector (`pooler_output`)."""
    after: list[nn.Module]
    """What follows: matrices, normalisations, activations."""
    processor: Any
    prompt: str
    """What stands before every text."""

    @property
    def output(self) -> tuple[str, str]:
        """What the model's output is called, and what sentence-transformers calls it."""
        if self.pooling is None:
            return "pooler_output", "sentence_embedding"
        return "last_hidden_state", "token_embeddings"


def routes_of(recipe: Recipe, towers: dict[str, Tower]) -> dict[str, Route]:
    """The parts of all towers, whose modules are those of the towers.

    Raises:
        MmclError: a tower does what sentence-transformers' own modules cannot.
    """
    return {m: _route(recipe.towers[m], tower, m) for m, tower in towers.items()}


def routed(source: Source, folder: Path) -> tuple[Any, str]:
    """A Router of sentence-transformers with all towers of a run, and what stands before every text.

    Args:
        source: the run.
        folder: room for models on their way.

    Raises:
        MmclError: a tower does what sentence-transformers' own modules cannot.
    """
    from sentence_transformers.base.modules import Router

    towers = {m: plain(source.recipe, m) for m in source.modalities}
    for m, tower in towers.items():
        tower.load_state_dict(source.state(m))
    routes = routes_of(source.recipe, towers)
    kinds = {m: tower.takes for m, tower in towers.items()}
    prompts = {route.prompt for m, route in routes.items() if kinds[m] == "text"}
    if len(prompts) > 1:
        raise MmclError("several text towers have prefixes of their own.")
    modules = {called(m): list(_modules(route, kinds[m], folder / m)) for m, route in routes.items()}
    several = [m for m, kind in kinds.items() if list(kinds.values()).count(kind) > 1]
    ways: Any = {(m, None) if m in several else (None, kinds[m]): called(m) for m in kinds}
    return Router(modules, route_mappings=ways, allow_empty_key=False), "".join(prompts)


def called(modality: str) -> str:
    """A route's name, by which no kind of input (`text`) finds it where several towers take the kind."""
    return f"tower_{modality}"


def opened(folder: Path, manifest: dict[str, Any]) -> Encoder:
    """The towers of a Router that was written here, without sentence-transformers."""
    recipe = Run(folder).recipe()
    towers = {m: plain(recipe, m) for m in manifest["modalities"]}
    structure = json.loads((folder / CONFIG).read_text())["structure"]
    for m, route in routes_of(recipe, towers).items():
        first, *others = structure[called(m)]
        found, _ = read(_class(route.model), str(folder / first))
        own = route.model.state_dict()
        route.model.load_state_dict({k: t for k, t in found.state_dict().items() if k in own})
        layers = [layer for layer in route.after if list(layer.parameters())]
        stored = [name for name in others if (folder / name / "model.safetensors").is_file()]
        for layer, name in zip(layers, stored, strict=True):
            tensors = load_file(folder / name / "model.safetensors")
            layer.load_state_dict({key.rpartition(".")[2]: t for key, t in tensors.items()})
    return Encoder(MultiTower(towers, recipe.dim).eval(), torch.device("cpu"))


def _route(part: Any, tower: Tower, modality: str) -> Route:
    backbone: Any = tower.backbone
    if part.name not in ("transformers_text", "transformers_image"):
        raise MmclError(f"towers.{modality}: a {part.name} is no module of sentence-transformers.")
    texts = part.name == "transformers_text"
    whole: Any = backbone.text if texts else backbone.model
    model = getattr(whole, "text_model" if texts else "vision_model", whole)
    projection = getattr(whole, "text_projection" if texts else "visual_projection", nn.Identity())
    after = [layer for module in (projection, tower.head) for layer in _layers(module, modality)]
    if type(model.config) not in transformers.MODEL_MAPPING:
        raise MmclError(f"towers.{modality}: transformers has no class for a {model.config.model_type} by itself.")
    if not texts:
        return Route(model, _of_tokens(backbone, modality), after, of_pictures(backbone.preprocessing, modality), "")
    prompt = prompt_of(part, modality)
    tokenizer = backbone.tokenizer
    if part.pool == "eos" and tokenizer("a")["input_ids"][-1] != backbone.eos_id:
        raise MmclError(f"towers.{modality}: the tokenizer sets no end token by itself.")
    tokenizer.model_max_length, tokenizer.padding_side = backbone.context_length, "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)  # nothing looks at it
    return Route(model, None if part.pool == "own" else POOLINGS[part.pool], after, tokenizer, prompt)


def prompt_of(part: Any, modality: str) -> str:
    """What stands before every text of a tower.

    Raises:
        MmclError: something stands after it.
    """
    if getattr(part, "suffix", ""):
        raise MmclError(f"towers.{modality}.suffix: sentence-transformers has prompts before texts only.")
    return getattr(part, "prefix", "")


def _of_tokens(backbone: Any, modality: str) -> Literal["mean", "cls"] | None:
    """How a picture's vector comes from its tokens; None where the model says it.

    Raises:
        MmclError: otherwise than sentence-transformers does it.
    """
    if backbone.before and backbone.pool in ("own", "cls"):
        return None if backbone.kind == CLIP else "cls"
    if backbone.kind == "siglip_vision_model" and backbone.pool in ("own", "mean"):
        return None if backbone.pool == "own" else "mean"
    raise MmclError(
        f"towers.{modality}: sentence-transformers cannot make the vector of a {backbone.kind}, {backbone.pool}."
    )


def _layers(module: nn.Module, modality: str) -> Iterator[nn.Module]:
    """What is computed, in order, without what does nothing in evaluation.

    Raises:
        MmclError: sentence-transformers has no such layer.
    """
    if isinstance(module, nn.Sequential):
        for child in module:
            yield from _layers(child, modality)
    elif isinstance(module, nn.Linear | nn.LayerNorm | nn.GELU | nn.ReLU):
        yield module
    elif not isinstance(module, nn.Identity | nn.Dropout):
        raise MmclError(f"towers.{modality}: sentence-transformers has no {type(module).__name__}.")


def _modules(route: Route, kind: str, folder: Path) -> Iterator[Any]:
    """The modules of one route."""
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

    with quietly():
        _whole(route.model).save_pretrained(folder)
        route.processor.save_pretrained(folder)
        output, name = route.output
        config: Any = {kind: {"method": "forward", "method_output_name": output}}
        yield Transformer(str(folder), modality_config=config, module_output_name=name)
    if route.pooling is not None:
        yield Pooling(route.model.config.hidden_size, route.pooling)
    for layer, following in zip(route.after, [*route.after[1:], None], strict=True):
        if isinstance(layer, nn.Linear):
            bias = None if layer.bias is None else layer.bias.detach()
            active = following if isinstance(following, ACTIVATIONS) else nn.Identity()
            sizes = (layer.in_features, layer.out_features, bias is not None)
            yield Dense(*sizes, active, init_weight=layer.weight.detach(), init_bias=bias)
        elif isinstance(layer, nn.LayerNorm):
            norm = LayerNorm(layer.normalized_shape[0])
            norm.norm.load_state_dict(layer.state_dict())
            yield norm


def _class(model: PreTrainedModel) -> Any:
    """What sentence-transformers opens a model as: an encoder without its decoder, or what its configuration says."""
    alone = type(model) is not transformers.MODEL_MAPPING[type(model.config)]
    return type(model) if alone else transformers.AutoModel


def _whole(model: PreTrainedModel) -> PreTrainedModel:
    """The model as that class has it, with zeros for layers that no vector comes from (BERT's pooler)."""
    if _class(model) is type(model):
        return model
    with torch.random.fork_rng():
        whole = transformers.AutoModel.from_config(model.config, dtype=torch.float32)
    own: dict[str, Tensor] = model.state_dict()
    whole.load_state_dict({key: own.get(key, torch.zeros_like(t)) for key, t in whole.state_dict().items()})
    return whole
