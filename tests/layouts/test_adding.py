"""The layout of docs/adding.md, registered as it stands there, packs what it says."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmcl.data import read_samples
from mmcl.layouts import LAYOUTS, Layout, packed
from mmcl.layouts.base import Row
from mmcl.layouts.folder import Folder
from tests.layouts.files import put, table

DOCS = Path(__file__).parents[2] / "docs" / "adding.md"


@pytest.fixture
def captioned() -> Iterator[None]:
    (code,) = [c for c in re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.M | re.S) if "(Layout)" in c]
    names: dict[str, Any] = {"Folder": Folder, "Iterator": Iterator, "LAYOUTS": LAYOUTS, "Layout": Layout, "Row": Row}
    exec(compile(code, str(DOCS), "exec"), names | {"__name__": "captioned"})
    yield
    del LAYOUTS.classes["captioned"], LAYOUTS._specs["captioned"]


@pytest.mark.usefixtures("captioned")
def test_the_layout_in_it_packs(tmp_path: Path) -> None:
    table(tmp_path, "captions.csv", ["file", "caption"], ["a.JPG", "a cat"], ["b.png", "a dog"])
    data = [put(tmp_path, "images/a.JPG", b"1"), put(tmp_path, "images/b.png", b"2")]
    made = list(read_samples(packed(LAYOUTS.check("captioned"), tmp_path, tmp_path / "cache")))
    assert made == [
        {"__key__": "000000", "jpg": data[0], "txt": b"a cat"},
        {"__key__": "000001", "png": data[1], "txt": b"a dog"},
    ]
