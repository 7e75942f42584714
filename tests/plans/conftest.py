"""What the tests of a module of plans share: a session over the twin, a store."""

from collections.abc import Iterator

import pytest
from store.stack import Stack, running_stack
from support.loop_session import Session, loop_session


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with loop_session(tmp_path_factory.mktemp("loop")) as running:
        yield running


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A store with a server; its ingester is the test's business."""
    with running_stack(tmp_path_factory.mktemp("store")) as running:
        yield running
