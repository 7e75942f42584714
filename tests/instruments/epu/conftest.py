"""Databases, queues and processes of the EPU services; each test has its own."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import forked

START_S = 60.0


@contextlib.contextmanager
def new_postgres(uri: str, template: str | None = None) -> Iterator[str]:
    """Make a PostgreSQL database and drop it at the end."""
    import psycopg

    name = f"epu_{uuid.uuid4().hex}"
    copy = f' TEMPLATE "{template}"' if template else ""
    with psycopg.connect(f"{uri}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"{copy}')
        try:
            yield f"{uri}/{name}"
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'epu.sqlite'}"


@pytest.fixture(scope="session")
def postgres_template(postgres_uri: str) -> Iterator[str]:
    """Name of a database with our tables; a copy of it is made sooner than the tables."""
    from skywright.instruments.epu.database import open_database

    with new_postgres(postgres_uri) as url:
        open_database(url).close()
        yield url.rpartition("/")[2]


@pytest.fixture
def postgres_url(postgres_uri: str, postgres_template: str) -> Iterator[str]:
    with new_postgres(postgres_uri, postgres_template) as url:
        yield url


@pytest.fixture
def empty_postgres_url(postgres_uri: str) -> Iterator[str]:
    with new_postgres(postgres_uri) as url:
        yield url


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A database of each kind that the tests of a module share."""
    from skywright.instruments.epu.database import open_database

    with contextlib.ExitStack() as stack:
        if request.param == "sqlite":
            url = f"sqlite:///{tmp_path_factory.mktemp('epu') / 'epu.sqlite'}"
        else:
            uri = request.getfixturevalue("postgres_uri")
            template = request.getfixturevalue("postgres_template")
            url = stack.enter_context(new_postgres(uri, template))
        opened = open_database(url, announce=True)
        stack.callback(opened.close)
        yield opened


@pytest.fixture
def database(shared_database: Any) -> Any:
    """An empty database of each kind, which announces changes."""
    from skywright.instruments.epu.database.engine import metadata

    with shared_database.write() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
    return shared_database


@pytest.fixture(scope="module")
def shared_client(shared_database: Any) -> Iterator[Any]:
    """A client of an API over the shared database."""
    from fastapi.testclient import TestClient

    from skywright.instruments.epu.api.app import create_app

    with TestClient(create_app(shared_database), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def queue(rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name of a queue of this test; the services use it, and it is deleted at the end."""
    name = f"test.{uuid.uuid4().hex}"
    monkeypatch.setenv("RABBITMQ_QUEUE", name)
    monkeypatch.setenv("SKYWRIGHT_EPU_KEEP_RECEIPTS", "60")  # the broker removes those of tests
    yield name
    delete_queue(rabbitmq_url, name)


def delete_queue(url: str, name: str) -> None:
    import pika

    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().queue_delete(name)


class Service:
    """A process of ours that prints a ready line."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self._arguments = arguments
        self._environment = environment
        self.start()

    def start(self) -> None:
        self.process = forked.start(
            [sys.executable, "-m", "skywright.cli", "epu", *self._arguments],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | self._environment,
        )
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], START_S)
        line = self.process.stdout.readline() if readable else ""
        assert line, f"{self._arguments} ended or was silent: {self.process.poll()}"
        self.facts: dict[str, Any] = json.loads(line)["ready"]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, timeout: float = 10.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    @property
    def url(self) -> str:
        return str(self.facts["url"])


@pytest.fixture
def run_service() -> Iterator[Callable[..., Service]]:
    """Start services of ours; those that still run at the end are killed."""
    started: list[Service] = []

    def run(*arguments: str, **environment: str) -> Service:
        service = Service(*arguments, **environment)
        started.append(service)
        return service

    yield run
    for service in started:
        if service.process.poll() is None:
            service.kill()
        assert service.process.stdout is not None
        service.process.stdout.close()


@pytest.fixture
def api(run_service: Callable[..., Service], tmp_path: Path) -> Service:
    """Serve an API over a database of its own."""
    return run_service("serve", "--port", "0", "--database", f"sqlite:///{tmp_path}/api.sqlite")
