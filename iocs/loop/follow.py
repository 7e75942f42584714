"""Following a PV of another IOC."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from caproto.asyncio.client import Context

from skywright.errors import DataError

logger = logging.getLogger(__name__)

PATIENCE_S = 10.0
"""Time without an answer, s, after which an error in the log says so."""


async def follow_pv(
    name: str,
    take: Callable[[Any], None],
    lost: Callable[[], None] = lambda: None,
    *,
    connected: str,
    **subscription: Any,
) -> None:
    """Call `take` with each value of a PV, for ever; an error of `take` is logged.

    Parameters
    ----------
    name
        Of the PV; it need not exist yet.
    take
        Gets the data of an event.
    lost
        Called when the PV disconnects.
    connected
        Logged when the PV has answered.
    **subscription
        As for caproto's `PV.subscribe`.
    """
    loop = asyncio.get_running_loop()

    def changed(pv: Any, state: str) -> None:
        if state == "disconnected":
            loop.call_soon_threadsafe(lost)

    async with Context() as context:
        (pv,) = await context.get_pvs(name, timeout=None, connection_state_callback=changed)
        try:
            await pv.wait_for_connection(timeout=PATIENCE_S)
        except TimeoutError:
            hint = "does its IOC run, and does EPICS_CA_ADDR_LIST have its HOST:PORT?"
            logger.error("%s: no answer for %g s; %s", name, PATIENCE_S, hint)
            await pv.wait_for_connection(timeout=None)
        logger.info("%s", connected)
        async for event in pv.subscribe(**subscription):
            try:
                take(event.data)
            except DataError as error:
                logger.error("%s: %s", name, error)
            except Exception:  # the next value may be good
                logger.exception("%s: a value cannot be used", name)
