"""Tables of confusions: cells, shares, mistakes in words, and what is left out of many classes."""

import torch

from mmcl.eval_page.heat import CLASSES, MISTAKES, heat
from mmcl.evaluators import Confusion


def test_cells_and_mistakes_of_a_small_table() -> None:
    made = heat(Confusion(["a", "b", "c"], [[3, 1, 0], [0, 0, 0], [2, 4, 4]]), 14)
    assert [(s.row, s.column, s.n, s.share) for s in made.squares] == [
        (0, 0, 3, 0.75),
        (0, 1, 1, 0.25),
        (2, 0, 2, 0.2),
        (2, 1, 4, 0.4),
        (2, 2, 4, 0.4),
    ]
    assert [(m.right, m.found, m.n, m.of) for m in made.mistakes] == [
        ("c", "b", 4, 10),
        ("c", "a", 2, 10),
        ("a", "b", 1, 4),
    ]
    assert made.whole
    assert made.left == 0


def test_of_many_classes_those_with_the_most_mistakes_are_shown() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randint(0, 2, (300, 300), generator=generator)
    table[7, 250] = table[250, 9] = 1000
    made = heat(Confusion([f"class {i}" for i in range(300)], table.tolist()), int(table.sum()))
    assert len(made.classes) == CLASSES
    assert {"class 7", "class 250", "class 9"} <= set(made.classes)
    numbers = [int(name.split()[1]) for name in made.classes]
    assert numbers == sorted(numbers)
    wrong = table - table.diag().diag()
    shown = wrong.sum(0) + wrong.sum(1)
    assert shown[numbers].min() >= shown[[i for i in range(300) if i not in numbers]].max()
    for square in made.squares:
        assert table[numbers[square.row], numbers[square.column]] == square.n
    assert not made.whole
    assert made.items == table[numbers][:, numbers].sum()
    assert len(made.mistakes) == MISTAKES
    assert made.left == int((wrong[numbers][:, numbers] > 0).sum()) - MISTAKES


def test_a_table_that_an_evaluator_has_cut_is_not_whole() -> None:
    assert not heat(Confusion(["a", "b"], [[1, 1], [1, 1]]), 5).whole


def test_a_perfect_model_makes_no_mistakes() -> None:
    made = heat(Confusion(["a", "b"], [[2, 0], [0, 3]]), 5)
    assert made.mistakes == []
    assert made.left == 0
