"""Micrographs at full rate over eight connections, and deaths of all processes in between."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from sqlalchemy import func, select
from support.epu_api import make_hole
from support.waiting import until

from skywright.instruments.epu.database import open_database
from skywright.instruments.epu.database.schema import micrograph
from skywright.instruments.epu.database.schema_exchange import applied_message, outbox
from skywright.processes.ports import free_port

CONNECTIONS = 8
LIMIT_S = 120.0

MICROGRAPH = {
    "foilhole_id": "1",
    "location_id": "29261293",
    "high_res_path": "/cygdrive/z/visit/FoilHole_1_Data_29261293_0_20250129_114714.mrc",
    "manifest_file": "/cygdrive/z/visit/FoilHole_1_Data_29261293_0_20250129_114714.xml",
    "acquisition_datetime": "2025-01-29T11:47:14.6680610+00:00",
    "defocus": 9.19e-07,
    "detector_name": "BioQuantum K3",
    "energy_filter": False,
    "phase_plate": False,
    "image_size_x": 2880,
    "image_size_y": 2046,
    "binning_x": 2,
    "binning_y": 2,
    "status": "none",
}


PARENTS = 4
"""Messages that `make_hole` causes."""


class Senders:
    """Eight connections that send micrographs until `end`; each is sent until it is answered."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.answered: list[str] = []
        self.delays: list[float] = []
        self._ending = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()

    def end(self) -> None:
        self._ending = True
        self._thread.join()

    async def _run(self) -> None:
        await asyncio.gather(*(self._connection() for _ in range(CONNECTIONS)))

    async def _connection(self) -> None:
        body: dict[str, Any] | None = None
        while not self._ending:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while not self._ending:
                    body = body or {**MICROGRAPH, "uuid": str(uuid.uuid4())}
                    begun = time.perf_counter()
                    await _post(reader, writer, body)
                    self.delays.append(time.perf_counter() - begun)
                    self.answered.append(body["uuid"])
                    body = None
            writer.close()


async def _post(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: dict[str, Any]
) -> None:
    content = json.dumps(body).encode()
    head = (
        "POST /foilholes/h/micrographs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    writer.write(head.encode() + content)
    answer = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(answer.split(b"content-length:")[1].split(b"\r\n")[0])
    text = await reader.readexactly(length)
    status = int(answer.split(b" ")[1])
    if status == 503:
        raise ConnectionError("the service is starting or ending")
    assert status in (200, 201), text


def counts(url: str) -> tuple[int, int, int]:
    """Number of micrographs, of applied messages, and of messages in the outbox."""
    database = open_database(url)
    with database.read() as connection:
        found = tuple(
            connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (micrograph, applied_message, outbox)
        )
    database.close()
    return found  # type: ignore[return-value]


def measure(
    run_service: Callable[..., Any], database: str, broker: str, seconds: float
) -> dict[str, float]:
    options = ("--database", database, "--broker", broker)
    server = run_service("serve", "--port", "0", *options)
    consumer = run_service("consume", *options)
    make_hole(server.url)
    senders = Senders(server.facts["port"])
    threading.Event().wait(seconds)
    senders.end()
    sent = len(senders.answered)
    until(lambda: counts(database) == (sent, sent + PARENTS, 0))
    for service in (server, consumer):
        assert service.stop() == 0
    delays = sorted(senders.delays)
    return {"per_s": sent / seconds, "p95_ms": 1e3 * delays[int(0.95 * len(delays))], "n": sent}


def test_micrographs_at_full_rate(
    run_service: Callable[..., Any], postgres_url: str, rabbitmq_url: str, queue: str
) -> None:
    """All are stored, published and applied once; the rate is for `make soak` to judge."""
    assert measure(run_service, postgres_url, rabbitmq_url, 3.0)["n"] > 0


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["postgres_url", "sqlite_url"])
def test_a_minute_of_micrographs(
    run_service: Callable[..., Any],
    rabbitmq_url: str,
    queue: str,
    kind: str,
    request: pytest.FixtureRequest,
) -> None:
    measured = measure(run_service, request.getfixturevalue(kind), rabbitmq_url, 60.0)
    about = {"soak": "EPU API, micrographs over 8 connections", "database": kind[:-4]}
    cores = len(os.sched_getaffinity(0))
    sys.stdout.write(json.dumps({**about, **measured, "goal_per_s": 500, "cores": cores}) + "\n")


