"""Optimizers that a recipe may name: of torch and timm, over the same groups of parameters."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
from pydantic import Field, PlainValidator, SerializeAsAny
from torch import Tensor, nn

from mmcl.errors import MmclError
from mmcl.registry import Part, Registry
from mmcl.towers.depth import BLOCK

VECTORS = re.compile(r"embed|token|position|probe|latent")
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0)]
Names = Callable[[nn.Module], set[str]]


@runtime_checkable
class OptimizerFactory(Protocol):
    """Makes an optimizer for modules."""

    lr: float

    def over(self, modules: Iterable[nn.Module], factors: Mapping[str, float]) -> torch.optim.Optimizer:
        """The optimizer of all parameters that are trained.

        Args:
            modules: that have them.
            factors: parameter -> factor of its learning rate, where it is not 1. A group says its own under
                ``lr_factor``; `parameter_groups` makes such groups.
        """
        ...


OPTIMIZERS: Registry[OptimizerFactory] = Registry("optimizer")
OptimizerPart = Annotated[SerializeAsAny[Part], PlainValidator(OPTIMIZERS.check)]


@OPTIMIZERS.register("adamw")
class AdamW:
    r"""Adam with decoupled weight decay, in torch's fused form.

    .. math:: \theta \leftarrow \theta - \eta\left(\frac{\hat m}{\sqrt{\hat v} + \epsilon} + \lambda\theta\right)

    Gains, biases, embeddings, tokens, positions and temperatures are not decayed.

    Use when: nothing speaks for another one. All numbers of the field are told for it.

    Args:
        lr: largest learning rate.
        weight_decay: of the matrices.
        betas: of the two averages.
        eps: added to the root of the second.

    Reference:
        Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, Algorithm 2.
        https://arxiv.org/abs/1711.05101
    """

    def __init__(
        self,
        lr: Positive = 5e-4,
        weight_decay: Decay = 0.2,
        betas: tuple[Share, Share] = (0.9, 0.98),
        eps: Positive = 1e-6,
    ) -> None:
        self.lr, self.weight_decay, self.betas, self.eps = lr, weight_decay, betas, eps

    def over(self, modules: Iterable[nn.Module], factors: Mapping[str, float]) -> torch.optim.Optimizer:
        """The optimizer of all parameters that are trained."""
        groups = parameter_groups(modules, factors, self.lr, self.weight_decay)
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)


@OPTIMIZERS.register("lamb")
class Lamb:
    r"""Adam whose step is as long, in each matrix, as the matrix itself times the learning rate: for large batches.

    .. math:: u = \frac{\hat m}{\sqrt{\hat v} + \epsilon} + \lambda\theta, \qquad
              \theta \leftarrow \theta - \eta\,\frac{\|\theta\|}{\|u\|}\,u

    What is not decayed (gains, biases, embeddings, tokens, positions and temperatures) is not scaled either: it takes
    Adam's step. timm's class clips gradients by itself; here only ``training.clip_norm`` does.

    Use when: batches are of tens of thousands (EVA-CLIP trains with it), where AdamW wants a rate for each layer.

    Args:
        lr: largest learning rate: how much of its length a matrix moves by in a step.
        weight_decay: of the matrices, within the step whose length is scaled.
        betas: of the two averages.
        eps: added to the root of the second.

    Reference:
        You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", ICLR 2020, Algorithm 2,
        with the identity for its function of the weights' norm. https://arxiv.org/abs/1904.00962
    """

    def __init__(
        self,
        lr: Positive = 1e-3,
        weight_decay: Decay = 0.01,
        betas: tuple[Share, Share] = (0.9, 0.98),
        eps: Positive = 1e-6,
    ) -> None:
        self.lr, self.weight_decay, self.betas, self.eps = lr, weight_decay, betas, eps

    def over(self, modules: Iterable[nn.Module], factors: Mapping[str, float]) -> torch.optim.Optimizer:
        """The optimizer of all parameters that are trained."""
        from timm.optim.lamb import Lamb as Timms

        groups = parameter_groups(modules, factors, self.lr, self.weight_decay)
        for group in groups:
            group["always_adapt"] = group["decays"]  # or a decay of 0 would make it Adam
        return Timms(groups, lr=self.lr, betas=self.betas, eps=self.eps, max_grad_norm=None)


@OPTIMIZERS.register("lion")
class Lion:
    r"""The sign of an averaged gradient: every weight moves by the learning rate; one average instead of two.

    .. math:: c = \beta_1 m + (1-\beta_1) g, \qquad \theta \leftarrow \theta - \eta\,(\operatorname{sign} c +
              \lambda\theta), \qquad m \leftarrow \beta_2 m + (1-\beta_2) g

    Gains, biases, embeddings, tokens, positions and temperatures are not decayed.

    Use when: memory for the second average is short. Against AdamW's, the rate is 3 to 10 times smaller and the decay
        as many times larger (section 5 of the paper); the defaults are those of ``adamw`` so changed by 5.

    Args:
        lr: largest learning rate.
        weight_decay: of the matrices.
        betas: of the step, and of the average that is kept.

    Reference:
        Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023, Algorithm 2.
        https://arxiv.org/abs/2302.06675
    """

    def __init__(
        self, lr: Positive = 1e-4, weight_decay: Decay = 1.0, betas: tuple[Share, Share] = (0.9, 0.99)
    ) -> None:
        self.lr, self.weight_decay, self.betas = lr, weight_decay, betas

    def over(self, modules: Iterable[nn.Module], factors: Mapping[str, float]) -> torch.optim.Optimizer:
        """The optimizer of all parameters that are trained."""
        from timm.optim.lion import Lion as Timms

        return Timms(parameter_groups(modules, factors, self.lr, self.weight_decay), lr=self.lr, betas=self.betas)


@OPTIMIZERS.register("muon")
class Muon:
    r"""Momentum made orthogonal for the matrices of the blocks, AdamW for everything else.

    .. math:: B \leftarrow \mu B + G, \qquad O = \mathrm{NS}_5(G + \mu B), \qquad
              W \leftarrow W - \eta\left(0.2\sqrt{\max(m, n)}\; O + \lambda W\right)

    for :math:`W` of (m, n), a convolution as (out, in times its window). :math:`\mathrm{NS}_5` is five steps of the
    Newton-Schulz iteration, :math:`X \leftarrow aX + (bA + cA^2)X`, :math:`A = XX^\top`, with (3.4445, -4.7750, 2.0315)
    from :math:`X / \|X\|_F`; in bf16, as published. The factor gives its step the length of AdamW's, so that rates and
    decays found for AdamW hold. Matrices of the blocks are those of `hidden`: neither embeddings, first convolutions,
    heads and projections, nor what is not decayed.

    Use when: steps are what is dear: it costs a few products of matrices a step, and has one slot for them.

    Args:
        lr: largest learning rate of the matrices.
        weight_decay: of all matrices, AdamW's as well.
        momentum: of the average of gradients.
        adamw_lr: largest learning rate of everything else; ``lr`` unless told.
        betas: of AdamW's two averages.
        eps: added to the root of the second.

    Raises:
        MmclError: no block has a matrix.

    Reference:
        Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
        https://kellerjordan.github.io/posts/muon/
        Liu et al., "Muon is Scalable for LLM Training", 2025, equation 4 (decay and length of the step).
        https://arxiv.org/abs/2502.16982
    """

    def __init__(
        self,
        lr: Positive = 5e-4,
        weight_decay: Decay = 0.2,
        momentum: Share = 0.95,
        adamw_lr: Positive | None = None,
        betas: tuple[Share, Share] = (0.9, 0.98),
        eps: Positive = 1e-6,
    ) -> None:
        self.lr, self.weight_decay, self.momentum, self.betas, self.eps = lr, weight_decay, momentum, betas, eps
        self.adamw_lr = lr if adamw_lr is None else adamw_lr

    def over(self, modules: Iterable[nn.Module], factors: Mapping[str, float]) -> torch.optim.Optimizer:
        """The optimizer of all parameters that are trained; timm's, which knows both ways of a step."""
        from timm.optim.muon import Muon as Timms

        groups = parameter_groups(modules, factors, self.lr, self.weight_decay, hidden)
        if not any(group["apart"] for group in groups):
            raise MmclError("optimizer: muon is for matrices of numbered blocks, and none of those learns; take adamw.")
        for group in groups:
            group["use_muon"] = group["nesterov"] = group["apart"]  # with it, the others would take NAdam's step
            if not group["apart"]:
                group["lr_factor"] *= self.adamw_lr / self.lr
                group["lr"] = self.lr * group["lr_factor"]
                group["eps"] = self.eps
        return Timms(
            groups,
            lr=self.lr,
            momentum=self.momentum,
            betas=self.betas,
            ns_coefficients="original",
            adjust_lr_fn="match_rms_adamw",
        )


