"""The worker that applies the messages of the queue to the entity database, each once.

The row that says that a message was applied is written in the transaction that applies it, and the
broker is told after the commit. So a worker that dies in between gets the message again and finds
its row. A message without an id, from a program that sends none, is applied again then; such
messages state results, which may be stated twice.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from sqlalchemy import Connection, delete, select
from sqlalchemy.exc import SQLAlchemyError

from skywright.errors import DataError
from skywright.instruments.epu.broker.apply import UnknownEntityError, apply_event, changes_nothing
from skywright.instruments.epu.broker.connection import AWAY, BrokerSettings
from skywright.instruments.epu.broker.events import read_event
from skywright.instruments.epu.database import Database
from skywright.instruments.epu.database.schema_exchange import applied_message

log = logging.getLogger(__name__)

BATCH = 200
"""Messages applied in one transaction."""
GATHER_S = 0.02
"""Longest time that the first message of a batch waits for others."""
RETRIES = 10
RETRY_S = 1.0
"""A message about an entity that is not stored comes again this much later."""
RETRY_HEADER = "x-retry-count"
KEEP = timedelta(days=14)
"""Time for which the ids of applied messages are kept; no broker delivers again after it."""
CONNECT_S = (0.2, 5.0)


@dataclass(frozen=True)
class Outcome:
    """What became of a message: ``applied``, ``known``, ``early`` or ``refused``, and why."""

    state: str
    reason: str = ""


def apply_batch(
    connection: Connection, messages: Sequence[tuple[str | None, bytes]]
) -> list[Outcome]:
    """Apply messages in a transaction; one that fails changes nothing and stops no other.

    Parameters
    ----------
    connection
        From `Database.write`.
    messages
        Message id, or None, and body.

    Returns
    -------
    list of Outcome
        ``known``: applied before; ``early``: about an entity that is not stored; ``refused``: not
        valid.
    """
    ids = [message_id for message_id, _ in messages if message_id]
    column = applied_message.c.message_id
    known = set(connection.execute(select(column).where(column.in_(ids))).scalars())
    now = datetime.now(UTC)
    outcomes = []
    rows = []
    for message_id, body in messages:
        if message_id in known:
            outcomes.append(Outcome("known"))
            continue
        outcome = _apply(connection, body)
        outcomes.append(outcome)
        if message_id and outcome.state == "applied":
            known.add(message_id)
            rows.append({"message_id": message_id, "applied_at": now})
    if rows:
        connection.execute(applied_message.insert(), rows)
    return outcomes


def _apply(connection: Connection, body: bytes) -> Outcome:
    try:
        event = read_event(body)
        if changes_nothing(event):
            return Outcome("applied")
        with connection.begin_nested():
            apply_event(connection, event)
    except UnknownEntityError as error:
        return Outcome("early", str(error))
    except (DataError, SQLAlchemyError, OverflowError, UnicodeEncodeError) as error:
        if connection.invalidated:
            raise
        return Outcome("refused", str(error).splitlines()[0])
    return Outcome("applied")


class Consumer:
    """Apply the messages of a queue until cancelled.

    Parameters
    ----------
    database
        The entity database.
    settings
        The broker.

    Attributes
    ----------
    applied
        Number of messages applied.
    """

    def __init__(self, database: Database, settings: BrokerSettings) -> None:
        self._database = database
        self._settings = settings
        self.applied = 0
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Consume; connect again whenever the broker or the database was away."""
        wait = CONNECT_S[0]
        while True:
            try:
                connection = await aio_pika.connect(self._settings.url, timeout=10)
                async with connection:
                    wait = CONNECT_S[0]
                    await self._consume(connection)
            except (*AWAY, SQLAlchemyError) as error:
                reason = str(error).strip().splitlines()
                log.warning("%s: %s", self._settings.place, reason[0] if reason else type(error))
            await asyncio.sleep(wait)
            wait = min(2 * wait, CONNECT_S[1])

    async def _consume(self, connection: aio_pika.abc.AbstractConnection) -> None:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=2 * BATCH)
        queue = await channel.declare_queue(self._settings.queue, durable=True)
        if self._settings.exchange:
            exchange = await channel.declare_exchange(self._settings.exchange, durable=True)
            await queue.bind(exchange, routing_key=self._settings.queue)
        arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        await queue.consume(arrived.put)
        self.ready.set()
        await asyncio.to_thread(self._forget_old)
        while True:
            batch = await _gather(arrived, channel)
            messages = [(message.message_id, message.body) for message in batch]
            outcomes = await asyncio.to_thread(self._apply, messages)
            for message, outcome in zip(batch, outcomes, strict=True):
                await self._answer(channel, message, outcome)

    def _apply(self, messages: Sequence[tuple[str | None, bytes]]) -> list[Outcome]:
        with self._database.write() as connection:
            return apply_batch(connection, messages)

    def _forget_old(self) -> None:
        with self._database.write() as connection:
            old = applied_message.c.applied_at < datetime.now(UTC) - KEEP
            connection.execute(delete(applied_message).where(old))

    async def _answer(
        self,
        channel: aio_pika.abc.AbstractChannel,
        message: AbstractIncomingMessage,
        outcome: Outcome,
    ) -> None:
        if outcome.state == "applied":
            self.applied += 1
            log.debug("applied %s %s", message.message_id, message.body)
        elif outcome.state == "early" and _tries(message) < RETRIES:
            log.info("%s; the message comes again in %g s", outcome.reason, RETRY_S)
            asyncio.get_running_loop().call_later(RETRY_S, _later, channel, message, self._settings)
            return  # acknowledged once the copy is in the queue
        elif outcome.state != "known":
            log.error("message %s: %s", message.message_id, outcome.reason)
            await message.reject(requeue=False)
            return
        await message.ack()


async def _gather(
    arrived: asyncio.Queue[AbstractIncomingMessage], channel: aio_pika.abc.AbstractChannel
) -> list[AbstractIncomingMessage]:
    """Wait for a message, and a little for those that follow it."""
    while True:
        try:
            batch = [await asyncio.wait_for(arrived.get(), 1.0)]
            break
        except TimeoutError:
            if channel.is_closed:
                raise ConnectionError("connection lost") from None
    try:
        async with asyncio.timeout(GATHER_S):
            while len(batch) < BATCH:
                batch.append(await arrived.get())
    except TimeoutError:
        pass
    return batch


def _tries(message: AbstractIncomingMessage) -> int:
    count = message.headers.get(RETRY_HEADER, 0)
    return count if isinstance(count, int) else 0


_tasks: set[asyncio.Task[None]] = set()


def _later(
    channel: aio_pika.abc.AbstractChannel,
    message: AbstractIncomingMessage,
    settings: BrokerSettings,
) -> None:
    task = asyncio.get_running_loop().create_task(_again(channel, message, settings))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def _again(
    channel: aio_pika.abc.AbstractChannel,
    message: AbstractIncomingMessage,
    settings: BrokerSettings,
) -> None:
    """Put a message at the end of the queue with one more try; its id stays."""
    copy = aio_pika.Message(
        message.body,
        message_id=message.message_id,
        content_type=message.content_type or "application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        type=message.type,
        headers={**message.headers, RETRY_HEADER: _tries(message) + 1},
    )
    try:
        await channel.default_exchange.publish(copy, settings.queue)
        await message.ack()
    except AWAY as error:
        # Unacknowledged: the broker delivers it again when the connection is back.
        log.warning("%s: %s", settings.place, error)
