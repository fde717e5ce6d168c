"""Names and templates from files."""

import pytest

from mmcl.errors import MmclError
from mmcl.evaluators.prompts import names_of, templates_of


def test_lines_are_the_labels_0_1_2() -> None:
    assert names_of("names.txt", {"names.txt": " sea \ndog\n red boat\n\n"}.__getitem__) == {
        "0": "sea",
        "1": "dog",
        "2": "red boat",
    }


@pytest.mark.parametrize(("text", "line"), [("sea\n\ndog\n", 2), ("\nsea\n", 1), ("sea\ndog\n  \nboat", 3)])
def test_an_empty_line_would_move_labels_and_is_refused(text: str, line: int) -> None:
    with pytest.raises(MmclError, match=rf"names.txt: line {line} is empty"):
        names_of("names.txt", lambda name: text)


def test_empty_lines_between_templates_mean_nothing() -> None:
    assert templates_of("t.txt", lambda name: "a {c}\n\n{c}.\n") == ["a {c}", "{c}."]
