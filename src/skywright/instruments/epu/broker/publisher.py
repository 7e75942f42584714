"""Publishing the outbox: no message lost, none doubled, in the order of the commits.

A message leaves the outbox once the broker has confirmed that it is on disk. If this process dies
between the two, the next one cannot know which messages the broker took. So the broker itself keeps
receipts: each message names a second queue in its header ``BCC`` (RabbitMQ's sender-selected
distribution), and the broker puts a copy there in the same step. A publisher that starts reads the
receipts first and removes from the outbox what they name.

Receipts prove nothing after the broker itself died, since it may have saved the copy and not the
message. A transient message in the receipts queue, which does not survive the broker, tells the two
cases apart; after a broker's death, unconfirmed messages are published again under the same message
id, by which consumers drop a double.

The queue of receipts has one consumer at a time, so of several servers on one database one
publishes, and the next one takes over when that dies.
"""

import asyncio
import logging
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aio_pika.exceptions import ChannelClosed
from sqlalchemy import Connection, delete, select
from sqlalchemy.exc import SQLAlchemyError

from skywright.errors import message_of
from skywright.instruments.epu.broker.connection import (
    AWAY,
    BrokerSettings,
    connected,
    declare,
    open_channel,
    persistent,
)
from skywright.instruments.epu.database import Database, reason_of
from skywright.instruments.epu.database.schema_exchange import outbox
from skywright.instruments.epu.database.write import chunks
from skywright.instruments.epu.database.writer import Writer
from skywright.waiting import back_off

log = logging.getLogger(__name__)

BATCH = 500
"""Messages that await confirmation at a time."""
POLL_S = 0.5
"""Longest delay of a message that another process wrote; one of our own goes at once."""
GATHER_S = 0.02
"""Pause between two queries of the outbox: messages of many small commits go together."""
RETRY_S = (0.2, 5.0)
"""First and longest wait before connecting again."""
CONFIRM_S = 60.0
MARK = "skywright.alive"


