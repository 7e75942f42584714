"""What the tests of the owner share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.hand_source import IDENTITY

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


Make = Callable[..., Owner[Any, Any]]


def identities(path: Path) -> list[int]:
    with ColumnReader(path, IDENTITY.path) as reader:
        return reader.read(IDENTITY.path).tolist()
