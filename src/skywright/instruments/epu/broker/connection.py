"""Where the message broker is, and the queue on it."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import aio_pika
import pamqp.decode
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractQueue
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError

from skywright.errors import ConfigError

AWAY = (AMQPError, ChannelInvalidStateError, OSError, TimeoutError)
"""What a broker that goes away raises; connecting again helps."""

HEARTBEAT_S = 5
"""Period of the signs of life of a connection, unless its URL names another ``heartbeat``. A broker
that is cut off is noticed after three of them."""
CONNECT_LIMIT_S = 10.0
CLOSE_LIMIT_S = 3.0

QUEUE = "smartem_backend"
"""Queue of smartem-decisions."""


KEEP_RECEIPTS = "SKYWRIGHT_EPU_KEEP_RECEIPTS"
"""Variable: seconds for which the broker keeps the receipts of a publisher that does not come."""


@dataclass(frozen=True)
class BrokerSettings:
    """A broker and its queue.

    Attributes
    ----------
    url
        ``amqp://USER:PASSWORD@HOST:PORT/VHOST``.
    queue
        Name of the durable queue.
    exchange
        Name of a durable direct exchange that the queue is bound to; empty is the default one.
    keep_receipts
        Seconds for which the broker keeps the receipts of a publisher that does not come.
    """

    url: str
    queue: str = QUEUE
    exchange: str = ""
    keep_receipts: int = 14 * 86400

    @property
    def place(self) -> str:
        """The broker's address without password."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}:{parts.port or 5672}{parts.path}"


@asynccontextmanager
async def connected(settings: BrokerSettings) -> AsyncIterator[AbstractConnection]:
    """Connect to the broker; the connection is closed at the end of the block.

    Parameters
    ----------
    settings
        The broker.

    Raises
    ------
    AMQPError, OSError, TimeoutError
        The broker cannot be reached, refuses, or does not answer within 10 s.
    """
    # With pamqp's own decoder a message whose id is no UTF-8 ends the connection at each delivery.
    pamqp.decode.METHODS["shortstr"] = _decode_short_text
    # Not aio_pika's own timeout: it uses `asyncio.wait_for`, which in Python 3.11 forgets a
    # cancellation that comes while the connection fails, so that a service would never end.
    url, mark = settings.url, "&" if "?" in settings.url else "?"
    if "heartbeat=" not in url:
        url = f"{url}{mark}heartbeat={HEARTBEAT_S}"
    async with asyncio.timeout(CONNECT_LIMIT_S):
        connection = await aio_pika.connect(url)
    try:
        yield connection
    finally:
        # The library waits without limit for what a broker that hangs does not take
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_LIMIT_S):
                await connection.close()


async def open_channel(connection: AbstractConnection, **options: Any) -> AbstractChannel:
    """Open a channel; that the connection is lost already is one of `AWAY` too."""
    try:
        return await connection.channel(**options)
    except RuntimeError as error:  # the library's, for a connection that is closed
        raise ConnectionError("connection lost") from error


async def declare(
    channel: AbstractChannel, settings: BrokerSettings
) -> tuple[AbstractQueue, AbstractExchange]:
    """Make the queue where it is missing; return it, and the exchange that leads to it."""
    queue = await channel.declare_queue(settings.queue, durable=True)
    if not settings.exchange:
        return queue, channel.default_exchange
    exchange = await channel.declare_exchange(settings.exchange, durable=True)
    await queue.bind(exchange, routing_key=settings.queue)
    return queue, exchange


def persistent(
    body: bytes, message_id: str | None, event_type: str | None, **options: Any
) -> aio_pika.Message:
    """Return a message of JSON that survives the broker's end."""
    return aio_pika.Message(
        body,
        message_id=message_id,
        type=event_type,
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        **options,
    )


def _decode_short_text(data: bytes) -> tuple[int, str]:
    """Return the number of bytes and the text; bytes that are no UTF-8 become escapes."""
    end = 1 + int.from_bytes(data[:1])
    return end, data[1:end].decode("utf-8", "backslashreplace")


def broker_settings(url: str | None) -> BrokerSettings | None:
    """Read where the broker is.

    Parameters
    ----------
    url
        ``amqp://...``; without it the variables RABBITMQ_HOST, _PORT, _USER, _PASSWORD and _VHOST
        of smartem-decisions hold. RABBITMQ_QUEUE and RABBITMQ_EXCHANGE name queue and exchange.

    Returns
    -------
    BrokerSettings or None
        None where neither is given.

    Raises
    ------
    ConfigError
        The URL is none of AMQP.
    """
    environment = os.environ
    if url is None:
        host = environment.get("RABBITMQ_HOST")
        if not host:
            return None
        user = quote(environment.get("RABBITMQ_USER", "guest"), safe="")
        password = quote(environment.get("RABBITMQ_PASSWORD", "guest"), safe="")
        port = environment.get("RABBITMQ_PORT", "5672")
        vhost = quote(environment.get("RABBITMQ_VHOST", "/"), safe="")
        url = f"amqp://{user}:{password}@{host}:{port}/{vhost}"
    parts = urlsplit(url)
    try:
        valid = parts.scheme in ("amqp", "amqps") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        place = url.rpartition("@")[2]  # without password
        raise ConfigError(f"broker {place}: expected amqp://USER:PASSWORD@HOST:PORT/VHOST")
    kept = environment.get(KEEP_RECEIPTS, str(BrokerSettings.keep_receipts))
    if not kept.isdecimal() or not 0 < int(kept) < 2**22:
        raise ConfigError(f"{KEEP_RECEIPTS}={kept}: expected seconds, at most 48 days")
    return BrokerSettings(
        url,
        environment.get("RABBITMQ_QUEUE", QUEUE),
        environment.get("RABBITMQ_EXCHANGE", ""),
        int(kept),
    )
