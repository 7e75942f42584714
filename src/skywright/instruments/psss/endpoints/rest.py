"""The REST API of the PSSS service: that of the old service, and further paths.

A request that a handler refuses is answered with HTTP 200, ``"state": "error"`` and the reason in
``status``: the old clients read nothing else.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from skywright.errors import ConfigError, SkywrightError
from skywright.instruments.psss.background import Background, uploaded
from skywright.instruments.psss.endpoints import openapi as api
from skywright.instruments.psss.endpoints.metrics import make_registry
from skywright.instruments.psss.endpoints.pixels import read_object, read_upload

if TYPE_CHECKING:
    from skywright.instruments.psss.endpoints.service import Service

logger = logging.getLogger(__name__)

BODY_BYTES_MAX = 80_000_000
UPLOADS_MAX = 3
"""Maximum number of uploads at the same time; each may take a process with much memory."""
SILENCE_LIMIT_S = 30.0
"""Timeout, s, between two pieces of a body, so that a sender that hangs does not block others."""
CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
    "Access-Control-Allow-Headers": "Origin, Accept, Content-Type, X-Requested-With, X-CSRF-Token",
}
T = TypeVar("T", bound=BaseModel)
Method = TypeVar("Method", bound=Callable[..., Awaitable[Mapping[str, Any]]])
HANDLERS: dict[str, dict[str, Callable[..., Any]]] = {}
"""Methods of `_Handlers`, by path and method of the request."""
OPERATIONS: dict[str, dict[str, Any]] = {}
"""Their descriptions, for OpenAPI."""


def rest_app(service: "Service") -> Starlette:
    """Return the application.

    =============================  ===========================================================
    ``POST /start``, ``/stop``     of the processing
    ``GET /status``                ``stopped`` or ``processing``, and the ROI
    ``GET, POST /parameters``      all, or a change of some, of which all or none are applied
    ``POST /background``           ``{"filename": label, "data": [[...], ...] or null}``
    ``GET /statistics``            since the last start; lost and unsent: of the process
    ``POST /background/record``    mean of the next pulses
    ``POST /background/load``      from an HDF5 file
    ``GET /backgrounds``           the history; POST /parameters ``{"background": name}`` chooses
    ``GET /health``, ``/metrics``  for people and supervisors, and for Prometheus
    ``GET /openapi.json``          this table for programs
    =============================  ===========================================================

    Parameters
    ----------
    service
        The service.
    """
    handlers = _Handlers(service)
    registry = make_registry(service.processor)

    async def metrics(request: Request) -> Response:
        text = await anyio.to_thread.run_sync(generate_latest, registry)
        return Response(text, headers={**CORS, "Content-Type": CONTENT_TYPE_LATEST})

    async def openapi(request: Request) -> Response:
        return _json(api.describe(OPERATIONS))

    routes = [
        Route(path, _endpoint(handlers, by_method), methods=[*by_method, "OPTIONS"])
        for path, by_method in HANDLERS.items()
    ]
    routes += [Route("/metrics", metrics), Route("/openapi.json", openapi)]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _html_error})
    app.router.redirect_slashes = False
    return app


def _call(method: str, path: str, body: Any = None, **fields: Any) -> Callable[[Method], Method]:
    """Return a decorator that adds a handler, and its docstring as the summary in OpenAPI."""

    def add(handler: Method) -> Method:
        HANDLERS.setdefault(path, {})[method] = handler
        described = api.operation(handler.__doc__, body, fields)
        OPERATIONS.setdefault(path, {})[method.lower()] = described
        return handler

    return add


class _Handlers:
    """Handlers of the paths; each returns the fields of its answer beside state and status."""

    def __init__(self, service: "Service") -> None:
        self.service = service
        self._uploads = asyncio.Semaphore(UPLOADS_MAX)

    @_call("POST", "/start")
    async def start(self, request: Request) -> Mapping[str, Any]:
        """Start the processing."""
        await anyio.to_thread.run_sync(self.service.processor.start)
        return {}

    @_call("POST", "/stop")
    async def stop(self, request: Request) -> Mapping[str, Any]:
        """Stop the processing."""
        await anyio.to_thread.run_sync(self.service.processor.stop)
        return {}

    @_call("GET", "/status", roi=api.ROI)
    async def status(self, request: Request) -> Mapping[str, Any]:
        """Whether it is processing."""
        return {"roi": self.service.processor.settings.roi}

    @_call("GET", "/parameters", parameters=api.PARAMETERS, roi=api.ROI)
    async def parameters(self, request: Request) -> Mapping[str, Any]:
        """All parameters."""
        roi = self.service.processor.settings.roi
        return {"parameters": self.service.parameters.as_json(), "roi": roi}

    @_call("POST", "/parameters", api.PARAMETERS, parameters=api.PARAMETERS, roi=api.ROI)
    async def set_parameters(self, request: Request) -> Mapping[str, Any]:
        """Change parameters."""
        wanted = await anyio.to_thread.run_sync(read_object, await _body(request))
        await anyio.to_thread.run_sync(self.service.parameters.merge, wanted)
        return await self.parameters(request)

    @_call("GET", "/statistics", statistics={"type": "object"})
    async def statistics(self, request: Request) -> Mapping[str, Any]:
        """Since the last start, lost and unsent since that of the process; {} before the first."""
        processor = self.service.processor
        lost, unsent = processor.lost, processor.unsent_counts()
        return {"statistics": processor.statistics.as_json(lost, unsent)}

    @_call("POST", "/background", api.BACKGROUND)
    async def background(self, request: Request) -> Mapping[str, Any]:
        """Set or clear the background."""
        async with self._uploads:
            upload = await anyio.to_thread.run_sync(read_upload, await _body(request))
        if upload.pixels is None:
            self.service.parameters.use(None)
            return {}
        await self._use(await anyio.to_thread.run_sync(uploaded, upload.name, upload.pixels))
        return {}

    @_call("POST", "/background/record", api.RecordRequest.model_json_schema(), background=api.INFO)
    async def record_background(self, request: Request) -> Mapping[str, Any]:
        """Use the mean of the next pulses as background."""
        wanted = _checked(api.RecordRequest, await _body(request))
        cancelled = threading.Event()

        async def cancel_without_client() -> None:
            if (await request.receive())["type"] == "http.disconnect":
                cancelled.set()

        watching = asyncio.create_task(cancel_without_client())
        try:
            background = await anyio.to_thread.run_sync(
                self.service.background_recorder.record,
                *(wanted.pulses, wanted.name, wanted.limit_s, cancelled),
            )
        finally:
            watching.cancel()
        return {"background": await self._keep(background)}

    @_call("POST", "/background/load", api.LoadRequest.model_json_schema(), background=api.INFO)
    async def load_background(self, request: Request) -> Mapping[str, Any]:
        """Use pixels of an HDF5 file as background."""
        wanted = _checked(api.LoadRequest, await _body(request))
        background = await anyio.to_thread.run_sync(
            self.service.history.read_file, wanted.path, wanted.dataset, wanted.name
        )
        return {"background": await self._use(background)}

    async def _use(self, background: Background) -> dict[str, Any]:
        """Use a background and write it to the history; it is used even if it cannot be written."""
        await anyio.to_thread.run_sync(self.service.parameters.use, background)
        return await self._keep(background)

    async def _keep(self, background: Background) -> dict[str, Any]:
        try:
            return asdict(await anyio.to_thread.run_sync(self.service.history.keep, background))
        except SkywrightError as error:
            logger.warning("%s", error)
            return asdict(background.info)

    @_call("GET", "/backgrounds", backgrounds={"type": "array", "items": api.INFO})
    async def backgrounds(self, request: Request) -> Mapping[str, Any]:
        """Backgrounds that were used, newest first."""
        infos = await anyio.to_thread.run_sync(self.service.history.list)
        return {"backgrounds": [asdict(info) for info in infos]}

    @_call("GET", "/health")
    async def health(self, request: Request) -> Mapping[str, Any]:
        """State, message, rate, pulses lost by cause."""
        state = self.service.processor.state()
        newest = state.newest
        processed, sent = self.service.processor.statistics.counts
        return {
            "message": state.message,
            "alarm": state.alarm,
            "pulse_id": None if newest is None else newest.pulse.pulse_id,
            "fit": None if newest is None else newest.spectrum.status.name,
            "rate_hz": round(self.service.processor.statistics.rate_hz, 2),
            "processed": processed,
            "sent": sent,
            "lost": state.lost,
            "unsent": state.unsent,
            "failures": state.failures,
            "settings_number": state.settings_number,
            **self.service.facts,
            **{name: part() for name, part in self.service.health_parts.items()},
        }


def _endpoint(
    handlers: _Handlers, by_method: Mapping[str, Callable[..., Any]]
) -> Callable[[Request], Awaitable[Any]]:
    """Return the endpoint of a path. It answers OPTIONS, and errors as old clients expect them."""

    async def answer(request: Request) -> Any:
        handler = by_method.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            return Response(headers=CORS)
        try:
            fields = await handler(handlers, request)
        except HTTPException:
            raise
        except ClientDisconnect:
            return Response()  # which nobody gets
        except SkywrightError as error:
            return _json({"state": "error", "status": str(error)})
        except Exception as error:
            logger.exception("%s %s", request.method, request.url.path)
            return _json({"state": "error", "status": f"{type(error).__name__}: {error}"})
        return _json({"state": "ok", "status": handlers.service.processor.status, **fields})

    return answer


def _json(answer: Mapping[str, Any]) -> Response:
    body = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, media_type="application/json", headers=CORS)


async def _html_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    page = f"<!DOCTYPE html><title>Error {error.status_code}</title><h1>{error.detail}</h1>"
    headers = {**CORS, **(error.headers or {})}
    return HTMLResponse(page, error.status_code, headers)


async def _body(request: Request) -> bytes:
    """Return the body; HTTP 413 if it is too large, 408 if its next piece is late."""
    too_large = HTTPException(413, f"The body is larger than {BODY_BYTES_MAX} bytes")
    if int(request.headers.get("content-length") or 0) > BODY_BYTES_MAX:
        raise too_large
    body = bytearray()
    async with aclosing(request.stream()) as stream:
        while True:
            try:
                async with asyncio.timeout(SILENCE_LIMIT_S):
                    piece = await anext(stream, None)
            except TimeoutError as error:
                waited = f"Nothing more of the body came in {SILENCE_LIMIT_S:g} s"
                raise HTTPException(408, waited, {"Connection": "close"}) from error
            if piece is None:
                return bytes(body)
            body += piece
            if len(body) > BODY_BYTES_MAX:
                raise too_large


def _checked(model: type[T], body: bytes) -> T:
    try:
        return model.model_validate(read_object(body) if body.strip() else {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise ConfigError(f"{where}: {first['msg']}") from error
