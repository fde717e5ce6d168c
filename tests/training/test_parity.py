"""The same numbers as a loop that anyone would write with open_clip's own loss."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss

from mmcl.recipe import Recipe
from mmcl.runs import Run
from mmcl.training import Trainer

STEPS, WARMUP, LR = 10, 2, 1e-3
EPS = {torch.float64: 1e-6, torch.float32: 1e-4}  # Adam brings rounding of tiny gradients to full size; less so here


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_gradients_and_weights_are_those_of_a_loop_with_clip_loss(
    tmp_path: Path, tiny: Callable[..., Recipe], dtype: torch.dtype
) -> None:
    recipe = tiny(
        tmp_path / "run",
        "objective=clip",
        f"optimizer={{name: adamw, lr: {LR}, weight_decay: 0.1, betas: [0.9, 0.98], eps: {EPS[dtype]}}}",
        f"schedule={{name: cosine, warmup: {WARMUP / STEPS}}}",
        f"training.samples={STEPS * 32}",
    )
    trainer = Trainer(recipe, Run(tmp_path / "run"), lambda _: {})
    trainer.model.to(dtype)
    trainer.learner.objective.to(dtype)
    towers = copy.deepcopy(trainer.model.towers)
    log_scale = torch.nn.Parameter(torch.tensor(math.log(1 / 0.07)).to(dtype))
    named = list(towers.named_parameters())
    decayed = [p for name, p in named if p.ndim >= 2 and "embedding" not in name]
    rest = [p for name, p in named if p.ndim < 2 or "embedding" in name]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": [*rest, log_scale], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.98), eps=EPS[dtype])

    batches = iter(trainer.stream)
    for step in range(STEPS):
        batch = next(batches)
        out = trainer.learner.backward(batch)

        image = F.normalize(towers["image"](batch["image"]), dim=-1)
        text = F.normalize(towers["text"](batch["text"]), dim=-1)
        loss = ClipLoss()(image, text, log_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        torch.testing.assert_close(out.total, loss, rtol=1e-5, atol=1e-5)
        ours = dict(trainer.model.towers.named_parameters())
        for name, parameter in towers.named_parameters():
            torch.testing.assert_close(ours[name].grad, parameter.grad, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(trainer.learner.objective.terms[0].temperature.log_scale.grad, log_scale.grad)

        rise = (step + 1) / WARMUP
        fall = (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP))) / 2
        for group in optimizer.param_groups:
            group["lr"] = LR * (rise if step < WARMUP else fall)
        optimizer.step()
        with torch.no_grad():
            log_scale.clamp_(max=math.log(100))
        trainer.learner.update()

    for name, parameter in towers.named_parameters():
        one, two = ours[name].detach(), parameter.detach()
        if name.endswith("in_proj_bias") and dtype == torch.float32:
            # softmax does not see the keys' bias: its gradient is rounding alone, which Adam brings to full size
            one, two = (torch.cat([x[:width], x[2 * width :]]) for x, width in ((one, 32), (two, 32)))
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        trainer.learner.objective.terms[0].temperature.log_scale, log_scale, rtol=1e-5, atol=1e-5
    )
