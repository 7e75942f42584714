"""The camera as an AXIS video server shows it: single pictures and motion JPEG over HTTP."""

import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Annotated, Literal

import anyio
from PIL import Image
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from skywright.acquire.newest import NewestQueue
from skywright.errors import DataError, SkywrightError
from skywright.instruments.loop.camera import Camera
from skywright.instruments.loop.picture import DECODE_ERRORS
from skywright.instruments.loop.sources import SourceFrame
from skywright.processes.http_server import HttpServer
from skywright.wire.axis_guard import Guard
from skywright.wire.axis_mjpeg import BOUNDARY, encode_part

SILENCE_S = 4.0
"""A request for one picture is refused after this long without one."""
POLL_S = 0.5
JPEG = b"\xff\xd8"
RESOLUTIONS = {
    "QCIF": "176x120",
    "CIF": "352x240",
    "2CIF": "704x240",
    "4CIF": "704x480",
    "D1": "720x480",
}
"""Sizes by their names, as a video server has them with an NTSC camera."""
PIXELS_MAX = 3840 * 2160
"""Largest picture that a client may ask for; a larger one would take the processor for seconds."""
STREAM_TYPE = f"multipart/x-mixed-replace; boundary={BOUNDARY}"

Endpoint = Callable[[Request], Awaitable[Response]]


def serve_video(
    camera: Camera, guard: Guard | None = None, host: str = "127.0.0.1", port: int = 0
) -> HttpServer:
    """Serve `video_app` on a thread; port 0 takes a free one."""
    return HttpServer(video_app(camera, guard), host, port, http=_WithoutChunks)


class _WithoutChunks(H11Protocol):
    """HTTP as AXIS servers have it: a stream has no chunks, and ends with the connection.

    Old clients take the lengths of chunks for a part of the pictures, though they ask in HTTP/1.1.
    """

    def handle_events(self) -> None:
        """Take requests as from a client of HTTP/1.0, to which h11 sends no chunks."""
        super().handle_events()
        self.conn.their_http_version = b"1.0"


def video_app(camera: Camera, guard: Guard | None = None) -> Starlette:
    """Return the application that shows a camera's pictures.

    ======================================  ====================================================
    ``GET /``                               200: the server is there
    ``/axis-cgi/jpg/image.cgi``             the next picture; ``resolution=WxH`` or a name of
                                            `RESOLUTIONS`, ``compression=0..100``
    ``/axis-cgi/mjpg/video.cgi``            all pictures; ``fps`` or ``req_fps`` leaves some out
    ======================================  ====================================================

    Also without ``/axis-cgi``, and under the names of older servers, ``/jpg/image.jpg`` and
    ``/mjpg/video.mjpg``. ``camera`` may be 1 or absent; other arguments have no effect, and an
    empty one counts as absent. A picture may have `PIXELS_MAX` pixels.
    JPEG files of the camera go out as they are unless another size or compression is asked for.
    Without a `guard` everybody may look. If the camera does not start, or has just been closed, the
    answer is 503 with the reason.
    """
    watch = partial(camera.subscribe, runs_source=True)

    async def hello(request: Request) -> Response:
        return PlainTextResponse("skywright camera\n")

    async def image(request: Request) -> Response:
        form = _form(request)
        subscription = await anyio.to_thread.run_sync(watch)
        try:
            frame = await anyio.to_thread.run_sync(subscription.get, SILENCE_S)
        finally:
            await _end(subscription)
        if frame is None:
            return PlainTextResponse(f"no picture for {SILENCE_S:g} s\n", 503)
        data = await anyio.to_thread.run_sync(form.encode, frame)
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "no-cache"})

    async def video(request: Request) -> Response:
        form = _form(request)
        if request.method == "HEAD":  # the stream has no end: the next request would wait for it
            return Response(media_type=STREAM_TYPE)
        return _Video(camera, await anyio.to_thread.run_sync(watch), form)

    def guarded(endpoint: Endpoint) -> Endpoint:
        async def answer(request: Request) -> Response:
            login = request.headers.get("authorization", "")
            if guard is None or guard.admits(request.method, login):
                return await endpoint(request)
            headers = {"WWW-Authenticate": guard.challenge(login)}
            return PlainTextResponse("Unauthorized\n", 401, headers)

        return answer

    paths = {"/": hello}
    for root in ("/axis-cgi", ""):
        paths |= {f"{root}/jpg/image.cgi": image, f"{root}/mjpg/video.cgi": video}
    for source in ("", "/1"):
        paths |= {f"/jpg{source}/image.jpg": image, f"/mjpg{source}/video.mjpg": video}
    routes = [Route(path, guarded(endpoint)) for path, endpoint in paths.items()]
    handlers = {ValidationError: _refuse, SkywrightError: _unavailable}
    return Starlette(routes=routes, exception_handlers=handlers)


