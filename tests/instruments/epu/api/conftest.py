"""Clients of the HTTP API."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from support.epu_api import hole

from skywright.instruments.epu.database import Database


@pytest.fixture
def client(shared_client: TestClient, database: Database) -> TestClient:
    """A client of a service with an empty database."""
    return shared_client


@pytest.fixture
def tree(client: TestClient) -> TestClient:
    """A client of a service with one entity of each kind."""
    posts: list[tuple[str, Any]] = [
        ("/acquisitions", {"uuid": "a", "name": "session"}),
        ("/acquisitions/a/grids", {"uuid": "g", "name": "grid", "acquisition_uuid": "a"}),
        ("/grids/g/atlas", {"uuid": "at", "atlas_id": "1", "grid_uuid": "g", "name": "Atlas"}),
        ("/atlases/at/tiles", {"uuid": "t", "tile_id": "2", "atlas_uuid": "at"}),
        ("/grids/g/gridsquares", {"uuid": "s", "gridsquare_id": "3", "grid_uuid": "g"}),
        ("/gridsquares/s/foilholes", [hole("h")]),
        ("/foilholes/h/micrographs", {"uuid": "m", "foilhole_id": "h", "defocus": -1e-6}),
    ]
    for path, body in posts:
        assert client.post(path, json=body).status_code == 201, path
    return client
