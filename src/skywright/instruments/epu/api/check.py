"""Smoke test of a running API, this one or one that is compatible with it."""

import logging
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx

from skywright.errors import message_of
from skywright.instruments.epu.api.kinds import KINDS

log = logging.getLogger(__name__)

TIMEOUT_S = 30.0
"""Longest wait for an answer."""
LISTS = (
    *("status", "health", "acquisitions", "grids", "atlases", "atlas-tiles", "gridsquares"),
    *("foilholes", "micrographs", "prediction_models", "quality_metrics", "openapi.json"),
)


def check(url: str) -> Iterator[tuple[str, str | None]]:
    """Check an API; what this makes it deletes.

    Parameters
    ----------
    url
        Address of the API.

    Yields
    ------
    name, problem
        What was checked, and what is wrong; None where all is well.
    """
    with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
        try:
            client.get("/status")
        except httpx.HTTPError as error:
            yield "the connection", message_of(error)
            return  # all else would fail in the same way
        for path in LISTS:
            yield f"GET /{path}", _expect(client, "GET", f"/{path}", 200)
        yield from _tree(client)


def _tree(client: httpx.Client) -> Iterator[tuple[str, str | None]]:
    """Make one entity of each kind, change one, read all, delete the tree."""
    bodies: dict[str, dict[str, Any]] = {
        "acquisition": {"name": "check-api"},
        "grid": {"name": "check-api"},
        "gridsquare": {"gridsquare_id": "1"},
        "foilhole": {"foilhole_id": "1", "gridsquare_id": "1"},
        "micrograph": {"foilhole_id": "1"},
    }
    made: dict[str, str] = {}
    parent = ""
    for kind, body in bodies.items():
        body["uuid"] = str(uuid4())
        if column := KINDS[kind].column:
            body[column] = parent
        made[kind] = f"{KINDS[kind].path}/{body['uuid']}"
        path = KINDS[kind].create_path(parent)
        problem = _expect(client, "POST", path, 201, [body] if kind == "foilhole" else body)
        yield f"POST {path}", problem
        if problem is not None:
            break
        parent = body["uuid"]
    else:
        path = made["micrograph"]
        yield f"PUT {path}", _expect(client, "PUT", path, 200, {"defocus": -1e-6})
        yield f"GET {path}", _expect(client, "GET", path, 200)
        missing = f"/micrographs/{uuid4()}"
        yield f"GET {missing}", _expect(client, "GET", missing, 404)
        yield "POST /acquisitions {}", _expect(client, "POST", "/acquisitions", 422, {})
    for path in reversed(made.values()):
        yield f"DELETE {path}", _expect(client, "DELETE", path, 204)


def _expect(
    client: httpx.Client, method: str, path: str, status: int, body: Any = None
) -> str | None:
    try:
        response = client.request(method, path, json=body)
    except httpx.HTTPError as error:
        return message_of(error)
    log.info("%s %s: %d", response.request.method, response.request.url, response.status_code)
    if response.status_code != status:
        return f"status {response.status_code} instead of {status}: {response.text[:200]}"
    return None
