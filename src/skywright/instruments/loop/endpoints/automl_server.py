"""A detector behind the REST path of an AutoML container, for clients that know nothing else."""

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from skywright.errors import DataError
from skywright.instruments.loop.backends import Detector
from skywright.instruments.loop.backends.boxes import CLASSES, to_boxes
from skywright.instruments.loop.picture import decode, to_gray
from skywright.wire.automl import (
    HEALTH_PATH,
    PREDICT_PATH,
    Box,
    Instance,
    decode_request,
    encode_reply,
)

logger = logging.getLogger(__name__)

REQUEST_BYTES_MAX = 64_000_000


def automl_app(detector: Detector, workers: int = 2) -> Starlette:
    """Return the application; it warms up when it is served, and answers 503 until then.

    `workers` pictures are looked at at the same time, over all requests.
    """
    places = anyio.CapacityLimiter(workers)
    trouble = "the detector is loading; ask again in some seconds"

    def warm_up() -> None:
        nonlocal trouble
        try:
            detector.warm_up()
        except Exception as error:  # whatever it is, clients must hear of it
            logger.exception("the detector cannot be loaded")
            trouble = f"the detector cannot be loaded: {error}"
        else:
            trouble = ""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # Not before: a process that cannot listen would end while this thread loads a library.
        threading.Thread(target=warm_up, name="warm-up", daemon=True).start()
        yield

    async def health(request: Request) -> Response:
        word, code = ("LOADING", 503) if trouble else ("AVAILABLE", 200)
        status = {"version": "1", "state": word, "status": {"error_code": "OK"}}
        return JSONResponse({"model_version_status": [status]}, code)

    async def predict(request: Request) -> Response:
        if trouble:
            return _error(503, trouble)
        body = bytearray()
        try:
            async for piece in request.stream():
                body += piece
                if len(body) > REQUEST_BYTES_MAX:
                    return _error(413, f"more than {REQUEST_BYTES_MAX} bytes; send less pictures")
        except ClientDisconnect:
            return Response()  # which nobody gets
        try:
            instances, most = decode_request(bytes(body))
            found = [
                (each.key, await anyio.to_thread.run_sync(detect, each, limiter=places))
                for each in instances
            ]
        except DataError as error:
            return _error(400, str(error))
        return Response(encode_reply(found, CLASSES, most), media_type="application/json")

    def detect(instance: Instance) -> list[Box]:
        picture = decode(instance.picture, f"instance {instance.key!r}", detector.color)
        return to_boxes(detector(picture), to_gray(picture))

    return Starlette(
        routes=[Route(HEALTH_PATH, health), Route(PREDICT_PATH, predict, methods=["POST"])],
        lifespan=lifespan,
    )


def _error(status: int, why: str) -> Response:
    return JSONResponse({"error": why}, status)
