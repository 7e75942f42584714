"""Facts that a page shows, while their IOC dies."""

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from epics.ca import CASeverityException, ChannelAccessGetFailure
from ophyd.utils.errors import DisconnectedError

from devices.facts import FactsView


@dataclass(frozen=True)
class Count:
    count: Annotated[int, "COUNT"] = 0


@pytest.mark.parametrize(
    "error",
    [
        CASeverityException("get", "Virtual circuit disconnect"),
        ChannelAccessGetFailure("get failed", 1, 192),
        DisconnectedError("not connected"),
        TimeoutError("no answer"),
        KeyError(-1),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_channel_access_raises_the_ioc_does_not_answer(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker of a page reports a TimeoutError; any other error would end it."""

    def get(*_: Any, **__: Any) -> None:
        raise error

    view: FactsView[Count] = FactsView("NOT:THERE:", Count)
    monkeypatch.setattr("devices.facts.EpicsSignalRO.get", get)
    with pytest.raises(TimeoutError, match="NOT:THERE:COUNT"):
        view.facts()


def test_other_errors_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(*_: Any, **__: Any) -> None:
        raise KeyError("a mistake of the code")

    view: FactsView[Count] = FactsView("NOT:THERE:", Count)
    monkeypatch.setattr("devices.facts.EpicsSignalRO.get", get)
    with pytest.raises(KeyError, match="a mistake of the code"):
        view.facts()
