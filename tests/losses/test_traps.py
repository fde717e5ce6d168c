"""GRAM's known traps: each test fails without its remedy."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mmcl
from mmcl.losses import SCORES, TermSpec

MODALITIES = ("text", "image", "audio")


def trained(objective: str | dict[str, object] | list[object], seed: int, steps: int = 150) -> dict[str, Tensor]:
    """Held-out unit vectors of three towers from random weights; what they see shares a latent."""
    torch.manual_seed(seed)
    mix = {m: torch.randn(8, 24) for m in MODALITIES}

    def inputs(rows: int) -> dict[str, Tensor]:
        latent = torch.randn(rows, 8)
        return {m: latent @ mix[m] + 0.3 * torch.randn(rows, 24) for m in MODALITIES}

    towers = nn.ModuleDict({m: nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 16)) for m in MODALITIES})
    made = mmcl.objective(objective)
    optimizer = torch.optim.Adam([*towers.parameters(), *made.parameters()], lr=3e-3)
    for step in range(steps):
        loss = made({m: towers[m](x) for m, x in inputs(128).items()}, step=step).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        made.after_step_()
    with torch.no_grad():
        return {m: F.normalize(towers[m](x), dim=1) for m, x in inputs(128).items()}


def found(scores: Tensor) -> float:
    return float((scores.argmax(1) == torch.arange(len(scores))).float().mean())


@pytest.mark.slow
def test_a_volume_does_not_see_signs_and_the_preset_does() -> None:
    signs = []
    for seed in (1, 2):  # from random weights, modalities end with the sign that chance gave them
        x = trained("gram_volume", seed)
        signs += [float((x["text"] * x[m]).sum(1).mean()) for m in ("image", "audio")]
        assert found(-mmcl.score("gram", x, anchor="text")) > 0.9  # and the volume is content
        x = trained("gram", seed)
        assert found(-mmcl.score("gram", x, anchor="text")) > 0.9
        assert all(float((x["text"] * x[m]).sum(1).mean()) > 0.5 for m in ("image", "audio"))
        assert all(found(x["text"] @ x[m].T) > 0.9 for m in ("image", "audio"))
    assert min(signs) < -0.3


def test_a_tuple_that_agrees_with_itself_is_a_hub_for_volumes_and_not_for_spans() -> None:
    torch.manual_seed(0)
    rows, dim = 64, 32
    text = F.normalize(torch.randn(rows, dim), dim=1)
    image, audio = (F.normalize(text + 0.15 * torch.randn(rows, dim), dim=1) for _ in range(2))
    hub = F.normalize(torch.randn(1, dim), dim=1)  # of one row, both modalities say the same, and nothing of its text
    image[0], audio[0] = hub, F.normalize(hub + 0.001 * torch.randn(1, dim), dim=1)
    x = {"text": text, "image": image, "audio": audio}
    volumes, spans = (-mmcl.score(name, x, anchor="text") for name in ("gram", "span"))
    assert found(volumes) < 0.05  # everybody's nearest is the hub
    assert found(spans) > 0.95


def test_an_anchor_does_not_align_the_others_and_rotating_does() -> None:
    """Where the anchor says little of the others, they only meet if they are anchors, too."""
    x = {m: F.normalize(torch.randn(16, 8, dtype=torch.float64), dim=1).requires_grad_() for m in MODALITIES}
    for view, moved in ((("anchor", "text"), False), (("view", "rotating"), True)):
        term = {"score": "span", view[0]: view[1], "temperature": 0.1}
        # the height over an anchor's own tuple, by image and audio, if the text is at right angles to both
        text = torch.zeros(16, 16, dtype=torch.float64)
        text[:, 8:] = torch.eye(8, dtype=torch.float64).repeat(2, 1)
        wide = {m: F.pad(x[m].detach(), (0, 8)).requires_grad_() for m in ("image", "audio")}
        mmcl.objective(term)({"text": text, **wide}).total.backward()
        along = float((wide["image"].grad * wide["audio"].detach()).sum(1).mean())
        assert (along < -1e-4) is moved  # whether image is pulled to its audio


@pytest.mark.parametrize("k", [4, 5])
def test_logits_of_many_modalities_need_a_temperature_that_may_fall(k: int) -> None:
    torch.manual_seed(0)
    base = torch.randn(64, 64)
    x = {f"m{i}": F.normalize(base + 0.2 * torch.randn(64, 64), dim=1) for i in range(k)}
    volumes = mmcl.score("gram", x, anchor="m0")
    own, others = volumes.diagonal().mean(), volumes.mean()
    assert others - own < 0.1  # what a cosine's temperature of 0.07 would hardly see
    spec = TermSpec.model_validate({"score": "gram", "anchor": "m0"})
    assert spec.temperature is not None
    assert spec.temperature.min <= 0.001
    assert float((others - own) / spec.temperature.min) > 5


def test_gathered_rows_carry_gradient() -> None:
    """With detached columns (as gathered without gradient) candidates would feel less than half of the loss."""
    torch.manual_seed(0)
    x = {m: torch.randn(12, 8, dtype=torch.float64).requires_grad_() for m in MODALITIES}
    mmcl.objective("gram_volume").double()(x).total.backward()
    score = SCORES.check("gram").build()
    one_way = {m: t.detach().clone().requires_grad_() for m, t in x.items()}
    z = score(one_way["text"], one_way["image"].detach(), one_way["audio"].detach()) / 0.07
    y = torch.arange(12)
    F.cross_entropy(z, y, label_smoothing=0.1).backward()
    assert one_way["image"].grad is None
    assert x["image"].grad is not None
    assert x["image"].grad.norm() > 0.01
