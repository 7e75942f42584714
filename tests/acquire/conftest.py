"""The owner of the tests, over a source whose items a test delivers."""

from collections.abc import Iterator
from typing import Any

import pytest
from support.hand_source import HandSource
from support.owners import Clock, Make

from skywright.acquire.owner import Owner


@pytest.fixture
def source() -> HandSource:
    return HandSource()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def make(source: HandSource) -> Iterator[Make]:
    made: list[Owner[Any, Any]] = []

    def make(*args: Any, **kw: Any) -> Owner[Any, Any]:
        made.append(Owner(source, *args, **kw))
        return made[-1]

    yield make
    for owner in made:
        owner.close()
        for recorder in owner.recorders:
            recorder.close()  # type: ignore[attr-defined]
    assert source.closed
