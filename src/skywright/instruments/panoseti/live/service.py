"""The gRPC service DaqData over slots: streams, InitHpIo, Ping and uploads."""

import asyncio
import logging
import math
import os
import time
import urllib.parse
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from skywright.errors import DataError, SkywrightError
from skywright.instruments.panoseti.live.activity import is_active
from skywright.instruments.panoseti.live.config import HpIoConfig, ServerConfig
from skywright.instruments.panoseti.live.hp_io import HpIo
from skywright.instruments.panoseti.live.slots import Slots, Subscription
from skywright.instruments.panoseti.products import HIGHEST_MODULE
from skywright.wire.daqdata import daq_data_pb2 as pb

logger = logging.getLogger(__name__)

INIT_WAIT_S = 10.0
"""How long a client waits for an InitHpIo that is under way."""
UNPACED_S = 0.002
"""Shorter intervals are not timed: each frame is sent when it is there."""
LONGEST_SHOWN = 500
"""Characters of a wrong argument in a message: gRPC limits the size of a status."""
STREAM_END_S = 1.0
"""Longest time that a forced InitHpIo waits for the streams to end."""


class _Stream:
    """One StreamImages call.

    Parameters
    ----------
    peer
        Address of the client.
    subscription
        What the client wants.
    context
        Of the call.
    interval_s
        Shortest mean time between two frames of a slot; after a pause two come at once.

    Attributes
    ----------
    end_reason
        Why the server ends the stream; empty while it does not.
    end_code
        The status with which it does.
    """

    def __init__(
        self,
        peer: str,
        subscription: Subscription,
        context: grpc.aio.ServicerContext,
        interval_s: float,
    ) -> None:
        self.peer = peer
        self.subscription = subscription
        self.end_reason = ""
        self.end_code = grpc.StatusCode.CANCELLED
        self._is_writing = False
        self._context = context
        self.sender = asyncio.create_task(self._send(interval_s))

    def end(self, reason: str, code: grpc.StatusCode) -> None:
        """End the stream, after the image that is being written."""
        self.end_reason, self.end_code = reason, code
        # A call whose writing was cancelled cannot be given a status any more.
        if not self._is_writing:
            self.sender.cancel()

    async def _send(self, interval_s: float) -> None:
        """Send what the client wants, at most one frame of each slot in `interval_s` on average."""
        subscription, due = self.subscription, time.monotonic()
        while not self.end_reason:
            await subscription.wait()
            for _ in range(subscription.waiting):
                payload = subscription.next()
                if payload is not None and not self.end_reason:
                    await self._write(payload)
            if interval_s > UNPACED_S and not self.end_reason:
                due = max(due + interval_s, time.monotonic())
                await asyncio.sleep(due - time.monotonic())

    async def _write(self, payload: bytes) -> None:
        self._is_writing = True
        await self._context.write(payload)
        self._is_writing = False


