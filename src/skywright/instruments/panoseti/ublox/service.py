"""The gRPC service UbloxControl over one receiver."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict

from skywright.errors import ConfigError, HardwareError
from skywright.instruments.panoseti.ublox.config import F9tConfig, parse_config
from skywright.instruments.panoseti.ublox.receiver import (
    MODEL_PREFIX,
    Message,
    Receiver,
    fields_of,
)
from skywright.wire.ubx import ublox_control_pb2 as pb

logger = logging.getLogger(__name__)

QUEUE = 200
"""Messages that wait for one client; further ones are dropped."""


class UbloxService:
    """Implement InitF9t, PollMessage and CaptureUblox for ``grpc.aio``."""

    def __init__(self) -> None:
        self._receiver: Receiver | None = None
        self._newest: dict[str, pb.CaptureUbloxResponse] = {}
        self._queues: dict[asyncio.Queue[pb.CaptureUbloxResponse | None], str] = {}
        self._init_lock = asyncio.Lock()
        self.dropped = 0

    async def init_f9t(
        self, request: pb.InitF9tRequest, context: grpc.aio.ServicerContext
    ) -> pb.InitF9tResponse:
        """Identify, configure and verify the receiver, then read its messages."""
        async with self._init_lock:
            if self._queues and not request.force_init:
                await context.abort(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"{len(self._queues)} streams are active ({', '.join(self._queues.values())}); "
                    "end them or set force_init",
                )
            try:
                config = parse_config(MessageToDict(request.f9t_config))
                registers = config.registers()
                await self.stop()
                receiver = await asyncio.to_thread(Receiver, config.device, config.baud)
            except ConfigError as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            except HardwareError as error:
                await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
            try:
                await asyncio.to_thread(configure, receiver, config, registers)
            except ConfigError as error:
                await asyncio.to_thread(receiver.close)
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            except BaseException as error:
                await asyncio.to_thread(receiver.close)
                if not isinstance(error, HardwareError):
                    raise
                await context.abort(grpc.StatusCode.INTERNAL, str(error))
            loop = asyncio.get_running_loop()
            self._receiver = receiver

            def hand_over(message: Message) -> None:
                loop.call_soon_threadsafe(self._publish, message)

            receiver.listen(hand_over)
        return pb.InitF9tResponse(
            init_status=pb.InitF9tResponse.SUCCESS,
            message=f"{len(registers)} registers are set and verified",
            f9t_config=request.f9t_config,
        )

    async def poll_message(
        self, request: pb.PollRequest, context: grpc.aio.ServicerContext
    ) -> pb.PollResponse:
        """Refuse: the observatory's service has never had it either."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "PollMessage is not implemented")
        raise AssertionError

    async def capture_ublox(
        self, request: pb.CaptureUbloxRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.CaptureUbloxResponse]:
        """Send the newest message of each name, then every further one."""
        if self._receiver is None or self._receiver.failed:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, "no receiver is read; call InitF9t first"
            )
        try:
            patterns = [re.compile(pattern) for pattern in request.patterns]
        except re.error as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"patterns: {error}")
        messages: asyncio.Queue[pb.CaptureUbloxResponse | None] = asyncio.Queue(QUEUE)
        for newest in self._newest.values():
            messages.put_nowait(newest)
        self._queues[messages] = context.peer()
        try:
            while (message := await messages.get()) is not None:
                if not patterns or any(pattern.match(message.name) for pattern in patterns):
                    yield message
        finally:
            self._queues.pop(messages, None)
        await context.abort(
            grpc.StatusCode.CANCELLED, "the server is stopping, or InitF9t was forced"
        )

    async def stop(self) -> None:
        """End all streams and close the receiver."""
        for messages in list(self._queues):
            while messages.full():
                messages.get_nowait()
            messages.put_nowait(None)
        self._queues.clear()
        self._newest.clear()
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            await asyncio.to_thread(receiver.close)

    def _publish(self, message: Message) -> None:
        name, parsed, raw = message
        response = pb.CaptureUbloxResponse(
            type=pb.CaptureUbloxResponse.DATA, name=name, payload=raw
        )
        response.pkt_unix_timestamp.FromNanoseconds(time.time_ns())
        response.parsed_data.update(fields_of(parsed))
        self._newest[name] = response
        for messages in self._queues:
            try:
                messages.put_nowait(response)
            except asyncio.QueueFull:
                self.dropped += 1


def configure(receiver: Receiver, config: F9tConfig, registers: dict[str, Any]) -> None:
    """Check which receiver it is, set its registers and read them back.

    Raises
    ------
    ConfigError
        If it is another model or another chip.
    HardwareError
        If it does not answer, refuses a register, or has another value afterwards.
    """
    model = receiver.model()
    if not model.startswith(MODEL_PREFIX):
        raise ConfigError(
            f"{receiver.device} is a {model or 'unknown model'}, not a {MODEL_PREFIX}"
        )
    uid = receiver.unique_id()
    if uid != config.f9t_uid.upper():
        raise ConfigError(f"{receiver.device} has the id {uid}, f9t_uid says {config.f9t_uid}")
    receiver.set_registers(registers, config.layer_mask)
    found = receiver.get_registers(list(registers), config.verify_layer)
    wrong = [
        f"{name} is {found.get(name)}, expected {value}"
        for name, value in registers.items()
        if found.get(name) != value
    ]
    if wrong:
        raise HardwareError(f"not set in {config.verify_layer}: {'; '.join(wrong)}")