def _bounded(size: str) -> str:
    width, _, height = size.partition("x")
    if int(width) * int(height) > PIXELS_MAX:
        raise ValueError(f"more than {PIXELS_MAX} pixels")
    return size


class Form(BaseModel):
    """How a client wants pictures: the arguments of a request."""

    model_config = ConfigDict(frozen=True)

    camera: Literal["1"] = "1"
    resolution: Annotated[
        str,
        BeforeValidator(lambda given: RESOLUTIONS.get(given.upper(), given)),
        Field(pattern=r"^[1-9]\d{0,3}x[1-9]\d{0,3}$"),
        AfterValidator(_bounded),
    ] = ""
    compression: Annotated[int | None, Field(ge=0, le=100)] = None
    fps: Annotated[float, Field(ge=0, validation_alias=AliasChoices("fps", "req_fps"))] = 0.0
    """0 sends all."""

    def encode(self, frame: SourceFrame) -> bytes:
        """Return a picture as JPEG: the file as it is if that will do."""
        data = frame.data or b""
        if data.startswith(JPEG) and not self.resolution and self.compression is None:
            return data
        try:
            if frame.image is not None:
                picture = Image.fromarray(frame.image)
            else:
                picture = Image.open(io.BytesIO(data))
                if picture.mode.startswith(("I", "F")):  # deep
                    picture = Image.fromarray(frame.pixels(color=False))
                elif picture.mode not in ("L", "RGB"):
                    picture = picture.convert("RGB")
            if self.resolution:
                width, _, height = self.resolution.partition("x")
                picture = picture.resize((int(width), int(height)))
            buffer = io.BytesIO()
            quality = 85 if self.compression is None else max(100 - self.compression, 1)
            picture.save(buffer, "JPEG", quality=quality)
        except (*DECODE_ERRORS, DataError):  # a damaged file goes out as it is
            return data
        return buffer.getvalue()


def _form(request: Request) -> Form:
    return Form.model_validate(
        {name: value for name, value in request.query_params.items() if value}
    )


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, ValidationError)
    first = error.errors()[0]
    return PlainTextResponse(f"{first['loc'][0]}={first['input']}: {first['msg']}\n", 400)


async def _unavailable(request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", 503)


class _Video(StreamingResponse):
    """All pictures of a subscription, which ends with the response, until the camera is closed."""

    def __init__(self, camera: Camera, subscription: NewestQueue[SourceFrame], form: Form) -> None:
        super().__init__(_parts(camera, subscription, form), media_type=STREAM_TYPE)
        self._subscription = subscription

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await _end(self._subscription)


async def _parts(
    camera: Camera, subscription: NewestQueue[SourceFrame], form: Form
) -> AsyncIterator[bytes]:
    period = 1.0 / form.fps if form.fps else 0.0
    due = 0.0
    while not camera.closed:
        frame = await anyio.to_thread.run_sync(subscription.get, POLL_S)
        now = time.monotonic()
        if frame is None or now < due:
            continue
        due = max(due + period, now)
        data = await anyio.to_thread.run_sync(form.encode, frame)
        yield encode_part(data, frame.time)


async def _end(subscription: NewestQueue[SourceFrame]) -> None:
    """Unsubscribe although the request is over: the source may take a moment to stop."""
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(subscription.close)
