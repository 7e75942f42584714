"""One tiled server for all tests of the store that do not kill it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from store.stack import Stack, running_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A store with a server; its ingester is the test's business."""
    with running_stack(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(scope="session")
def client(stack: Stack) -> Any:
    """Client of the root."""
    return stack.client()


@pytest.fixture
def store(stack: Stack, tmp_path: Path) -> Path:
    """A store directory of its own, whose runs go to the common server."""
    directory = stack.directory / "assets" / tmp_path.name
    (directory / "journal").mkdir(parents=True)
    return directory


@pytest.fixture
def journals(store: Path) -> Path:
    """Directory for journals of this test, in a store directory whose assets are served."""
    return store / "journal"


@pytest.fixture(autouse=True)
def server_lives(request: pytest.FixtureRequest) -> Iterator[None]:
    """Blame the test in whose time the server ended, and give the others a new one."""
    running: Stack | None = (
        request.getfixturevalue("stack") if "stack" in request.fixturenames else None
    )
    yield
    if running and (status := running.server.process.poll()) is not None:
        said = running.server.stderr()
        running.start_server()
        pytest.fail(f"the tiled server ended with {status}:\n{said}")
