"""Sending messages to the queue, for tests and trials."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import aio_pika

from skywright.errors import HardwareError, message_of
from skywright.instruments.epu.broker.connection import (
    AWAY,
    BrokerSettings,
    connected,
    open_channel,
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
            await channel.declare_queue(settings.queue, durable=True)
            for body in bodies:
                message = aio_pika.Message(
                    json.dumps(body).encode(),
                    message_id=str(uuid4()),
                    content_type="application/json",
                    delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                    type=body["event_type"],
                )
                await channel.default_exchange.publish(message, settings.queue)
                sent.append(body["event_type"])
                await asyncio.sleep(delay)
    except AWAY as error:
        raise HardwareError(f"broker {settings.place}: {message_of(error)}") from error
    return sent
