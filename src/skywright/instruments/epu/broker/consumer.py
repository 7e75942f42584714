"""The worker that applies the messages of the queue to the entity database, each once.

The row that says that a message was applied is written in the transaction that applies it, and the
broker is told after the commit. So a worker that dies in between gets the message again and finds
its row. A message without an id, from a program that sends none, is applied again then; such
messages state results, which may be stated twice.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from sqlalchemy import Connection, delete, select
from sqlalchemy.exc import SQLAlchemyError

from skywright.errors import DataError
from skywright.instruments.epu.broker.apply import UnknownEntityError, apply_event, changes_nothing
from skywright.instruments.epu.broker.connection import (
    AWAY,
    BrokerSettings,
    connected,
    declare,
    open_channel,
    persistent,
)
from skywright.instruments.epu.broker.events import read_event
from skywright.instruments.epu.database import Database, is_away, reason_of
from skywright.instruments.epu.database.schema_exchange import applied_message
from skywright.waiting import back_off

log = logging.getLogger(__name__)

BATCH = 200
"""Messages applied in one transaction."""
GATHER_S = 0.02
"""Longest time that the first message of a batch waits for others."""
IDLE_S = 1.0
"""Time without a message after which the connection is checked."""
RETRY_S = (1, 4, 16, 60, 240, 900, 3600)
"""Times after which a message about an entity that is not stored comes again; then always the last.

It waits in a queue of the broker's, one for each time, from which the broker moves it back.
"""
LEASE_S = 60
"""An empty queue of waiting messages is removed this long after its last message has left."""
RETRY_HEADER = "x-retry-count"
KEEP = timedelta(days=14)
"""Time for which the ids of applied messages are kept; no broker delivers again after it."""
FORGET_S = 3600.0
"""Time between two looks for ids that are older than that."""
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

    Raises
    ------
    SQLAlchemyError
        The database cannot store anything now; nothing of the batch is applied.
    """
    # PostgreSQL holds no NUL, and looking one up fails for the whole batch.
    ids = [message_id for message_id, _ in messages if message_id and "\0" not in message_id]
    column = applied_message.c.message_id
    known = set(connection.execute(select(column).where(column.in_(ids))).scalars())
    now = datetime.now(UTC)
    outcomes = []
    rows = []
    for message_id, body in messages:
        if message_id in known:
            outcomes.append(Outcome("known"))
            continue
        if message_id and "\0" in message_id:
            outcomes.append(Outcome("refused", "message_id: must not hold a NUL character"))
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
        if connection.invalidated or is_away(error):
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
    ready_file
        File that exists while messages are received; None: there is none.

    Attributes
    ----------
    applied
        Number of messages applied.
    """

    def __init__(
        self, database: Database, settings: BrokerSettings, ready_file: Path | None = None
    ) -> None:
        self._database = database
        self._settings = settings
        self._delays = back_off(CONNECT_S)
        self._trouble = ""
        self._ready_file = ready_file
        self.applied = 0
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Consume; connect again whenever the broker or the database was away."""
        self._show_ready(False)  # a killed process may have left the file
        while True:
            try:
                async with connected(self._settings) as connection:
                    await self._consume(connection)
            except SQLAlchemyError as error:
                # A full disk takes back the whole transaction, so that its savepoint's end fails.
                first: BaseException = error
                while first.__context__ is not None:
                    first = first.__context__
                self._report(f"messages wait, the database fails: {reason_of(first)}")
            except AWAY as error:
                self._report(f"{self._settings.place}: {reason_of(error)}")
            finally:
                self._show_ready(False)
            await asyncio.sleep(next(self._delays))

    def _report(self, trouble: str) -> None:
        """Log why no message is applied: as an error when it begins, or is another one."""
        log.log(logging.WARNING if trouble == self._trouble else logging.ERROR, "%s", trouble)
        self._trouble = trouble

    def _show_ready(self, ready: bool) -> None:
        if self._ready_file is not None and ready:
            self._ready_file.touch()
        elif self._ready_file is not None:
            self._ready_file.unlink(missing_ok=True)

    async def _consume(self, connection: aio_pika.abc.AbstractConnection) -> None:
        channel = await open_channel(connection)
        await channel.set_qos(prefetch_count=2 * BATCH)
        queue, _ = await declare(channel, self._settings)
        arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        await queue.consume(arrived.put)
        self._show_ready(True)
        self.ready.set()
        forget_at = 0.0
        while True:
            if time.monotonic() >= forget_at:
                await asyncio.to_thread(self._forget_old)
                forget_at = time.monotonic() + FORGET_S
            batch = await _gather(arrived, channel)
            messages = [(message.message_id, message.body) for message in batch]
            outcomes = await asyncio.to_thread(self._apply, messages) if messages else []
            # Also without a message: the broker is connected, and no message waits to be stored
            self._delays, self._trouble = back_off(CONNECT_S), ""
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
        elif outcome.state == "early":
            await self._put_off(channel, message, outcome.reason)
        elif outcome.state != "known":
            log.error("message %s: %s", message.message_id or "without id", outcome.reason)
            await message.reject(requeue=False)
            return
        await message.ack()

    async def _put_off(
        self, channel: aio_pika.abc.AbstractChannel, message: AbstractIncomingMessage, reason: str
    ) -> None:
        """Let a message come again later; its id stays."""
        tries = _tries(message)
        seconds = RETRY_S[min(tries, len(RETRY_S) - 1)]
        log.info("%s; the message comes again in %g s", reason, seconds)
        queue = await channel.declare_queue(
            f"{self._settings.queue}.again.{seconds}s",
            durable=True,
            arguments={
                "x-message-ttl": 1000 * seconds,
                "x-expires": 1000 * (seconds + LEASE_S),  # counts anew with each declaration
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": self._settings.queue,
            },
        )
        again = {RETRY_HEADER: tries + 1}
        copy = persistent(message.body, message.message_id, message.type, headers=again)
        await channel.default_exchange.publish(copy, queue.name)


async def _gather(
    arrived: asyncio.Queue[AbstractIncomingMessage], channel: aio_pika.abc.AbstractChannel
) -> list[AbstractIncomingMessage]:
    """Return a message and those that follow it at once; none if no message comes in `IDLE_S`."""
    try:
        async with asyncio.timeout(IDLE_S):
            batch = [await arrived.get()]
    except TimeoutError:
        if channel.is_closed:
            raise ConnectionError("connection lost") from None
        return []
    try:
        async with asyncio.timeout(GATHER_S):
            while len(batch) < BATCH:
                batch.append(await arrived.get())
    except TimeoutError:
        pass
    return batch


def _tries(message: AbstractIncomingMessage) -> int:
    """Return how often a message has come again; what another program has put there may be odd."""
    count = message.headers.get(RETRY_HEADER, 0)
    return min(max(count, 0), len(RETRY_S)) if isinstance(count, int) else 0
