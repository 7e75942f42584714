"""The ingest into a tiled server that somebody else runs."""

import asyncio
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import numpy as np
import pytest
from store.recording import Recording, array, scalar
from support.waiting import until

from skywright.config import Settings
from skywright.processes.ports import free_port
from skywright.store.client import catalog, connect, ensure_containers
from skywright.store.ingest import IngestState, ingest
from skywright.store.recover import recover


async def _sql(address: str, *statements: str) -> None:
    connection = await asyncpg.connect(f"{address}/postgres", user="root")
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


@pytest.fixture
def databases(postgres_uri: str) -> Iterator[tuple[str, str]]:
    """Addresses of two new databases, for the catalog and for tables."""
    names = [f"skywright_{uuid.uuid4().hex[:12]}" for _ in range(2)]
    asyncio.run(_sql(postgres_uri, *(f"CREATE DATABASE {name}" for name in names)))
    address = postgres_uri.replace("//", "//root@")
    yield f"{address}/{names[0]}", f"{address}/{names[1]}"
    asyncio.run(_sql(postgres_uri, *(f"DROP DATABASE {name} WITH (FORCE)" for name in names)))


@pytest.mark.timeout(240)
def test_server_on_postgresql_and_redis(
    tmp_path: Path, databases: tuple[str, str], redis_port: int
) -> None:
    """The same ingest against a tiled server elsewhere: only configuration differs."""
    from skywright.store.server import make_tables

    make_tables(databases[0].replace("postgresql:", "postgresql+asyncpg:"))
    port = free_port()
    config = {
        "trees": [
            {
                "path": "/",
                "tree": "catalog",
                "args": {
                    "uri": databases[0],
                    "writable_storage": [str(tmp_path / "data"), databases[1]],
                    "readable_storage": [str(tmp_path)],
                },
            }
        ],
        "authentication": {"single_user_api_key": "elsewhere"},
        "streaming_cache": {"uri": f"redis://127.0.0.1:{redis_port}"},
        "uvicorn": {"host": "127.0.0.1", "port": port},
    }
    (tmp_path / "data").mkdir()
    (tmp_path / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    command = [sys.executable, "-m", "tiled", "serve", "config", str(tmp_path / "config.yml")]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    uri = f"http://127.0.0.1:{port}"
    try:
        until(lambda: is_ready(uri), what="tiled on PostgreSQL")
        settings = Settings(store={"directory": tmp_path, "tiled_uri": uri, "api_key": "elsewhere"})
        client = connect(settings=settings)
        ensure_containers(client)
        recording = Recording(tmp_path / "journal")
        recording.stream("primary", x=scalar("integer"), m=array([2, 2]), s=scalar("string"))
        for n in (1, 2, 2, 3):
            m = np.full((2, 2), n, "<u2")
            recording.event(seq_num=n, x=n if n < 3 else 2**63 - 1, m=m, s="a" * n)
        path = recording.stop()
        assert ingest(path, client) is IngestState.DONE
        data = catalog(client)[-1]["primary"].read()
        assert data["x"].values.tolist() == [1, 2, 2**63 - 1]
        assert data["m"].dtype == np.dtype("<u2")
        assert data["m"].values[:, 0, 0].tolist() == [1, 2, 3]
        assert recover(tmp_path, client).changes == 0
    finally:
        server.terminate()
        server.wait(timeout=60)


def is_ready(uri: str) -> bool:
    try:
        return httpx.get(f"{uri}/healthz").status_code == 200
    except httpx.HTTPError:
        return False
