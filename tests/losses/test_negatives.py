"""Further candidates, and fewer, against loops in float64."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mmcl
from mmcl.errors import MmclError
from mmcl.losses import NEGATIVES, Mixed, Objective
from tests.losses import references
from tests.losses.references import gram, unit

ROWS, TAU = 8, 0.3


@pytest.fixture
def x() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {m: torch.randn(ROWS, 6, generator=generator).requires_grad_() for m in ("text", "image")}


def z(a: Tensor, b: Tensor) -> float:
    return float(unit(a.detach()) @ unit(b.detach())) / TAU


def loss(positive: float, others: list[float]) -> float:
    return math.log(sum(math.exp(v) for v in [positive, *others])) - positive


def objective(negatives: Any, dim: int | None = None, **more: Any) -> Objective:
    return mmcl.objective({"negatives": negatives, "temperature": TAU, **more}, dim)


def in_modal(a: Tensor, b: Tensor, joint: bool) -> float:
    total = 0.0
    for i in range(ROWS):
        others = [j for j in range(ROWS) if j != i]
        forward = [z(a[i], b[j]) for j in others] + [z(a[i], a[j]) for j in others]
        backward = [z(a[j], b[i]) for j in others] + [z(b[i], b[j]) for j in others]
        own = z(a[i], b[i])
        total += loss(own, forward + backward) if joint else (loss(own, forward) + loss(own, backward)) / 2
    return total / ROWS


@pytest.mark.parametrize("directions", ["both", "joint"])
@pytest.mark.parametrize("block", [None, 16])
def test_in_modal_negatives_are_those_of_gte(directions: str, block: int | None, x: dict[str, Tensor]) -> None:
    found = objective(["in_batch", "in_modal"], directions=directions, block=block)(x).total
    assert found.item() == pytest.approx(in_modal(x["text"], x["image"], directions == "joint"), abs=1e-5)


def test_one_direction_or_both_in_one_denominator(x: dict[str, Tensor]) -> None:
    a, b = x["text"], x["image"]
    forward = sum(loss(z(a[i], b[i]), [z(a[i], b[j]) for j in range(ROWS) if j != i]) for i in range(ROWS)) / ROWS
    backward = sum(loss(z(a[i], b[i]), [z(a[j], b[i]) for j in range(ROWS) if j != i]) for i in range(ROWS)) / ROWS
    assert objective("in_batch", directions="forward")(x).total.item() == pytest.approx(forward, abs=1e-5)
    assert objective("in_batch", directions="backward")(x).total.item() == pytest.approx(backward, abs=1e-5)


def test_provided_negatives_are_candidates_and_search_nothing(x: dict[str, Tensor]) -> None:
    wrong = torch.randn(ROWS, 6, requires_grad=True)
    there = torch.arange(ROWS) % 3 != 0
    total = 0.0
    for i in range(ROWS):
        others = [z(x["image"][i], x["text"][j]) for j in range(ROWS) if j != i]
        others += [z(x["image"][i], wrong[j]) for j in range(ROWS) if there[j]]
        total += loss(z(x["image"][i], x["text"][i]), others)
        total += loss(z(x["image"][i], x["text"][i]), [z(x["image"][j], x["text"][i]) for j in range(ROWS) if j != i])
    made = objective(["in_batch", {"name": "provided", "copies": ["text.wrong"]}])
    found = made({**x, "text.wrong": wrong}, present={"text.wrong": there}).total
    assert found.item() == pytest.approx(total / (2 * ROWS), abs=1e-5)
    found.backward()
    assert wrong.grad is not None
    assert (wrong.grad.abs().sum(1) > 0).tolist() == there.tolist()


def test_a_wrong_member_makes_a_wrong_tuple() -> None:
    torch.manual_seed(0)
    x = {m: torch.randn(6, 5) for m in ("text", "image", "audio", "image.wrong")}
    total = 0.0
    for i in range(6):
        s = [gram(x["text"][i], x["image"][j], x["audio"][j]) / TAU for j in range(6)]
        s += [gram(x["text"][i], x["image.wrong"][j], x["audio"][j]) / TAU for j in range(6)]
        total += loss(s[i], [v for j, v in enumerate(s) if j != i])
    term = {"score": "gram", "anchor": "text", "directions": "forward"}
    made = objective(["in_batch", {"name": "provided", "copies": ["image.wrong"]}], **term)
    assert made(x).total.item() == pytest.approx(total / 6, abs=1e-5)


@pytest.mark.parametrize("said", [{"above": 0.4}, {"margin": 0.1}])
@pytest.mark.parametrize("block", [None, 16])
def test_what_is_too_alike_is_left_out(said: Any, block: int | None, x: dict[str, Tensor]) -> None:
    teacher = {m: torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(i)) for i, m in enumerate(("a", "b"))}
    t = [[float(unit(p) @ unit(q)) for q in teacher["b"]] for p in teacher["a"]]
    total, left = 0.0, 0
    for i in range(ROWS):
        limit = said["above"] if "above" in said else t[i][i] + said["margin"]
        rows = [j for j in range(ROWS) if j != i and t[i][j] <= limit]
        columns = [j for j in range(ROWS) if j != i and t[j][i] <= limit]
        left += 2 * (ROWS - 1) - len(rows) - len(columns)
        own = z(x["text"][i], x["image"][i])
        total += loss(own, [z(x["text"][i], x["image"][j]) for j in rows])
        total += loss(own, [z(x["text"][j], x["image"][i]) for j in columns])
    made = objective([{"name": "alike", "by": {"text": "a", "image": "b"}, **said}], block=block)
    assert made(x, extras=teacher).total.item() == pytest.approx(total / (2 * ROWS), abs=1e-5)
    assert 0 < left < 2 * ROWS * (ROWS - 1)


def test_label_smoothing_counts_the_candidates_that_are_left(x: dict[str, Tensor]) -> None:
    """Hidden and further candidates change how many there are."""
    smoothed = {"contrast": {"name": "softmax", "label_smoothing": 0.3}}
    teacher = torch.eye(ROWS)[:, :4] + 0.01
    wrong = torch.randn(3, 6)
    made = objective(
        [{"name": "alike", "by": "t", "above": 0.9}, {"name": "provided", "copies": ["image.wrong"]}], **smoothed
    )
    rows = {**x, "image.wrong": torch.cat([wrong, torch.zeros(ROWS - 3, 6)])}
    there = torch.arange(ROWS) < 3
    total = 0.0
    for i in range(ROWS):
        kept = [j for j in range(ROWS) if j == i or float(unit(teacher[i]) @ unit(teacher[j])) <= 0.9]
        for side in ("text", "image"):
            others = [
                z(x["text"][i], x["image"][j]) if side == "text" else z(x["text"][j], x["image"][i]) for j in kept
            ]
            others += [z(x["text"][i], w) for w in wrong] if side == "text" else []
            log = math.log(sum(math.exp(v) for v in others))
            own = z(x["text"][i], x["image"][i])
            total += (log - 0.7 * own - 0.3 * sum(others) / len(others)) / (2 * ROWS)
    found = made(rows, present={"image.wrong": there}, extras={"t": teacher}).total
    assert found.item() == pytest.approx(total, abs=1e-5)


def test_what_matches_nothing_finds_the_null(x: dict[str, Tensor]) -> None:
    torch.manual_seed(0)
    made = objective(["in_batch", {"name": "null_anchor", "of": ["image"]}], dim=6)
    (null,) = (p for n, p in made.named_parameters() if "vectors" in n)
    there = torch.ones(ROWS, dtype=torch.bool)
    there[[2, 5]] = False
    a, b = x["text"], x["image"]
    matched = [i for i in range(ROWS) if there[i]]
    texts = images = 0.0
    for i in range(ROWS):
        if i in matched:
            others = [z(a[i], b[j]) for j in matched if j != i] + [z(a[i], null)]
            texts += loss(z(a[i], b[i]), others)
            images += loss(z(a[i], b[i]), [z(a[j], b[i]) for j in range(ROWS) if j != i])
        else:
            texts += loss(z(a[i], null), [z(a[i], b[j]) for j in matched])
    found = made(x, present={"image": there}).total
    assert found.item() == pytest.approx((texts / ROWS + images / len(matched)) / 2, abs=1e-5)
    found.backward()
    assert null.grad is not None
    assert null.grad.abs().max() > 0


def test_a_queue_holds_the_last_steps_and_comes_back_with_the_state() -> None:
    torch.manual_seed(0)
    said: Any = ["in_batch", {"name": "queue", "size": 7, "of": ["image"], "top_k": 4}]
    steps = [{m: torch.randn(3, 5) for m in ("text", "image")} for _ in range(4)]
    made, again = objective(said, dim=5), objective(said, dim=5)
    held: list[Tensor] = []
    for number, x in enumerate(steps):
        a, b = x["text"], x["image"]
        total = 0.0
        for i in range(3):
            hardest = sorted((z(a[i], q) for q in held), reverse=True)[:4]
            total += loss(z(a[i], b[i]), [z(a[i], b[j]) for j in range(3) if j != i] + hardest)
            total += loss(z(a[i], b[i]), [z(a[j], b[i]) for j in range(3) if j != i])
        assert made(x).total.item() == pytest.approx(total / 6, abs=1e-5)
        assert made(x).total.item() == pytest.approx(total / 6, abs=1e-5)  # nothing moves before the step
        if number == 2:
            again.load_state_dict(made.state_dict())
        if number >= 2:
            torch.testing.assert_close(again(x).total, made(x).total)
            again.after_step_()
        made.after_step_()
        held = [*held, *b][-7:]


def test_a_queue_does_not_hold_absent_rows_nor_a_rows_own_thing() -> None:
    torch.manual_seed(0)
    made = objective(["distinct", {"name": "queue", "size": 8, "of": ["image"]}], dim=5)
    first = {m: torch.randn(4, 5) for m in ("text", "image")}
    there = torch.tensor([True, False, True, True])
    made(first, present={"image": there}, keys=["a", "b", "c", "d"])
    made.after_step_()
    x = {m: torch.randn(4, 5) for m in ("text", "image")}
    a, b = x["text"], x["image"]
    keys = "aefc"  # of the second batch
    total = 0.0
    for i in range(4):
        others = [z(a[i], b[j]) for j in range(4) if j != i]
        kept = [j for j in (0, 2, 3) if "abcd"[j] != keys[i]]
        total += loss(z(a[i], b[i]), others + [z(a[i], first["image"][j]) for j in kept])
        total += loss(z(a[i], b[i]), [z(a[j], b[i]) for j in range(4) if j != i])
    assert made(x, keys=list(keys)).total.item() == pytest.approx(total / 8, abs=1e-5)


@pytest.mark.parametrize("alone", [True, False])
def test_a_bank_holds_all_candidates_and_the_own_one_once(alone: bool, tmp_path: Path, x: dict[str, Tensor]) -> None:
    more = torch.randn(20, 6)
    bank = torch.cat([more, x["image"].detach() * 3])
    np.save(tmp_path / "bank.npy", bank.numpy())
    said = {"name": "bank", "file": str(tmp_path / "bank.npy"), "of": "image", "alone": alone}
    total = 0.0
    for i in range(ROWS):
        others = [z(x["text"][i], y) for j, y in enumerate(bank) if j != 20 + i]
        others += [] if alone else [z(x["text"][i], x["image"][j]) for j in range(ROWS) if j != i]
        total += loss(z(x["text"][i], x["image"][i]), others)
    made = objective([said], dim=6, directions="forward")
    assert made(x).total.item() == pytest.approx(total / ROWS, abs=1e-5)
    assert not made.state_dict().keys() - {"terms.0.temperature.log_scale"}
    mixed = objective([said], dim=6)(x).total.item()  # the bank stands where images are looked for, the batch elsewhere
    back = objective("in_batch", directions="backward")(x).total.item()
    assert mixed == pytest.approx((total / ROWS + back) / 2, abs=1e-5)


def test_mixtures_lie_between_the_hardest() -> None:
    torch.manual_seed(0)
    pool = torch.nn.functional.normalize(torch.randn(5, 4), dim=1)
    queries = torch.nn.functional.normalize(torch.randn(2, 4), dim=1)
    hard = torch.tensor([[3, 1, 4], [2, -1, -1]])
    drawn = torch.rand(3, 2, 7)
    made = Mixed(hardest=3, count=4, with_query=3)._mixtures(pool, queries, hard, drawn)
    for row in range(2):
        some = [h for h in hard[row].tolist() if h >= 0]
        for number in range(7):
            first = int(drawn[0, row, number] * len(some))
            share = float(drawn[2, row, number])
            if number < 4:
                second = (first + 1 + int(drawn[1, row, number] * (len(some) - 1))) % len(some)
                v = share * pool[some[first]] + (1 - share) * pool[some[second]]
            else:
                v = share / 2 * queries[row] + (1 - share / 2) * pool[some[first]]
            torch.testing.assert_close(made[row, number], v / v.norm())


def test_mixtures_are_drawn_by_step_and_move_only_the_row(x: dict[str, Tensor]) -> None:
    made = objective(["in_batch", {"name": "mixed", "hardest": 3, "count": 5}])
    plain = objective("in_batch")(x).total
    one, same, other = made(x, step=1).total, made(x, step=1).total, made(x, step=2).total
    assert one == same
    assert one != other
    assert one > plain
    alone = objective([{"name": "mixed", "hardest": 3, "count": 5}], directions="forward")
    (texts,) = torch.autograd.grad(alone(x, step=1).total, [x["text"]])
    assert texts.abs().max() > 0
    still = {"text": x["text"], "image": x["image"].detach()}
    torch.testing.assert_close(alone(still, step=1).total, alone(x, step=1).total)
    torch.testing.assert_close(torch.autograd.grad(alone(still, step=1).total, [x["text"]])[0], texts)


CAPTIONS: dict[str, dict[str, Any]] = {
    "out": {"contrast": "softmax"},
    "in": {"contrast": {"name": "softmax", "positives": "in"}},
    "joint": {"contrast": {"name": "softmax", "positives": "in"}, "directions": "joint"},
}


@pytest.mark.parametrize("case", CAPTIONS)
@pytest.mark.parametrize("block", [None, 16])
def test_several_captions_are_all_positives(case: str, block: int | None) -> None:
    torch.manual_seed(0)
    x = {m: torch.randn(ROWS, 6, requires_grad=True) for m in ("image", "text", "text.2", "text.3")}
    present = {"text.2": torch.arange(ROWS) % 2 == 0, "text.3": torch.arange(ROWS) == 4}
    there = [(m, i) for m in ("text", "text.2", "text.3") for i in range(ROWS) if m not in present or present[m][i]]
    images = texts = 0.0
    for i in range(ROWS):
        own = [z(x["image"][i], x[m][j]) for m, j in there if j == i]
        rest = [z(x["image"][i], x[m][j]) for m, j in there if j != i]
        if case == "joint":
            rest += [z(x["image"][k], x[m][j]) for m, j in there if j == i for k in range(ROWS) if k != i]
        log = math.log(sum(math.exp(v) for v in own + rest))
        target = sum(own) / len(own) if case == "out" else math.log(sum(math.exp(v) for v in own) / len(own))
        images += (log - target) / ROWS
    for m, j in there:
        rest = [z(x["image"][k], x[m][j]) for k in range(ROWS) if k != j]
        texts += loss(z(x["image"][j], x[m][j]), rest) / len(there)
    view = {"view": {"name": "captions", "anchor": "image", "of": "text"}, "targets": "shared", "block": block}
    found = mmcl.objective({**view, **CAPTIONS[case], "temperature": TAU})(x, present=present).total
    assert found.item() == pytest.approx(images if case == "joint" else (images + texts) / 2, abs=1e-5)
    found.backward()
    for m in ("text.2", "text.3"):
        grad = x[m].grad
        assert grad is not None
        assert (grad.abs().sum(1) > 0).tolist() == present[m].tolist()


def test_copies_are_nobodys_business_unless_they_are_named(x: dict[str, Tensor]) -> None:
    more = {**x, "image.2": torch.randn(ROWS, 6), "text.wrong": torch.randn(ROWS, 6)}
    for said in ("clip", "siglip", "cuaxu", "cyclip"):
        torch.testing.assert_close(mmcl.objective(said)(more).total, mmcl.objective(said)(x).total)
    named = mmcl.objective({"pairs": [["image", "image.2"]], "temperature": TAU})(more).total
    alone = mmcl.objective({"temperature": TAU})({"a": more["image"], "b": more["image.2"]}).total
    torch.testing.assert_close(named, alone)


OTHERS = ["sigmoid", "hard_negative", "decoupled", "hinge", "debiased", "focal", "spectral"]


@pytest.mark.parametrize("contrast", OTHERS)
def test_other_contrasts_see_further_candidates(contrast: str, x: dict[str, Tensor]) -> None:
    wrong = torch.randn(ROWS, 6)
    tempered = {} if contrast in ("hinge", "spectral") else {"temperature": TAU}
    made = mmcl.objective(
        {"contrast": contrast, "negatives": ["in_batch", {"name": "provided", "copies": ["image.wrong"]}], **tempered}
    )
    a, b = x["text"], x["image"]
    found = made({**x, "image.wrong": wrong}).total
    plain = mmcl.objective({"contrast": contrast, **tempered})(x).total
    assert (found > plain) if contrast != "hinge" else (found >= plain)
    total = 0.0
    reference = getattr(references, contrast)
    for i in range(ROWS):
        own = z(a[i], b[i]) * TAU
        rows = [z(a[i], b[j]) * TAU for j in range(ROWS) if j != i] + [z(a[i], w) * TAU for w in wrong]
        columns = [z(a[j], b[i]) * TAU for j in range(ROWS) if j != i]
        total += reference([own], rows, TAU)
        total += reference([own], columns, TAU) if contrast != "sigmoid" else 0.0
    total /= ROWS if contrast == "sigmoid" else 2 * ROWS
    assert found.item() == pytest.approx(total, abs=1e-5)


def test_bad_input_is_told(tmp_path: Path, x: dict[str, Tensor]) -> None:
    (tmp_path / "no.npy").write_text("no")
    np.save(tmp_path / "narrow.npy", np.zeros((3, 2), np.float32))
    bank = {"name": "bank", "of": "image"}
    cases: list[tuple[dict[str, Any], int | None, str]] = [
        ({"negatives": {"name": "alike", "by": "t"}}, None, "either `above` or `margin`"),
        ({"negatives": {"name": "provided", "copies": ["text"]}}, None, "no copy of a modality"),
        ({"negatives": {"name": "queue", "size": 4, "of": ["image"]}}, None, "dim=512"),
        ({"negatives": {**bank, "file": str(tmp_path / "none.npy")}}, 6, "there is no file"),
        ({"negatives": {**bank, "file": str(tmp_path / "no.npy")}}, 6, "no .npy file"),
        ({"negatives": {**bank, "file": str(tmp_path / "narrow.npy")}}, 6, "wanted .rows, 6. floats"),
        ({"negatives": "in_modal", "score": "gram", "anchor": "text"}, None, "is for pairs of modalities"),
        ({"negatives": ["in_batch", "in_modal"], "contrast": "cacr"}, None, "several matrices"),
        ({"directions": "joint", "contrast": "sigmoid"}, None, "looks at every pair once"),
        ({"negatives": "nobody"}, None, "no negatives is called"),
        ({"view": {"name": "captions", "anchor": "image", "of": "text"}}, None, "targets: shared"),
        ({"score": "symile", "negatives": "distinct"}, None, "shuffled candidates"),
    ]
    for said, dim, message in cases:
        with pytest.raises(MmclError, match=message):
            mmcl.objective(said, dim)
    for negatives in ({"name": "provided", "copies": ["text.wrong"]}, {"name": "null_anchor", "of": ["audio"]}):
        with pytest.raises(MmclError, match="is not among"):
            objective(negatives, dim=6)(x)


def test_every_member_says_what_a_reader_needs() -> None:
    for name, cls in NEGATIVES.classes.items():
        text = cls.__doc__ or ""
        for section in ("Use when:", "Reference:", "http", "Example:"):
            assert section in text, (name, section)


@pytest.mark.parametrize("negatives", ["in_modal", {"name": "queue", "size": 4, "of": ["text", "image"]}])
def test_what_shows_the_same_thing_is_no_negative_where_it_is_a_positive(negatives: Any) -> None:
    x = {m: torch.eye(2).repeat_interleave(2, 0) for m in ("text", "image")}
    objective = mmcl.objective({"negatives": ["in_batch", negatives], "targets": "shared", "temperature": 0.05}, dim=2)
    for _ in range(2):
        found = objective(x, keys=["a", "a", "b", "b"]).total
        objective.after_step_()
    assert found.item() == pytest.approx(math.log(2), abs=1e-4)


def test_wrong_captions_in_copies_are_no_captions() -> None:
    torch.manual_seed(0)
    x = {m: torch.randn(6, 4) for m in ("text", "image", "text.2")}
    more = {m: torch.randn(6, 4) for m in ("text.wrong", "text.wrong.2")}
    torch.testing.assert_close(mmcl.objective("mil_nce")({**x, **more}).total, mmcl.objective("mil_nce")(x).total)


def test_a_queue_of_a_copy_and_absent_rows_of_a_teacher() -> None:
    torch.manual_seed(0)
    queue = {"name": "queue", "size": 6, "of": ["image.2"], "by": {"image.2": "ema"}}
    objective = mmcl.objective({"pairs": [["image", "image.2"]], "negatives": ["in_batch", queue]}, dim=4)
    x = {m: torch.randn(4, 4, requires_grad=True) for m in ("image", "image.2")}
    teacher = torch.randn(4, 4).index_fill(0, torch.tensor([1]), float("nan"))
    for _ in range(2):
        total = objective(x, extras={"ema": teacher}, present={"ema": torch.arange(4) != 1}).total
        total.backward()
        objective.after_step_()
    assert total.isfinite()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in x.values())
