"""A watched directory and a database for the tests of the watcher."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from skywright.instruments.epu.database import open_database


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    return path


@pytest.fixture
def close_directory(monkeypatch) -> Callable[[Path], None]:
    """Let nothing below a directory be looked at: root, as whom tests may run, enters them all."""
    look = os.stat

    def close(directory: Path) -> None:
        closed = directory.resolve()

        def refuse(path, *arguments, **options):
            if not isinstance(path, int) and closed in Path(os.path.realpath(path)).parents:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return look(path, *arguments, **options)

        monkeypatch.setattr(os, "stat", refuse)

    return close


@pytest.fixture
def database(tmp_path: Path):
    opened = open_database(tmp_path / "entities.sqlite", durable=False)
    yield opened
    opened.close()
