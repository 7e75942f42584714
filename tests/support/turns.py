"""Shows in which order an IOC runs the blocking functions of its puts."""

import asyncio
from collections.abc import Callable
from typing import Any


class Turns:
    """Stands in for `OwnerGroup.in_thread`; other tasks go on before and after each function.

    Attributes
    ----------
    order
        The events ``begin`` and ``end``, in order.
    """

    def __init__(self) -> None:
        self.order: list[str] = []

    async def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function in the event loop."""
        self.order.append("begin")
        for _ in range(10):
            await asyncio.sleep(0)
        result = function(*args)
        for _ in range(10):
            await asyncio.sleep(0)
        self.order.append("end")
        return result


async def put_both(first: Any, second: Any) -> None:
    """Put to PVs as a client does that waits for no put: pairs of PV and value."""
    await asyncio.gather(*(channel.write(value) for channel, value in (first, second)))
