"""Messages over a real RabbitMQ: each once, in order, over deaths on both sides."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aio_pika
import httpx
import pika
import pytest
from aio_pika.exceptions import AMQPError
from epu_session import MOTION, session
from sqlalchemy import Connection, event, func, select
from support import forked
from support.waiting import until

from skywright import waiting as waiting_module
from skywright.errors import ConfigError
from skywright.instruments.epu.broker import connection as connection_module
from skywright.instruments.epu.broker import consumer as consumer_module
from skywright.instruments.epu.broker import publisher as publisher_module
from skywright.instruments.epu.broker.connection import BrokerSettings, broker_settings
from skywright.instruments.epu.broker.consumer import RETRY_HEADER, Consumer
from skywright.instruments.epu.broker.examples import example_events
from skywright.instruments.epu.broker.publisher import Publisher
from skywright.instruments.epu.broker.send import send_events
from skywright.instruments.epu.database import Database, open_database, read, write
from skywright.instruments.epu.database.schema_exchange import applied_message, outbox
from skywright.instruments.epu.database.writer import Writer

LIMIT_S = 120.0


@pytest.fixture
def store(sqlite_url: str) -> Iterator[Database]:
    opened = open_database(sqlite_url, announce=True)
    yield opened
    opened.close()


@pytest.fixture
def settings(rabbitmq_url: str, queue: str) -> BrokerSettings:
    return BrokerSettings(rabbitmq_url, queue, keep_receipts=60)


def taken(settings: BrokerSettings) -> list[Any]:
    """Take all messages of the queue as (properties, body)."""
    found = []
    with pika.BlockingConnection(pika.URLParameters(settings.url)) as connection:
        channel = connection.channel()
        while True:
            method, properties, body = channel.basic_get(settings.queue, auto_ack=True)
            if method is None:
                return found
            found.append((properties, json.loads(body)))


def announce(database: Database, numbers: range) -> None:
    with database.write() as connection:
        write.announce(
            connection, [{"event_type": "grid.registered", "grid_uuid": str(n)} for n in numbers]
        )


def waiting(database: Database) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(outbox)).scalar_one()


@contextlib.contextmanager
def publishing(database: Database, settings: BrokerSettings) -> Iterator[Publisher]:
    """Run a publisher on a loop of its own."""
    publisher = Publisher(database, settings)
    writer = Writer(database)
    loop = asyncio.new_event_loop()
    task = loop.create_task(publisher.run(writer))

    def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield publisher
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        writer.close()
        loop.close()


def test_the_outbox_is_published_in_order_and_emptied(
    store: Database, settings: BrokerSettings
) -> None:
    announce(store, range(1200))
    with publishing(store, settings) as publisher:
        until(lambda: waiting(store) == 0)
        assert publisher.connected
        announce(store, range(1200, 1210))
        publisher.wake()
        until(lambda: waiting(store) == 0)
    found = taken(settings)
    assert [body["grid_uuid"] for _, body in found] == [str(n) for n in range(1210)]
    properties = found[0][0]
    assert properties.delivery_mode == 2
    assert properties.content_type == "application/json"
    assert len({properties.message_id for properties, _ in found}) == 1210
    assert "BCC" not in (properties.headers or {})


def test_a_publisher_that_dies_before_it_forgets_doubles_nothing(
    store: Database, settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker has confirmed, and the process dies before the outbox is emptied."""
    died = threading.Event()

    def die(*_arguments: Any, **_values: Any) -> None:
        died.set()
        raise OSError("this process is dead")

    announce(store, range(100))
    with monkeypatch.context() as patch, publishing(store, settings):
        patch.setattr(publisher_module, "_forget", die)
        assert died.wait(LIMIT_S)
    assert waiting(store) == 100
    announce(store, range(100, 130))
    with publishing(store, settings):
        until(lambda: waiting(store) == 0)
    assert [body["grid_uuid"] for _, body in taken(settings)] == [str(n) for n in range(130)]


