"""What the tests of the owner share."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.hand_source import IDENTITY

from skywright.acquire import operator_message
from skywright.acquire.owner import Owner
from skywright.files.columns import ColumnReader


class Collector:
    """An endpoint that keeps everything; it fails when told to."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.broken = False

    def offer(self, result: Any) -> None:
        if self.broken:
            raise OSError("the endpoint is broken")
        self.items.append(result)


class Clock:
    """The clock that ends the hold of messages; a test sets it forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead_s = 0.0
        monkeypatch.setattr(operator_message, "monotonic", self._time_s)

    def _time_s(self) -> float:
        return time.monotonic() + self._ahead_s

    def pass_hold(self) -> None:
        """Let the time pass for which a message is held."""
        self._ahead_s += operator_message.HOLD_S


Make = Callable[..., Owner[Any, Any]]


def identities(path: Path) -> list[int]:
    with ColumnReader(path, IDENTITY.path) as reader:
        return reader.read(IDENTITY.path).tolist()
