"""Smoke test of a running API, this one or one that is compatible with it."""

import logging
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx

from skywright.errors import message_of

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
    acquisition, grid, square, hole, micrograph = (str(uuid4()) for _ in range(5))
    post = [
        ("acquisitions", {"uuid": acquisition, "name": "check-api"}),
        (
            f"acquisitions/{acquisition}/grids",
            {"uuid": grid, "name": "check-api", "acquisition_uuid": acquisition},
        ),
        (f"grids/{grid}/gridsquares", {"uuid": square, "gridsquare_id": "1", "grid_uuid": grid}),
        (
            f"gridsquares/{square}/foilholes",
            [{"uuid": hole, "foilhole_id": "1", "gridsquare_id": "1", "gridsquare_uuid": square}],
        ),
        (f"foilholes/{hole}/micrographs", {"uuid": micrograph, "foilhole_id": "1"}),
    ]
    for path, body in post:
        problem = _expect(client, "POST", f"/{path}", 201, body)
        yield f"POST /{path}", problem
        if problem is not None:
            break
    else:
        path = f"/micrographs/{micrograph}"
        yield f"PUT {path}", _expect(client, "PUT", path, 200, {"defocus": -1e-6})
        yield f"GET {path}", _expect(client, "GET", path, 200)
        missing = f"/micrographs/{uuid4()}"
        yield f"GET {missing}", _expect(client, "GET", missing, 404)
        yield "POST /acquisitions {}", _expect(client, "POST", "/acquisitions", 422, {})
    for path in (
        f"/micrographs/{micrograph}",
        f"/foilholes/{hole}",
        f"/gridsquares/{square}",
        f"/grids/{grid}",
        f"/acquisitions/{acquisition}",
    ):
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
