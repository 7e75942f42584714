"""A session over the twin for the plans' tests, one worker process for all of a module."""

from collections.abc import Iterator

import pytest
from support.loop_session import Session, loop_session


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with loop_session(tmp_path_factory.mktemp("loop")) as running:
        yield running
