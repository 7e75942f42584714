"""The gRPC service DaqData over slots: streams, InitHpIo, Ping and uploads."""

import asyncio
import logging
import time
import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from skywright.errors import DataError, SkywrightError
from skywright.instruments.panoseti.live.activity import is_active
from skywright.instruments.panoseti.live.config import HpIoConfig, ServerConfig
from skywright.instruments.panoseti.live.hp_io import HpIo
from skywright.instruments.panoseti.live.slots import Slots, Subscription
from skywright.wire.daqdata import daq_data_pb2 as pb

logger = logging.getLogger(__name__)

INIT_WAIT_S = 10.0
"""How long a client waits for an InitHpIo that is under way."""
UNPACED_S = 0.002
"""Shorter intervals are not timed: each frame is sent when it is there."""
STREAM_END_S = 2.0
"""Time that a forced InitHpIo gives the streams to end."""


class _Stream:
    """One StreamImages call."""

    def __init__(self, peer: str, subscription: Subscription) -> None:
        self.peer = peer
        self.subscription = subscription
        self.sender: asyncio.Task[None] | None = None
        self.end_reason = ""

    def end(self, reason: str) -> None:
        self.end_reason = reason
        if self.sender is not None:
            self.sender.cancel()


class DaqDataService:
    """Implement `skywright.wire.daqdata.methods.Servicer` for ``grpc.aio``."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.slots = Slots()
        self.hp_io = HpIo(config, self.slots)
        self.missed = 0
        self._streams: set[_Stream] = set()
        self._init_lock = asyncio.Lock()
        self._no_init = asyncio.Event()
        self._no_init.set()
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
        longest = self.config.max_client_update_interval_seconds
        if not request.update_interval_seconds <= longest:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"update_interval_seconds must be at most {longest}, "
                f"it is {request.update_interval_seconds}",
            )
        await self._wait_for_init(context)
        if self._stopping:
            await context.abort(grpc.StatusCode.CANCELLED, "the server is stopping")
        reading = self.hp_io.config
        if not self.hp_io.valid or reading is None:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                "the server reads no data source; call InitHpIo first",
            )
            return
        limit = self.config.max_concurrent_rpcs
        if limit is not None and len(self._streams) >= limit:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"all {limit} streams of this server are used"
            )
        stream = _Stream(
            peer_of(context),
            self.slots.subscribe(
                request.stream_movie_data, request.stream_pulse_height_data, request.module_ids
            ),
        )
        self._streams.add(stream)
        interval_s = max(request.update_interval_seconds, reading.update_interval_seconds)
        sender = asyncio.create_task(send(stream.subscription, context, interval_s))
        stream.sender = sender
        try:
            await asyncio.wait([sender])
        finally:
            sender.cancel()
            self.slots.unsubscribe(stream.subscription)
            self._streams.discard(stream)
            self.missed += stream.subscription.missed
            logger.info(
                "stream to %s ended: %d images sent, %d replaced by newer ones",
                stream.peer,
                stream.subscription.sent,
                stream.subscription.missed,
            )
        if stream.end_reason:
            await context.abort(grpc.StatusCode.CANCELLED, stream.end_reason)
        sender.result()

    async def init_hp_io(
        self, request: pb.InitHpIoRequest, context: grpc.aio.ServicerContext
    ) -> pb.InitHpIoResponse:
        """Choose what the server reads."""
        await self._check_init(request, context)
        try:
            await asyncio.wait_for(self._init_lock.acquire(), INIT_WAIT_S)
        except TimeoutError:
            await context.abort(
                grpc.StatusCode.UNAVAILABLE, f"another InitHpIo lasts longer than {INIT_WAIT_S} s"
            )
        try:
            if self._stopping:
                await context.abort(grpc.StatusCode.CANCELLED, "the server is stopping")
            if self._streams and not request.force:
                peers = ", ".join(sorted(stream.peer for stream in self._streams))
                await context.abort(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"{len(self._streams)} streams are active ({peers}); end them or set force",
                )
            self._no_init.clear()
            await self._end_streams("another client has forced InitHpIo")
            return await self._restart(
                HpIoConfig(
                    data_dir=request.data_dir,
                    update_interval_seconds=request.update_interval_seconds,
                    force=request.force,
                    simulate_daq=request.simulate_daq,
                    module_ids=tuple(request.module_ids),
                )
            )
        finally:
            self._no_init.set()
            self._init_lock.release()

    async def _check_init(
        self, request: pb.InitHpIoRequest, context: grpc.aio.ServicerContext
    ) -> None:
        shortest = self.config.min_hp_io_update_interval_seconds
        if not request.update_interval_seconds >= shortest:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"update_interval_seconds must be at least {shortest}, "
                f"it is {request.update_interval_seconds}",
            )
        if request.simulate_daq:
            return
        data_dir = Path(request.data_dir)
        if not request.data_dir or not await asyncio.to_thread(data_dir.is_dir):
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"data_dir {request.data_dir!r} is no directory of this machine",
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
            await asyncio.wait_for(self.hp_io.start(config), INIT_WAIT_S)
        except (SkywrightError, OSError, TimeoutError) as error:
            logger.error("InitHpIo failed: %s", error)
            message = str(error) or f"no valid data source within {INIT_WAIT_S} s"
            if before is not None:
                await self.hp_io.start(before)
            return pb.InitHpIoResponse(success=False, error_message=message)
        return pb.InitHpIoResponse(success=True)

    async def ping(self, request: Empty, context: Any) -> Empty:
        """Answer at once."""
        return Empty()

    async def upload_images(
        self, requests: AsyncIterator[pb.UploadImageRequest], context: grpc.aio.ServicerContext
    ) -> Empty:
        """Publish the images of one client; others wait until it has ended."""
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

    async def _wait_for_init(self, context: grpc.aio.ServicerContext) -> None:
        try:
            await asyncio.wait_for(self._no_init.wait(), INIT_WAIT_S)
        except TimeoutError:
            await context.abort(
                grpc.StatusCode.UNAVAILABLE, f"an InitHpIo lasts longer than {INIT_WAIT_S} s"
            )

    async def _end_streams(self, reason: str) -> None:
        for stream in list(self._streams):
            stream.end(reason)
        deadline = time.monotonic() + STREAM_END_S
        while self._streams and time.monotonic() < deadline:
            await asyncio.sleep(0.005)


async def send(
    subscription: Subscription, context: grpc.aio.ServicerContext, interval_s: float
) -> None:
    """Send what `subscription` has, at most one frame of each slot every `interval_s`."""
    if interval_s <= UNPACED_S:
        while True:
            await subscription.wait()
            while (payload := subscription.next()) is not None:
                await context.write(payload)
    due = time.monotonic()
    while True:
        await subscription.wait()
        for _ in range(subscription.waiting):
            payload = subscription.next()
            if payload is not None:
                await context.write(payload)
        due = max(due + interval_s, time.monotonic())
        await asyncio.sleep(due - time.monotonic())


def peer_of(context: grpc.aio.ServicerContext) -> str:
    """Return the client's address as text."""
    return urllib.parse.unquote(context.peer())
