"""A watched directory and a database for the tests of the watcher."""

from pathlib import Path

import pytest

from skywright.instruments.epu.database import open_database


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    return path


@pytest.fixture
def database(tmp_path: Path):
    opened = open_database(tmp_path / "entities.sqlite", durable=False)
    yield opened
    opened.close()