def parameter_groups(
    modules: Iterable[nn.Module],
    factors: Mapping[str, float],
    lr: float,
    weight_decay: float,
    apart: Names | None = None,
) -> list[dict[str, Any]]:
    """What is trained, in groups of one factor and one decay, factors of 1 first.

    Args:
        modules: that have parameters; their order and that of their parameters is the order of the slots.
        factors: parameter -> factor of its learning rate, where it is not 1.
        lr: at a factor of 1.
        weight_decay: of what decays.
        apart: names of a module's parameters that have groups of their own.

    Returns:
        Groups as optimizers take them, which also say ``lr_factor``, ``decays`` and ``apart``.
    """
    groups: dict[tuple[float, bool, bool], list[Tensor]] = {(1.0, True, False): [], (1.0, False, False): []}
    for module in modules:
        whole, own = undecayed(module), apart(module) if apart is not None else set[str]()
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                key = (factors.get(name, 1.0), name not in whole, name in own)
                groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * factor,
            "lr_factor": factor,
            "weight_decay": weight_decay if decays else 0.0,
            "decays": decays,
            "apart": own,
        }
        for (factor, decays, own), parameters in groups.items()
    ]


def undecayed(module: nn.Module) -> set[str]:
    """Parameters that weight decay leaves alone: gains, biases, embeddings, tokens and positions.

    Those are what has fewer than two axes, what an `nn.Embedding` holds, what a module of timm or open_clip lists
    itself (``no_weight_decay``), and what is a parameter by itself under such a name: ``cls_token`` of (1, 1, width).
    """
    found = {name for name, p in module.named_parameters() if p.ndim < 2 or VECTORS.search(name.rpartition(".")[2])}
    for place, part in module.named_modules():
        before = f"{place}." if place else ""
        if isinstance(part, nn.Embedding):
            found.add(f"{before}weight")
        listed: Callable[[], Iterable[str]] = getattr(part, "no_weight_decay", tuple)
        found |= {before + name for name in listed()}
    return found


def hidden(module: nn.Module) -> set[str]:
    """Matrices between what comes in and what goes out: those of numbered blocks, as each library names them.

    A kernel that has a channel to itself (depthwise convolution) is a vector a channel, no matrix.
    """
    whole = undecayed(module)
    return {
        name
        for name, p in module.named_parameters()
        if name not in whole and BLOCK.search(name) and min(p.shape[:2]) > 1
    }