def test_receipts_come_by_a_named_exchange_too(
    store: Database, settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the outbox is published to an exchange of a name, as RABBITMQ_EXCHANGE has it."""
    named = replace(settings, exchange=f"{settings.queue}.exchange")
    died = threading.Event()

    def die(*_arguments: Any, **_values: Any) -> None:
        died.set()
        raise OSError("this process is dead")

    announce(store, range(100))
    try:
        with monkeypatch.context() as patch, publishing(store, named):
            patch.setattr(publisher_module, "_forget", die)
            assert died.wait(LIMIT_S)
        announce(store, range(100, 130))
        with publishing(store, named):
            until(lambda: waiting(store) == 0)
        assert [body["grid_uuid"] for _, body in taken(named)] == [str(n) for n in range(130)]
    finally:
        with pika.BlockingConnection(pika.URLParameters(settings.url)) as connection:
            connection.channel().exchange_delete(named.exchange)


def test_of_two_publishers_one_publishes_and_the_other_takes_over(
    store: Database, settings: BrokerSettings
) -> None:
    with publishing(store, settings) as second:
        with publishing(store, settings) as first:
            until(lambda: first.connected and second.connected)
            announce(store, range(50))
            until(lambda: waiting(store) == 0)
        announce(store, range(50, 100))
        until(lambda: waiting(store) == 0)
    assert [body["grid_uuid"] for _, body in taken(settings)] == [str(n) for n in range(100)]


def test_a_broker_out_of_reach_keeps_the_outbox(store: Database) -> None:
    announce(store, range(3))
    with publishing(store, BrokerSettings("amqp://guest:secret@127.0.0.1:9/", "q")) as publisher:
        until(lambda: publisher.details != "not connected yet")
        assert not publisher.connected
        assert "secret" not in publisher.details
    assert waiting(store) == 3


def test_a_receipt_that_another_program_wrote_stops_nothing(
    store: Database, settings: BrokerSettings
) -> None:
    announce(store, range(3))
    with publishing(store, settings):
        until(lambda: waiting(store) == 0)
    with pika.BlockingConnection(pika.URLParameters(settings.url)) as connection:
        for foreign in (
            "foreign",
            f"{store.identity()}:x",
            "other:1",
            f"{store.identity()}:{10**30}",
        ):
            connection.channel().basic_publish(
                "",
                f"{settings.queue}.receipts.{store.identity()}",
                b"",
                pika.BasicProperties(message_id=foreign, delivery_mode=2),
            )
    announce(store, range(3, 6))
    with publishing(store, settings):
        until(lambda: waiting(store) == 0)
    assert [body["grid_uuid"] for _, body in taken(settings)] == [str(n) for n in range(6)]


def test_a_database_that_fails_is_not_called_the_broker(
    store: Database, settings: BrokerSettings
) -> None:
    outbox.drop(store.engine)
    with publishing(store, settings) as publisher:
        until(lambda: "outbox" in publisher.details)
    assert publisher.details == "messages wait, the database fails: no such table: outbox"


async def consume_until(
    consumer: Consumer, settings: BrokerSettings, *steps: Callable[[], bool], tries: int = 0
) -> None:
    """Send MOTION to a consumer that runs until the last step gives true, one after the other."""
    task = asyncio.create_task(consumer.run())
    await consumer.ready.wait()
    message = aio_pika.Message(
        json.dumps(MOTION).encode(), message_id="motion", headers={RETRY_HEADER: tries}
    )
    async with await aio_pika.connect(settings.url) as connection:
        channel = await connection.channel()
        await channel.default_exchange.publish(message, settings.queue)
    for step in steps:
        await asyncio.to_thread(until, step)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("tries", [0, 1000, -1000, 2**63 - 1])
def test_the_consumer_waits_for_an_entity_that_comes_later(
    store: Database,
    settings: BrokerSettings,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tries: int,
) -> None:
    monkeypatch.setattr(consumer_module, "RETRY_S", (1,))
    caplog.set_level("INFO", consumer_module.__name__)

    def put_off() -> bool:
        return "comes again" in caplog.text

    def stored() -> bool:
        session(store)
        return True

    consumer = Consumer(store, settings)
    steps = (put_off, stored, lambda: consumer.applied == 1)
    asyncio.run(consume_until(consumer, settings, *steps, tries=tries))
    with store.read() as connection:
        row = read.get(connection, "micrograph", "m")
    assert row is not None
    assert row["average_motion"] == 0.5
    assert taken(settings) == []


def test_old_ids_are_forgotten_while_the_connection_lasts(
    store: Database, settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "FORGET_S", 0.0)
    session(store)
    column = applied_message.c.message_id

    def add_old() -> bool:
        old = datetime.now(UTC) - 2 * consumer_module.KEEP
        with store.write() as connection:
            rows = [{"message_id": "old", "applied_at": old}]
            connection.execute(applied_message.insert(), rows)
        return True

    def forgotten() -> bool:
        with store.read() as connection:
            return connection.execute(select(column)).scalars().all() == ["motion"]

    consumer = Consumer(store, settings)
    steps = (lambda: consumer.applied == 1, add_old, forgotten)
    asyncio.run(consume_until(consumer, settings, *steps))


def test_a_message_whose_id_is_no_text_stops_no_other(
    store: Database, settings: BrokerSettings
) -> None:
    session(store)
    with pika.BlockingConnection(pika.URLParameters(settings.url)) as connection:
        channel = connection.channel()
        channel.queue_declare(settings.queue, durable=True)
        for identity in (b"a\xff", b"a\xfe", b"a\xff"):
            properties = pika.BasicProperties(message_id=identity)
            channel.basic_publish("", settings.queue, json.dumps(MOTION).encode(), properties)
    consumer = Consumer(store, settings)
    asyncio.run(consume_until(consumer, settings, lambda: consumer.applied == 3))
    with store.read() as connection:
        ids = connection.execute(select(applied_message.c.message_id)).scalars().all()
    assert sorted(ids) == [r"a\xfe", r"a\xff", "motion"]
    assert taken(settings) == []


def test_messages_that_wait_hold_up_no_others(
    store: Database, settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = 10
    monkeypatch.setattr(consumer_module, "BATCH", batch)
    session(store)
    early = [MOTION | {"micrograph_uuid": f"later{n}"} for n in range(2 * batch + 1)]
    asyncio.run(send_events(settings, early, delay=0))
    consumer = Consumer(store, settings)
    asyncio.run(consume_until(consumer, settings, lambda: consumer.applied == 1))


def test_a_full_disk_refuses_no_message(
    store: Database, settings: BrokerSettings, caplog: pytest.LogCaptureFixture
) -> None:
    session(store)
    with store.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        filler = "x" * 4096 * connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
    most = [pages]

    @event.listens_for(store.engine, "begin")
    def limit(connection: Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count={most[0]}")

    def full() -> bool:
        found = [each for each in caplog.records if "database or disk is full" in each.message]
        assert not found or found[0].levelname == "ERROR"
        return bool(found)

    def made_room() -> bool:
        most[0] = pages + 1000
        return True

    consumer = Consumer(store, settings)
    body = {"event_type": "particle_picking.completed", "micrograph_uuid": "m"}
    large = body | {
        "number_of_particles_picked": 7,
        "pick_distribution": {"x": filler + "x" * 20000},
    }
    asyncio.run(send_events(settings, [large]))
    steps = (full, made_room, lambda: consumer.applied == 2)
    asyncio.run(consume_until(consumer, settings, *steps))
    with store.read() as connection:
        row = read.get(connection, "micrograph", "m")
    assert row is not None
    assert row["number_of_particles_picked"] == 7
    assert taken(settings) == []


def test_a_file_says_that_the_consumer_receives_messages(
    store: Database, settings: BrokerSettings, tmp_path: Path
) -> None:
    file = tmp_path / "ready"

    async def run(settings: BrokerSettings, until: Callable[[Consumer], Awaitable[None]]) -> None:
        file.touch()  # of a consumer that was killed
        consumer = Consumer(store, settings, file)
        task = asyncio.create_task(consumer.run())
        async with asyncio.timeout(LIMIT_S):
            await until(consumer)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert not file.exists()

    async def is_ready(consumer: Consumer) -> None:
        await consumer.ready.wait()
        assert file.exists()

    async def is_away(_: Consumer) -> None:
        while file.exists():
            await asyncio.sleep(0.01)

    asyncio.run(run(settings, is_ready))
    asyncio.run(run(replace(settings, url="amqp://127.0.0.1:9/"), is_away))


def test_a_trouble_is_over_without_a_message(
    store: Database, settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "IDLE_S", 0.01)
    consumer = Consumer(store, replace(settings, url="amqp://127.0.0.1:9/"))

    async def scenario() -> None:
        task = asyncio.create_task(consumer.run())
        while not consumer._trouble:
            await asyncio.sleep(0)
        consumer._settings = settings
        while consumer._trouble:
            await asyncio.sleep(0.01)
        assert consumer.ready.is_set()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_a_connection_that_is_lost_before_its_channel_is_made_again(
    store: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Lost:
        async def channel(self, **options: Any) -> None:
            raise RuntimeError("<Connection> closed")  # as the library has it

    tries: list[BrokerSettings] = []

    @contextlib.asynccontextmanager
    async def connected(settings: BrokerSettings) -> AsyncIterator[Lost]:
        tries.append(settings)
        yield Lost()

    async def tried_again(task: asyncio.Task[None]) -> None:
        while len(tries) < 3 and not task.done():
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert len(tries) == 3
        tries.clear()

    async def both() -> None:
        nobody, writer = BrokerSettings("amqp://127.0.0.1:9/"), Writer(store)
        await tried_again(asyncio.create_task(Consumer(store, nobody).run()))
        await tried_again(asyncio.create_task(Publisher(store, nobody).run(writer)))
        writer.close()

    monkeypatch.setattr(consumer_module, "CONNECT_S", (0.0, 0.0))
    monkeypatch.setattr(publisher_module, "RETRY_S", (0.0, 0.0))
    for module in (consumer_module, publisher_module):
        monkeypatch.setattr(module, "connected", connected)
    asyncio.run(both())
    assert not [each for each in caplog.records if each.exc_info]


def test_a_broker_that_always_refuses_is_asked_less_and_less_often(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be connected to, and refuses the queue, as one that is there with other arguments."""
    waits: list[float] = []
    states: list[bool] = []

    class Refusing:
        async def channel(self, **options: Any) -> None:
            states.append(publisher.connected)
            raise AMQPError("PRECONDITION_FAILED")

    @contextlib.asynccontextmanager
    async def connected(settings: BrokerSettings) -> AsyncIterator[Refusing]:
        yield Refusing()

    def back_off(limits_s: tuple[float, float]) -> Iterator[float]:
        for pause_s in waiting_module.back_off(limits_s):
            waits.append(pause_s)
            yield 0.0

    async def be_refused() -> None:
        writer = Writer(store)
        task = asyncio.create_task(publisher.run(writer))
        while len(waits) < 4 and not task.done():
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        writer.close()

    monkeypatch.setattr(publisher_module, "connected", connected)
    monkeypatch.setattr(publisher_module, "back_off", back_off)
    publisher = Publisher(store, BrokerSettings("amqp://127.0.0.1:9/"))
    asyncio.run(be_refused())
    assert waits[:4] == [0.2, 0.4, 0.8, 1.6]
    assert not any(states)


def test_a_consumer_ends_at_whatever_step_of_connecting_it_is_told_to(store: Database) -> None:
    nobody = BrokerSettings("amqp://127.0.0.1:9/")

    async def end_at(step: int) -> None:
        task = asyncio.create_task(Consumer(store, nobody).run())
        for _ in range(step):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=LIMIT_S)
        assert done, step

    async def end_at_each() -> None:
        for step in 3 * list(range(1, 60)):
            await end_at(step)

    asyncio.run(end_at_each())


