"""Sending messages to the queue, for tests and trials."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from skywright.errors import HardwareError, message_of
from skywright.instruments.epu.broker.connection import (
    AWAY,
    BrokerSettings,
    connected,
    declare,
    open_channel,
    persistent,
)


async def send_events(
    settings: BrokerSettings, bodies: Sequence[dict[str, Any]], delay: float = 0.0
) -> list[str]:
    """Send messages, each confirmed by the broker.

    Parameters
    ----------
    settings
        The broker.
    bodies
        Messages with ``event_type``.
    delay
        Seconds between two messages.

    Returns
    -------
    list of str
        Names of what was sent.

    Raises
    ------
    HardwareError
        The broker cannot be reached.
    """
    sent = []
    try:
        async with connected(settings) as connection:
            channel = await open_channel(connection)
            _, exchange = await declare(channel, settings)
            for body in bodies:
                name, text = body["event_type"], json.dumps(body)
                message = persistent(text.encode(), str(uuid4()), name)
                await exchange.publish(message, settings.queue)
                sent.append(name)
                await asyncio.sleep(delay)
    except AWAY as error:
        raise HardwareError(f"broker {settings.place}: {message_of(error)}") from error
    return sent
