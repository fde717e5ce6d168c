"""What the tests of towers share."""

import pytest

from tests.towers.tiny_texts import folders


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of tiny models of transformers, by kind."""
    return folders(tmp_path_factory.mktemp("models"))
