"""What the page keeps of an instrument: the newest message of the worker that looks at its IOC."""

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from dashboard.feeds import FeedSource
from dashboard.site import Site
from dashboard.worker import worker_messages


@dataclass
class LiveBoard:
    """An instrument as the page shows it; an instrument adds what its messages carry beside facts.

    A message is one line of JSON, the facts, and bytes after it (`dashboard.worker_process`).

    Attributes
    ----------
    facts
        Header of the last message; empty before the first.
    status
        What is wrong, if the IOC is not connected; what was known stays.
    received_s
        When the facts were received, unix s; 0 before.
    number
        Grows with each message; no number of an earlier server, and below 2^53, so that JavaScript
        tells consecutive ones apart.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    status: str = "waiting for the IOC"
    number: int = field(default_factory=lambda: time.time_ns() // 1000)
    received_s: float = 0.0

    def __post_init__(self) -> None:
        self._waiting = self.status

    async def changes(self, messages: AsyncIterator[bytes]) -> AsyncIterator[str]:
        """Take in the worker's messages, and yield `number` after each.

        Afterwards, when nobody looks any more, the status says that the facts are not followed.
        """
        try:
            async for message in messages:
                self.take(message)
                yield str(self.number)
        finally:
            self.status = self._waiting

    def take(self, message: bytes) -> None:
        """Take in a message."""
        line, _, data = message.partition(b"\n")
        header = json.loads(line)
        self.number += 1
        self.status = "" if header["connected"] else header["status"]
        if header["connected"]:
            self.facts, self.received_s = header, time.time()
            self.take_data(data)

    def take_data(self, data: bytes) -> None:
        """Take in the bytes of a message whose facts have been taken in."""


BoardT = TypeVar("BoardT", bound=LiveBoard)


@dataclass(frozen=True)
class LiveIoc(Generic[BoardT]):
    """An IOC that the page looks at.

    Parameters
    ----------
    name
        Of the IOC, and of its feed.
    worker
        Module of the process that looks at it.
    make_board
        Makes what the page keeps of it.
    arguments
        Returns further arguments of the worker.
    """

    name: str
    worker: str
    make_board: Callable[[], BoardT]
    arguments: Callable[[Site], tuple[str, ...]] = lambda _: ()

    def board_of(self, site: Site) -> BoardT:
        """Return what the page keeps of it."""
        if self.name not in site.live:
            site.live[self.name] = self.make_board()
        board: BoardT = site.live[self.name]
        return board

    def context(self, site: Site) -> dict[str, Any]:
        """Return what every page of it needs: whether it is configured, the board, its facts."""
        board = self.board_of(site)
        configured = self.name in site.settings.iocs
        return {"configured": configured, "board": board, "facts": board.facts}

    def feeds(self, site: Site) -> dict[str, FeedSource]:
        """Return its feed, where it is configured."""
        if self.name not in site.settings.iocs:
            return {}

        def changes() -> AsyncIterator[str]:
            arguments = self.arguments(site)
            messages = worker_messages(site.settings, self.name, self.worker, *arguments)
            return self.board_of(site).changes(messages)

        return {self.name: changes}
