"""Low-rank adapters (LoRA), through peft: the policy, and plain weights for exports."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Annotated, Any, TypeVar

from pydantic import Field
from torch import Tensor, nn

from mmcl.errors import MmclError
from mmcl.towers.policies import POLICIES, Factor, Policy, Step, refuse_without_weights

M = TypeVar("M", bound=nn.Module)
DEFAULTS = (  # attention's own projections, as each library calls them
    *("attn.qkv", "attn.proj"),  # timm
    *("query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "q", "v", "c_attn", "Wqkv"),  # transformers
)


@POLICIES.register("lora")
class Lora(Policy):
    r"""The weights stand still, and matrices of low rank beside them learn (LoRA).

    .. math:: W' = W + \frac{\alpha}{r} B A

    Use when: the weights come from elsewhere, and pairs or memory are few. `merged_state` makes plain weights of both.
    Expects: the package peft, ``pip install 'mmcl[lora]'``.

    Args:
        rank: r, of each adapter.
        alpha: its scale is alpha / rank; twice the rank unless told.
        dropout: share of an adapter's inputs that is left out in training; open_clip's attention has no place for it.
        targets: modules that get an adapter, by the ends of their names. Unless told: open_clip's ``attn`` (all of
            its four matrices), timm's ``attn.qkv`` and ``attn.proj``, transformers' queries and values.
        lr: factor of the learning rate.
        from_step: before this step of the optimizer nothing of the backbone learns.

    Reference:
        Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, section 4.1.
        https://arxiv.org/abs/2106.09685
    """

    keeps = True

    def __init__(
        self,
        rank: Annotated[int, Field(ge=1)] = 8,
        alpha: Annotated[float, Field(gt=0)] | None = None,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        targets: Annotated[list[str], Field(min_length=1)] | None = None,
        lr: Factor = 1.0,
        from_step: Step = 0,
    ) -> None:
        self.rank, self.alpha, self.dropout, self.targets = rank, alpha or 2.0 * rank, dropout, targets
        self.lr, self.from_step = lr, from_step

    def prepare_(self, backbone: nn.Module) -> None:
        """Put adapters beside the weights; their values are drawn from torch's generator, the same on every process."""
        refuse_without_weights(backbone, "lora")
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ModuleNotFoundError:
            raise MmclError("policy: lora needs the package peft: pip install 'mmcl[lora]'") from None
        found = targets(backbone, self.targets)
        attention = [name for name in found if isinstance(backbone.get_submodule(name), nn.MultiheadAttention)]
        if self.dropout and attention:
            raise MmclError(
                f"policy: lora: dropout: torch's attention ({attention[0]}) has no place for it; leave it out."
            )
        backbone.requires_grad_(False)
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=found)  # type: ignore[arg-type]
        inject_adapter_in_model(config, backbone)
        for module in backbone.modules():
            if adapts_attention(module):
                module.register_forward_pre_hook(_hold)
                module.register_forward_hook(_restore, always_call=True)

    def learns(self, step: int) -> bool:
        """From a step on."""
        return step >= self.from_step

    def factors(self, backbone: nn.Module) -> dict[str, float]:
        """The same for all."""
        return {name: self.lr for name, _ in backbone.named_parameters()}


def targets(backbone: nn.Module, asked: Sequence[str] | None) -> list[str]:
    """Full names of the modules that get an adapter.

    Args:
        backbone: the encoder.
        asked: ends of names; the libraries' attention unless told.

    Raises:
        MmclError: a name matches nothing, or what has no use for an adapter.
    """
    modules = {name: module for name, module in backbone.named_modules() if name}
    attention = [name for name, module in modules.items() if isinstance(module, nn.MultiheadAttention)]
    fit = {name for name, module in modules.items() if _fits(module)}
    inner = {f"{name}.out_proj" for name in attention}
    found: set[str] = set()
    for end in asked or DEFAULTS:
        own = {name for name in modules if name == end or name.endswith(f".{end}")}
        if asked and own & inner:
            parent = (own & inner).pop().rpartition(".")[0]
            raise MmclError(
                f"policy: lora: targets: {end!r}: torch's attention does not call its out_proj, so that an adapter "
                f"there would not learn; name the whole ({parent.rpartition('.')[2]!r}), which adapts it too."
            )
        if asked and not own & fit:
            raise MmclError(f"policy: lora: targets: no layer is called {end!r}. {_there(fit - inner)}")
        found |= own & (fit - inner)
    found |= set() if asked else set(attention)
    if not found:
        raise MmclError(f"policy: lora: say `targets`, since no attention was found. {_there(fit - inner)}")
    return sorted(found)


def _fits(module: nn.Module) -> bool:
    """Whether peft has an adapter for it."""
    return isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding | nn.MultiheadAttention) or (
        type(module).__name__ == "Conv1D"  # transformers' own, of GPT-2
    )


def _there(names: set[str]) -> str:
    ends = sorted({".".join(part for part in name.split(".")[-2:] if not part.isdigit()) for name in names})
    return f"Layers end with: {', '.join(ends)}."


def merged(module: M) -> M:
    """A copy in which all adapters are added to the weights beside them, and gone.

    Args:
        module: a backbone, a tower, or all towers; left as it is.
    """
    plain = deepcopy(module)
    adapted = [(name, one) for name, one in plain.named_modules() if _is_adapter(one)]
    outer = [name for name, _ in adapted]
    for name, one in adapted:
        if any(name.startswith(f"{other}.") for other in outer):
            continue  # torch's attention merges its own
        parent, _, last = name.rpartition(".")
        setattr(plain.get_submodule(parent), last, _merged(one))
    return plain


def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """Weights under the names that they have without adapters, for exports.

    Args:
        module: a backbone, a tower, or all towers, with adapters or without.
    """
    adapted = any(_is_adapter(one) for one in module.modules())
    return (merged(module) if adapted else module).state_dict()


def _is_adapter(module: nn.Module) -> bool:
    return hasattr(module, "base_layer") and hasattr(module, "merged_adapters")


def adapts_attention(module: nn.Module) -> bool:
    """Whether it adapts torch's attention, to whose weights peft adds the adapters in each pass."""
    return _is_adapter(module) and isinstance(module.base_layer, nn.MultiheadAttention)


def _hold(module: Any, _: Any) -> None:
    """Remember the weights of torch's attention.

    peft adds the adapter to them in each pass and takes it off again, and rounding would move them a little every time.
    """
    attention = module.base_layer
    module.held = None if module.merged else (attention.in_proj_weight, attention.out_proj.base_layer.weight)


def _restore(module: Any, *_: Any) -> None:
    if module.held is not None:
        module.base_layer.in_proj_weight, module.base_layer.out_proj.base_layer.weight = module.held
        module.held = None


def _merged(layer: Any) -> nn.Module:
    if hasattr(layer, "unload_and_optionally_merge_module"):
        return layer.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
    layer.merge()
    return layer.get_base_layer()