class DaqDataService:
    """Implement the methods of `skywright.wire.daqdata.methods` for ``grpc.aio``.

    Parameters
    ----------
    config
        Settings of the server.
    set_health
        Called with whether the data source is read, whenever that changes.
    """

    def __init__(
        self, config: ServerConfig, set_health: Callable[[bool], Coroutine[Any, Any, None]]
    ) -> None:
        self.config = config
        self.slots = Slots()
        self.hp_io = HpIo(config, self.slots, self._end_failed)
        self._set_health = set_health
        self._streams: set[_Stream] = set()
        self._init_lock = asyncio.Lock()
        self._upload_lock = asyncio.Lock()
        self._stopping = False

    async def stream_images(
        self, request: pb.StreamImagesRequest, context: grpc.aio.ServicerContext
    ) -> None:
        """Send the newest image of each slot, each once, until either side ends."""
        if not request.stream_movie_data and not request.stream_pulse_height_data:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                "set stream_movie_data, stream_pulse_height_data or both",
            )
        if math.isnan(request.update_interval_seconds):
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "update_interval_seconds must be a number"
            )
        await _check_modules(request.module_ids, context)
        async with self._no_other_init(context, "an InitHpIo"):
            pass  # one that was under way has ended
        if self._stopping:
            await context.abort(grpc.StatusCode.CANCELLED, "the server is stopping")
        reading = self.hp_io.config
        if not self.hp_io.valid or reading is None:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                self.hp_io.failure or "the server reads no data source; call InitHpIo first",
            )
            return
        limit = self.config.max_concurrent_rpcs
        if len(self._streams) >= limit:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"all {limit} streams of this server are used"
            )
        subscription = self.slots.subscribe(
            request.stream_movie_data, request.stream_pulse_height_data, request.module_ids
        )
        # Also a client that wants fewer images is served: the observatory's server has no limit.
        longest_s = self.config.max_client_update_interval_seconds
        wanted_s = min(request.update_interval_seconds, longest_s)
        interval_s = max(wanted_s, reading.update_interval_seconds)
        stream = _Stream(peer_of(context), subscription, context, interval_s)
        self._streams.add(stream)
        try:
            await asyncio.wait([stream.sender])
        finally:
            stream.sender.cancel()
            self.slots.unsubscribe(stream.subscription)
            self._streams.discard(stream)
            logger.info(
                "stream to %s ended: %d images sent, %d replaced by newer ones",
                stream.peer,
                stream.subscription.sent,
                stream.subscription.missed,
            )
        if stream.end_reason:
            await context.abort(stream.end_code, stream.end_reason)
        try:
            stream.sender.result()
        except grpc.aio.InternalError as error:  # of a write: the client is gone
            # gRPC logs the error with its traceback, and a call that was cancelled not at all
            raise asyncio.CancelledError from error

    async def init_hp_io(
        self, request: pb.InitHpIoRequest, context: grpc.aio.ServicerContext
    ) -> pb.InitHpIoResponse:
        """Choose what the server reads."""
        await self._check_init(request, context)
        async with self._no_other_init(context, "another InitHpIo"):
            if self._stopping:
                await context.abort(grpc.StatusCode.CANCELLED, "the server is stopping")
            if self._streams and not request.force:
                peers = ", ".join(sorted(stream.peer for stream in self._streams))
                await context.abort(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"{len(self._streams)} streams are active ({peers}); end them or set force",
                )
            await self._end_streams("another client has forced InitHpIo")
            fields = {name: getattr(request, name) for name in HpIoConfig.model_fields}
            fields["module_ids"] = tuple(request.module_ids)
            return await self._restart(HpIoConfig(**fields))

    async def _check_init(
        self, request: pb.InitHpIoRequest, context: grpc.aio.ServicerContext
    ) -> None:
        shortest = self.config.min_hp_io_update_interval_seconds
        # The observatory's server has no upper limit.
        if not shortest <= request.update_interval_seconds < math.inf:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"update_interval_seconds must be finite and at least {shortest}, "
                f"it is {request.update_interval_seconds}",
            )
        await _check_modules(request.module_ids, context)
        if request.simulate_daq:
            return
        data_dir = Path(request.data_dir)
        # Not Path.is_dir: it fails for a path that is too long.
        if not request.data_dir or not await asyncio.to_thread(os.path.isdir, data_dir):
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"data_dir {request.data_dir[:LONGEST_SHOWN]!r} does not exist, or is "
                "no directory of this machine",
            )
        if not await asyncio.to_thread(is_active, data_dir):
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"no run is active: no process is named hashpipe, and no file below {data_dir} "
                "has grown in the last 10 s",
            )

    async def _restart(self, config: HpIoConfig) -> pb.InitHpIoResponse:
        before = self.hp_io.config
        try:
            async with asyncio.timeout(INIT_WAIT_S):
                await self.hp_io.start(config)
        except asyncio.CancelledError:  # the client does not wait any more
            if before is not None and not self._stopping:
                await self._restore(before)
            raise
        except Exception as error:
            message = _message_of(error) or f"no valid data source within {INIT_WAIT_S} s"
            logger.error("InitHpIo failed: %s", message, exc_info=_unexpected(error))
            if before is not None:
                message += await self._restore(before)
            return pb.InitHpIoResponse(success=False, error_message=message)
        await self._set_health(True)
        return pb.InitHpIoResponse(success=True)

    async def _restore(self, before: HpIoConfig) -> str:
        """Start again what ran before a failed InitHpIo; return why that is not possible."""
        try:
            await self.hp_io.start(before)
        except Exception as error:
            self.hp_io.failure = f"what ran before cannot be started again: {_message_of(error)}"
            logger.error("%s", self.hp_io.failure, exc_info=_unexpected(error))
        await self._set_health(not self.hp_io.failure)
        return self.hp_io.failure and f"; {self.hp_io.failure}"

    async def ping(self, request: Empty, context: Any) -> Empty:
        """Answer at once."""
        return Empty()

    async def upload_images(
        self, requests: AsyncIterator[pb.UploadImageRequest], context: grpc.aio.ServicerContext
    ) -> Empty:
        """Publish the images of one client; others wait until it has ended.

        Each image goes to its slot at once, so there is no queue that could be full: an uploader
        that is faster than the server is slowed down by gRPC.
        """
        async with self._upload_lock:
            async for request in requests:
                if self._stopping:
                    await context.abort(grpc.StatusCode.CANCELLED, "the server is stopping")
                if not request.HasField("pano_image"):
                    continue
                try:
                    self.hp_io.publisher.publish_message(request.pano_image)
                except DataError as error:
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return Empty()

    async def stop(self) -> None:
        """End all streams and the data source."""
        self._stopping = True
        await self._end_streams("the server is stopping")
        await self.hp_io.stop()

    @asynccontextmanager
    async def _no_other_init(
        self, context: grpc.aio.ServicerContext, other: str
    ) -> AsyncIterator[None]:
        """Wait until no InitHpIo is under way, and let none begin in the block."""
        try:
            async with asyncio.timeout(INIT_WAIT_S):
                await self._init_lock.acquire()
        except TimeoutError:
            await context.abort(
                grpc.StatusCode.UNAVAILABLE, f"{other} lasts longer than {INIT_WAIT_S} s"
            )
        try:
            yield
        finally:
            self._init_lock.release()

    async def _end_failed(self, reason: str) -> None:
        """End all streams: the data source has failed."""
        await self._set_health(False)
        await self._end_streams(reason, grpc.StatusCode.UNAVAILABLE)

    async def _end_streams(
        self, reason: str, code: grpc.StatusCode = grpc.StatusCode.CANCELLED
    ) -> None:
        streams = list(self._streams)
        for stream in streams:
            stream.end(reason, code)
        deadline = time.monotonic() + STREAM_END_S
        while self._streams and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        # A client that does not read gets the status as soon as it reads again.
        self._streams.difference_update(streams)


async def _check_modules(modules: Collection[int], context: grpc.aio.ServicerContext) -> None:
    """Refuse a module that there cannot be: nothing would ever come of it."""
    if (highest := max(modules, default=0)) > HIGHEST_MODULE:
        await context.abort(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"module_ids must be 0 to {HIGHEST_MODULE}, one is {highest}",
        )


def _message_of(error: Exception) -> str:
    """Return the text of an error; that of an unexpected one means little without its type."""
    return f"{type(error).__name__}: {error}" if _unexpected(error) else str(error)


def _unexpected(error: Exception) -> Exception | None:
    return None if isinstance(error, SkywrightError | OSError) else error


def peer_of(context: grpc.aio.ServicerContext) -> str:
    """Return the client's address as text."""
    return urllib.parse.unquote(context.peer())