class OwnBroker:
    """A RabbitMQ node of this test, which can be killed."""

    def __init__(self, program: Path, directory: Path) -> None:
        self._program = program
        self.port = free_port()
        self._environment = os.environ | {
            "HOME": str(directory),
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(directory / "none"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "none"),
        }
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self._program],
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until(self._answers)

    def _answers(self) -> bool:
        try:
            pika.BlockingConnection(pika.URLParameters(self.url)).close()
        except (pika.exceptions.AMQPError, OSError):
            return False
        return True

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        until(lambda: not self._listens())

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def own_broker(rabbitmq_server: Path, tmp_path: Path) -> Iterator[OwnBroker]:
    broker = OwnBroker(rabbitmq_server, tmp_path)
    yield broker
    broker.kill()


class SecondConsumer:
    """A queue of another program beside ours: it takes every message once by its id."""

    def __init__(self, url: str, exchange: str) -> None:
        self._url, self._exchange = url, exchange
        self.taken: Counter[str] = Counter()
        self.bodies: dict[str, dict[str, Any]] = {}

    def bind(self) -> None:
        with pika.BlockingConnection(pika.URLParameters(self._url)) as connection:
            channel = connection.channel()
            channel.exchange_declare(self._exchange, durable=True)
            channel.queue_declare("second", durable=True)
            channel.queue_bind("second", self._exchange, routing_key=os.environ["RABBITMQ_QUEUE"])

    def drain(self) -> None:
        with pika.BlockingConnection(pika.URLParameters(self._url)) as connection:
            channel = connection.channel()
            while True:
                method, properties, body = channel.basic_get("second", auto_ack=True)
                if method is None:
                    return
                self.taken[properties.message_id] += 1
                self.bodies[properties.message_id] = json.loads(body)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_server_consumer_and_broker_killed_in_between(
    run_service: Callable[..., Any],
    own_broker: OwnBroker,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RABBITMQ_QUEUE", "smartem_backend")
    monkeypatch.setenv("RABBITMQ_EXCHANGE", "smartem")
    second = SecondConsumer(own_broker.url, "smartem")
    second.bind()
    options = ("--database", postgres_url, "--broker", own_broker.url)
    server = run_service("serve", "--port", "0", *options)
    port = str(server.facts["port"])
    consumer = run_service("consume", *options)
    make_hole(server.url)
    senders = Senders(int(port))

    def enough() -> None:
        target = len(senders.answered) + 300
        until(lambda: len(senders.answered) >= target)

    for victim in ("server", "consumer", "broker", "server", "broker", "consumer"):
        enough()
        if victim == "server":
            server.kill()
            server = run_service("serve", "--port", port, *options)
        elif victim == "consumer":
            consumer.kill()
            consumer = run_service("consume", *options)
        else:
            own_broker.kill()
            own_broker.start()
    enough()
    senders.end()

    def settled() -> bool:
        micrographs, applied, waiting = counts(postgres_url)
        return waiting == 0 and applied == micrographs + PARENTS

    until(settled)
    micrographs, _, _ = counts(postgres_url)
    second.drain()
    created = [body["uuid"] for body in second.bodies.values()]
    again = sum(second.taken.values()) - len(second.taken)
    about = {"soak": "EPU messages over six deaths", "micrographs": micrographs}
    sys.stdout.write(json.dumps({**about, "delivered_twice_with_one_id": again}) + "\n")
    assert len(set(senders.answered)) == len(senders.answered)
    assert set(senders.answered) <= set(created)
    assert len(created) == len(set(created)) == micrographs + PARENTS
