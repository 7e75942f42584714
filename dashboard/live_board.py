"""What the page keeps of an instrument: the newest message of the worker that looks at its IOC."""

import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any


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
    number
        Grows with each message; no number of an earlier server, and below 2^53, so that JavaScript
        tells consecutive ones apart.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    status: str = "waiting for the IOC"
    number: int = field(default_factory=lambda: time.time_ns() // 1000)

    async def changes(self, messages: AsyncIterator[bytes]) -> AsyncIterator[str]:
        """Take in the worker's messages, and yield `number` after each."""
        async for message in messages:
            self.take(message)
            yield str(self.number)

    def take(self, message: bytes) -> None:
        """Take in a message."""
        line, _, data = message.partition(b"\n")
        header = json.loads(line)
        self.number += 1
        self.status = "" if header["connected"] else header["status"]
        if header["connected"]:
            self.facts = header
            self.take_data(data)

    def take_data(self, data: bytes) -> None:
        """Take in the bytes of a message whose facts have been taken in."""