class Publisher:
    """Publish the outbox of a database.

    Parameters
    ----------
    database
        The database.
    settings
        The broker.

    Attributes
    ----------
    connected
        Whether the broker is connected.
    details
        What to tell people of the connection.
    """

    def __init__(self, database: Database, settings: BrokerSettings) -> None:
        self._database = database
        self._settings = settings
        self._identity = ""
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._delays = back_off(RETRY_S)
        self.connected = False
        self.details = "not connected yet"

    def wake(self) -> None:
        """Publish now what is in the outbox; callable from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self, writer: Writer) -> None:
        """Publish until cancelled; connect again whenever the connection is lost."""
        self._loop = asyncio.get_running_loop()
        while True:
            try:
                if not self._identity:
                    self._identity = await asyncio.to_thread(self._database.identity)
                async with connected(self._settings) as connection:
                    await self._publish(connection, writer)
            except SQLAlchemyError as error:
                self.details = f"messages wait, the database fails: {reason_of(error)}"
                log.warning("%s", self.details)
            except AWAY as error:
                self.details = f"{self._settings.place}: {message_of(error)}"
                log.warning("broker %s", self.details)
            except Exception as error:  # the API goes on, and this tries again
                self.details = f"{self._settings.place}: {type(error).__name__}: {error}"
                log.exception("publishing")
            finally:
                self.connected = False
            await asyncio.sleep(next(self._delays))

    async def _publish(self, connection: Any, writer: Writer) -> None:
        channel = await open_channel(connection, publisher_confirms=True, on_return_raises=True)
        _, exchange = await declare(channel, self._settings)
        name = f"{self._settings.queue}.receipts.{self._identity}"
        receipts = _Receipts(name, self._settings)
        is_ours = await receipts.take(connection)
        self.connected, self.details = True, self._settings.place
        while not is_ours:
            await asyncio.sleep(1.0)  # another server publishes; it may end
            is_ours = await receipts.take(connection)
        if receipts.broker_lived:
            await writer.do(partial(_forget, numbers=self._numbers(receipts.taken)))
        await receipts.drop(receipts.taken)
        while True:
            await asyncio.sleep(GATHER_S)
            self._wake.clear()
            rows = await asyncio.to_thread(self._waiting)
            if not rows:
                self._delays = back_off(RETRY_S)
                await self._idle(channel)
                continue
            messages = [self._message(row, receipts.name) for row in rows]
            async with asyncio.timeout(CONFIRM_S):
                await asyncio.gather(
                    *(
                        exchange.publish(message, self._settings.queue, mandatory=True)
                        for message in messages
                    )
                )
            numbers = [row["id"] for row in rows]
            await writer.do(partial(_forget, numbers=numbers))
            await receipts.drop([str(message.message_id) for message in messages])
            self._delays = back_off(RETRY_S)

    async def _idle(self, channel: AbstractChannel) -> None:
        """Wait for messages, and notice a connection that is lost meanwhile."""
        try:
            async with asyncio.timeout(POLL_S):
                await self._wake.wait()
        except TimeoutError:
            pass
        if channel.is_closed:
            raise ConnectionError("connection lost")

    def _waiting(self) -> list[Any]:
        with self._database.read() as connection:
            query = select(outbox).order_by(outbox.c.id).limit(BATCH)
            return list(connection.execute(query).mappings())

    def _message(self, row: Any, receipts: str) -> aio_pika.Message:
        about = {"timestamp": row["created_at"], "app_id": "skywright"}
        identity = f"{self._identity}:{row['id']}"
        body = row["body"].encode()
        return persistent(body, identity, row["event_type"], headers={"BCC": [receipts]}, **about)

    def _numbers(self, message_ids: Sequence[str]) -> list[int]:
        """Return the numbers in the outbox; an id that is none of ours has none."""
        parts = [message_id.rpartition(":") for message_id in message_ids]
        ours = [end for identity, _, end in parts if identity == self._identity]
        return [int(end) for end in ours if re.fullmatch("[0-9]{1,18}", end)]


class _Receipts:
    """The queue of receipts, and what has come from it."""

    def __init__(self, name: str, settings: BrokerSettings) -> None:
        self.name = name
        self._settings = settings
        self.taken: list[str] = []
        self.broker_lived = False
        self._messages: dict[str, AbstractIncomingMessage] = {}
        self._dropped: set[str] = set()
        self._drained = asyncio.Event()
        self._mark: str | None = None

    async def take(self, connection: Any) -> bool:
        """Become the one consumer and read what is there; False where another one is."""
        channel = await open_channel(connection)
        arguments: dict[str, Any] = {"x-expires": 1000 * self._settings.keep_receipts}
        queue = await channel.declare_queue(self.name, durable=True, arguments=arguments)
        if self._settings.exchange:  # the broker looks for the queue of the header there
            await queue.bind(self._settings.exchange, routing_key=self.name)
        try:
            await queue.consume(self._receive, exclusive=True)
        except ChannelClosed:
            return False
        # The queue is in order: when our mark arrives, everything older has arrived.
        mark = aio_pika.Message(b"", type=MARK, delivery_mode=aio_pika.DeliveryMode.NOT_PERSISTENT)
        self._mark = mark.message_id = f"{MARK}:{id(self)}:{asyncio.get_running_loop().time()}"
        await channel.default_exchange.publish(mark, self.name)
        async with asyncio.timeout(CONFIRM_S):
            await self._drained.wait()
        self.taken = list(self._messages)
        return True

    async def drop(self, message_ids: Sequence[str]) -> None:
        """Acknowledge receipts; of those that have not come yet, when they come."""
        for message_id in message_ids:
            message = self._messages.pop(message_id, None)
            if message is None:
                self._dropped.add(message_id)
            else:
                await message.ack()

    async def _receive(self, message: AbstractIncomingMessage) -> None:
        message_id = message.message_id or ""
        if message.type == MARK:
            if message_id == self._mark:
                # Never acknowledged: it goes back into the queue when this process dies.
                self._drained.set()
            else:
                self.broker_lived = True
                await message.ack()
        elif message_id in self._dropped:
            self._dropped.discard(message_id)
            await message.ack()
        else:
            self._messages[message_id] = message


def _forget(connection: Connection, numbers: Sequence[int]) -> None:
    """Remove messages that the broker has from the outbox."""
    for part in chunks(numbers):
        connection.execute(delete(outbox).where(outbox.c.id.in_(part)))