def test_a_broker_that_is_cut_off_is_noticed(
    store: Database, settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "HEARTBEAT_S", 1, raising=False)
    is_cut = asyncio.Event()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            if not is_cut.is_set():
                writer.write(data)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_broker, to_broker = await asyncio.open_connection("127.0.0.1", 5672)
        pumps = (pump(reader, to_broker), pump(from_broker, writer))
        await asyncio.wait([asyncio.create_task(each) for each in pumps])

    async def notice() -> None:
        server = await asyncio.start_server(relay, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        url = settings.url.replace(":5672", f":{port}")
        publisher, writer = Publisher(store, replace(settings, url=url)), Writer(store)
        task = asyncio.create_task(publisher.run(writer))
        async with asyncio.timeout(LIMIT_S):
            while not publisher.connected:
                await asyncio.sleep(0.05)
            is_cut.set()
            while publisher.connected:
                await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        writer.close()

    asyncio.run(notice())


def test_a_broker_that_hangs_does_not_hold_up_the_end(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hanging:
        """A connection to a broker that is stopped: nothing is ever written or read."""

        def __init__(self) -> None:
            self.asked = asyncio.Event()

        async def channel(self) -> None:
            self.asked.set()
            await asyncio.Event().wait()

        async def close(self) -> None:
            await asyncio.Event().wait()

        async def __aenter__(self) -> "Hanging":
            return self

        async def __aexit__(self, *_: object) -> None:
            await self.close()

    async def end() -> None:
        hanging = Hanging()

        async def connect(url: str) -> Hanging:
            return hanging

        monkeypatch.setattr(aio_pika, "connect", connect)
        monkeypatch.setattr(connection_module, "CLOSE_LIMIT_S", 0.01, raising=False)
        task = asyncio.create_task(Consumer(store, BrokerSettings("amqp://127.0.0.1:9/")).run())
        await hanging.asked.wait()
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=LIMIT_S)
        assert done

    asyncio.run(end())


def test_services_killed_in_between_lose_and_double_nothing(
    run_service: Callable[..., Any], settings: BrokerSettings, sqlite_url: str
) -> None:
    """The server is killed twice and the consumer once while micrographs come."""
    options = ("--database", sqlite_url, "--broker", settings.url)
    server = run_service("serve", "--port", "0", *options)
    port = str(server.facts["port"])
    consumer = run_service("consume", *options)
    links = [
        ("acquisitions", {"uuid": "a", "name": "n"}),
        ("acquisitions/a/grids", {"uuid": "g", "name": "n"}),
        ("grids/g/gridsquares", {"uuid": "s", "gridsquare_id": "1"}),
        ("gridsquares/s/foilholes", [{"uuid": "h", "foilhole_id": "1", "gridsquare_id": "1"}]),
    ]
    for path, body in links:
        assert httpx.post(f"{server.url}/{path}", json=body).status_code == 201
    acknowledged: list[str] = []
    ending = threading.Event()

    def send() -> None:
        with httpx.Client(base_url=server.url, timeout=90) as http:
            while not ending.is_set():
                body = {"uuid": str(uuid.uuid4()), "foilhole_id": "1"}
                while not ending.is_set():
                    try:
                        answer = http.post("/foilholes/h/micrographs", json=body)
                    except httpx.HTTPError:
                        ending.wait(0.1)
                        continue
                    assert answer.status_code in (200, 201)
                    acknowledged.append(body["uuid"])
                    break

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for victim in (server, consumer, server):
        enough = len(acknowledged) + 40
        until(lambda enough=enough: len(acknowledged) >= enough)
        victim.kill()
        if victim is server:
            server = run_service("serve", "--port", port, *options)
        else:
            consumer = run_service("consume", *options)
    enough = len(acknowledged) + 20
    until(lambda: len(acknowledged) >= enough)
    ending.set()
    for thread in threads:
        thread.join()
    store = open_database(sqlite_url)

    def applied() -> int:
        with store.read() as connection:
            return connection.execute(
                select(func.count()).select_from(applied_message)
            ).scalar_one()

    def micrographs() -> set[str]:
        with store.read() as connection:
            return {row["uuid"] for row in read.page(connection, "micrograph")}

    # 4 messages of the parents, and one of each micrograph.
    until(lambda: applied() == len(micrographs()) + 4 and waiting(store) == 0)
    assert micrographs() >= set(acknowledged)
    assert len(set(acknowledged)) == len(acknowledged)
    assert taken(settings) == []
    store.close()


def test_the_command_line_lists_and_refuses(settings: BrokerSettings) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return forked.run(
            [sys.executable, "-m", "skywright.cli", "epu", *arguments],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
            env={key: value for key, value in os.environ.items() if key != "RABBITMQ_HOST"},
        )

    assert run("simulate-events", "--list").stdout.split() == list(example_events())
    sent = run("simulate-events", "--broker", settings.url, "--event", "ctf.completed")
    assert sent.stdout == "sent ctf.completed\n"
    assert [body["event_type"] for _, body in taken(settings)] == ["ctf.completed"]
    unknown = run("simulate-events", "--broker", settings.url, "--event", "none")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert run("consume").returncode == 2
    away = run("simulate-events", "--broker", "amqp://guest:secret@127.0.0.1:9/")
    assert away.returncode == 1
    assert "secret" not in away.stderr


def test_settings_of_smartem_decisions_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RABBITMQ_HOST", raising=False)
    monkeypatch.delenv("RABBITMQ_QUEUE", raising=False)
    assert broker_settings(None) is None
    for name, value in {"HOST": "mq", "USER": "u", "PASSWORD": "p/w", "VHOST": "v"}.items():
        monkeypatch.setenv(f"RABBITMQ_{name}", value)
    found = broker_settings(None)
    assert found == BrokerSettings("amqp://u:p%2Fw@mq:5672/v", "smartem_backend")
    for bad in ("http://host", "amqp://", "amqp://u:secret@host:port/", "amqp:/u:secret@host/"):
        with pytest.raises(ConfigError) as caught:
            broker_settings(bad)
        assert "secret" not in str(caught.value)
    monkeypatch.setenv("SKYWRIGHT_EPU_KEEP_RECEIPTS", "long")
    with pytest.raises(ConfigError, match="long"):
        broker_settings(None)
