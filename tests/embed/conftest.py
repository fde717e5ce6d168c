"""One model and one set of shards for all tests of exports."""

import pickle
from pathlib import Path

import pytest

from mmcl.model import Encoder
from tests import small_model
from tests.embed import export


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, and a model in a file."""
    made = tmp_path_factory.mktemp("export")
    (made / export.MODEL).write_bytes(pickle.dumps(small_model.encoder(made)))
    export.write(made / "shards")
    return made


@pytest.fixture(scope="package")
def encoder(folder: Path) -> Encoder:
    """The model."""
    return pickle.loads((folder / export.MODEL).read_bytes())


@pytest.fixture(scope="package")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of an export that was made at one go."""
    out = tmp_path_factory.mktemp("whole") / "out"
    export.embed(folder, out)
    return export.tree(out)
