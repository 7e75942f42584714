"""The HTTP API as an ASGI application."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from sqlalchemy.exc import DataError as ValueDoesNotFit
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from skywright import __version__
from skywright.instruments.epu.api import (
    agents,
    debug,
    entities,
    feedback,
    frontend,
    images,
    instructions,
    links,
    predictions,
    status,
)
from skywright.instruments.epu.api.answers import answer
from skywright.instruments.epu.api.path_names import keep_slashes, restore_slashes
from skywright.instruments.epu.api.service import Service
from skywright.instruments.epu.broker.publisher import Publisher
from skywright.instruments.epu.database import Database, is_away, reason_of

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 16 << 20
"""Longest body of a request; the holes of a large square have 1 MB."""
STALE_S = 3 * agents.HEARTBEAT_S
"""Time without a heartbeat after which a connection of an agent counts as lost."""


def create_app(
    database: Database,
    broker: Publisher | None = None,
    path_map: Mapping[str, Path] | None = None,
) -> FastAPI:
    """Make the application.

    Parameters
    ----------
    database
        The entity database; it must announce where there is a broker.
    broker
        Publisher of the outbox. The application runs it.
    path_map
        Prefixes of paths as EPU wrote them, and where this machine sees them.

    Returns
    -------
    FastAPI
        The application; ``state.service`` holds what its routes share.
    """
    service = Service(database, broker, path_map or {})

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.start()
        # A SQLite file has one server, this one: what is open is left over.
        alone = database.dialect == "sqlite"
        await service.writer.do(partial(instructions.close_stale, seconds=0 if alone else STALE_S))
        tasks = [asyncio.create_task(_close_stale(service))]
        if broker is not None:
            tasks.append(asyncio.create_task(broker.run(service.writer)))
        try:
            yield
        finally:
            service.stopping.set()
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await asyncio.to_thread(service.writer.close)

    app = FastAPI(
        title="EPU sessions",
        description="Cryo-EM sessions: acquisitions, grids, squares, holes, micrographs.",
        version=__version__,
        lifespan=lifespan,
        dependencies=[Depends(restore_slashes)],
        strict_content_type=False,  # old clients may send JSON without naming it
    )
    app.state.service = service
    app.add_middleware(
        CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"]
    )
    app.add_middleware(keep_slashes)
    app.add_middleware(_limit_bodies)
    for failure in (ValueDoesNotFit, OverflowError, UnicodeEncodeError):
        app.add_exception_handler(failure, _does_not_fit)
    for unanswered in (OperationalError, NoConnection):
        app.add_exception_handler(unanswered, _database_down)
    app.add_exception_handler(RequestValidationError, _bad_request)
    for part in (
        entities,
        status,
        links,
        feedback,
        predictions,
        images,
        agents,
        frontend,
        debug,
    ):
        app.include_router(part.router)
    return app


def _limit_bodies(app: ASGIApp) -> ASGIApp:
    """Return an application that refuses long bodies, whose parsing holds up other clients."""

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > BODY_BYTES_MAX:
                raise HTTPException(413, f"the body is larger than {BODY_BYTES_MAX} bytes")
            return message

        await app(scope, counted, send)

    return limited


async def _close_stale(service: Service) -> None:
    """Close, every now and then, connections of agents whose server died."""
    while True:
        await asyncio.sleep(STALE_S)
        try:
            close = partial(instructions.close_stale, seconds=STALE_S, alive=list(service.streams))
            await service.writer.do(close)
        except SQLAlchemyError as error:
            log.warning("connections of agents: %s", error)


async def _bad_request(_request: Request, error: Exception) -> Response:
    """Name what is wrong; what JSON does not have, such as NaN in a body, is named as text."""
    assert isinstance(error, RequestValidationError)
    as_text = {bytes: lambda data: data.decode(errors="backslashreplace")}
    try:
        errors = jsonable_encoder(error.errors(), custom_encoder=as_text)
        return answer({"detail": _as_json(errors)}, 422)
    except (RecursionError, orjson.JSONEncodeError):  # it quotes the body, and has a limit too
        return answer({"detail": "the body is nested too deep"}, 422)


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {_as_json(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and abs(value) >= 2**63:  # too large for `answer`
        return str(value)
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value


async def _does_not_fit(_request: Request, error: Exception) -> Response:
    reason = reason_of(error)
    return answer({"detail": f"a value does not fit: {reason}"}, 422)


async def _database_down(request: Request, error: Exception) -> Response:
    if not is_away(error):
        return await _does_not_fit(request, error)
    reason = reason_of(error)
    log.error("database: %s", reason)
    return answer({"detail": f"the database does not answer: {reason}"}, 503)
