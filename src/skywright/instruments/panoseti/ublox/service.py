"""The gRPC service UbloxControl over one receiver."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc
from google.protobuf.json_format import Error, MessageToDict
from google.protobuf.struct_pb2 import Struct

from skywright.errors import ConfigError, HardwareError, SkywrightError
from skywright.instruments.panoseti.ublox.config import F9tConfig, parse_config
from skywright.instruments.panoseti.ublox.pulses import PulseErrors
from skywright.instruments.panoseti.ublox.receiver import (
    MODEL_PREFIX,
    Message,
    Receiver,
    check_device,
    fields_of,
)
from skywright.waiting import back_off
from skywright.wire.ubx import ublox_control_pb2 as pb

logger = logging.getLogger(__name__)

PULSE_ERROR = "pulseQErr"
"""Key that the service adds to a NAV-TIMEUTC: the quantization error of its pulse, ps."""
QUEUE = 200
"""Messages that wait for one client; further ones are dropped."""
SILENCE_S = 10.0
"""A receiver sends each second. One that is silent for this time is reported."""
RETRY_S = 5.0, 30.0
"""Pauses between attempts to open a receiver that was unplugged: the first and the longest."""


class _Capture:
    """One CaptureUblox call: the messages that its client waits for.

    Parameters
    ----------
    peer
        Address of the client.
    patterns
        The beginning of a message's name matches one of them; none let everything pass.

    Attributes
    ----------
    messages
        What is sent next; a status and its text end the call.
    dropped
        Messages for which there was no room.
    """

    def __init__(self, peer: str, patterns: list[re.Pattern[str]]) -> None:
        self.peer = peer
        self.messages: asyncio.Queue[pb.CaptureUbloxResponse | tuple[grpc.StatusCode, str]] = (
            asyncio.Queue(QUEUE)
        )
        self.dropped = 0
        self._patterns = patterns

    def offer(self, message: pb.CaptureUbloxResponse) -> None:
        """Let a message wait, if the client wants it and there is room."""
        if self._patterns and not any(each.match(message.name) for each in self._patterns):
            return
        try:
            self.messages.put_nowait(message)
        except asyncio.QueueFull:
            self.dropped += 1

    def end(self, code: grpc.StatusCode, text: str) -> None:
        """End the call after the messages that wait; the oldest gives way if there is no room."""
        if self.messages.full():
            self.messages.get_nowait()
            self.dropped += 1
        self.messages.put_nowait((code, text))


class UbloxService:
    """Implement InitF9t, PollMessage and CaptureUblox for ``grpc.aio``.

    Attributes
    ----------
    set_health
        Called with whether the receiver is read, when that changes.
    """

    def __init__(self) -> None:
        self.set_health: Callable[[bool], Coroutine[Any, Any, None]] | None = None
        self._receiver: Receiver | None = None
        self._opened = "", 0
        """Device and baud of the receiver."""
        self._configured: tuple[F9tConfig, dict[str, Any]] | None = None
        """Configuration and registers of the last InitF9t that succeeded."""
        self._retrying: asyncio.Task[None] | None = None
        self._reporting: asyncio.Task[None] | None = None
        self._newest: dict[str, pb.CaptureUbloxResponse] = {}
        self._pulse_errors = PulseErrors()
        self._captures: list[_Capture] = []
        self._silence: asyncio.TimerHandle | None = None
        """Calls `_fall_silent` if no message comes."""
        self._is_read = True
        """Whether messages come, as it was reported."""
        self._init_lock = asyncio.Lock()

    async def init_f9t(
        self, request: pb.InitF9tRequest, context: grpc.aio.ServicerContext
    ) -> pb.InitF9tResponse:
        """Identify, configure and verify the receiver, then read its messages."""
        async with self._init_lock:
            if self._captures and not request.force_init:
                peers = ", ".join(capture.peer for capture in self._captures)
                await context.abort(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"{len(self._captures)} streams are active ({peers}); "
                    "end them or set force_init",
                )
            former, receiver = self._opened, None
            try:
                config = parse_config(_values_of(request.f9t_config))
                registers = config.registers()
                # Before the former one is closed.
                await asyncio.to_thread(check_device, config.device)
                await self.stop()
                receiver = await _open(config)
                await asyncio.to_thread(configure, receiver, config, registers)
            except BaseException as error:  # also when the client does not wait any more
                if receiver is not None:
                    await asyncio.to_thread(receiver.close)
                await self._open_again(former)
                if isinstance(error, ConfigError):
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
                if not isinstance(error, HardwareError):
                    raise
                status = grpc.StatusCode
                code = status.UNAVAILABLE if receiver is None else status.INTERNAL
                await context.abort(code, str(error))
            assert receiver is not None  # else the call was aborted
            self._configured = config, registers
            self._listen(receiver, config.baud)
            await self._report_health(True)
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
        async with self._init_lock:
            pass  # an InitF9t that was under way has ended
        if self._receiver is None or self._receiver.failed:
            why = self._receiver.failed if self._receiver else "no receiver is read"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{why}; call InitF9t first")
        try:
            patterns = [re.compile(pattern) for pattern in request.patterns]
        except (re.error, OverflowError, RecursionError) as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"patterns: {error}")
        capture = _Capture(context.peer(), patterns)
        for newest in self._newest.values():
            capture.offer(newest)
        self._captures.append(capture)
        try:
            while isinstance(message := await capture.messages.get(), pb.CaptureUbloxResponse):
                yield message
        finally:
            if capture in self._captures:
                self._captures.remove(capture)
            if capture.dropped:
                logger.warning(
                    "%d messages were dropped: %s reads too slowly", capture.dropped, capture.peer
                )
        await context.abort(*message)

    async def stop(self) -> None:
        """End all streams and close the receiver."""
        text = "the server is stopping, or InitF9t was forced"
        self._end_captures(grpc.StatusCode.CANCELLED, text)
        retrying, self._retrying = self._retrying, None
        if retrying is not None:
            retrying.cancel()
            await asyncio.wait([retrying])  # it closes what it has opened
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            await asyncio.to_thread(receiver.close)
        # Messages came until it was closed.
        self._expect_message(None)
        self._newest.clear()
        self._pulse_errors = PulseErrors()

    def _publish(self, message: Message) -> None:
        self._expect_message(SILENCE_S)
        if not self._is_read:
            logger.info("the receiver sends again")
            self._report_health(True)
        name, parsed, raw = message
        response = pb.CaptureUbloxResponse(
            type=pb.CaptureUbloxResponse.DATA, name=name, payload=raw
        )
        response.pkt_unix_timestamp.FromNanoseconds(time.time_ns())
        response.parsed_data.update(fields_of(parsed))
        if name == "TIM-TP":
            self._pulse_errors.announce(parsed)
        elif name == "NAV-TIMEUTC":
            error_ps = self._pulse_errors.error_of(parsed)
            if error_ps is not None:
                response.parsed_data[PULSE_ERROR] = error_ps
        self._newest[name] = response
        for capture in self._captures:
            capture.offer(response)

    def _fail(self, reason: str) -> None:
        """Tell all clients that the receiver cannot be read any more."""
        self._expect_message(None)
        self._end_captures(grpc.StatusCode.UNAVAILABLE, reason)
        self._report_health(False)
        if self._receiver is not None:  # else it is being closed
            self._retry()

    def _expect_message(self, seconds: float | None) -> None:
        """Report the receiver if no message comes in time.

        Parameters
        ----------
        seconds
            Longest time until a message; None if none is expected.
        """
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        if seconds is None:
            return
        loop = asyncio.get_running_loop()
        self._silence = loop.call_later(seconds, self._fall_silent)

    def _fall_silent(self) -> None:
        """Report the receiver; its streams stay open, for it may send again."""
        if self._is_read:
            logger.warning("%s: no message for %g s", self._opened[0], SILENCE_S)
            self._report_health(False)

    def _report_health(self, serving: bool) -> asyncio.Task[None]:
        self._is_read = serving
        self._reporting = asyncio.create_task(self._post_health(serving))
        return self._reporting

    async def _post_health(self, serving: bool) -> None:
        if self.set_health is not None:
            await self.set_health(serving)

    def _listen(self, receiver: Receiver, baud: int) -> None:
        """Read a receiver's messages from now on."""
        in_loop = asyncio.get_running_loop().call_soon_threadsafe
        self._receiver, self._opened = receiver, (receiver.device, baud)
        self._expect_message(SILENCE_S)
        receiver.listen(
            lambda message: in_loop(self._publish, message), lambda why: in_loop(self._fail, why)
        )

    async def _open_again(self, former: tuple[str, int]) -> None:
        """Read the former receiver again, if it was closed; its health stays as it was."""
        if self._receiver is not None or not former[0]:
            return
        try:
            self._listen(await asyncio.to_thread(Receiver, *former), former[1])
        except SkywrightError as error:
            logger.error("%s", error)
            self._retry()
            await self._report_health(False)

    def _retry(self) -> None:
        """Let the receiver be opened and configured as before when it is there again."""
        if self._configured is not None and self._retrying is None:
            self._retrying = asyncio.create_task(self._open_when_back(*self._configured))

    async def _open_when_back(self, config: F9tConfig, registers: dict[str, Any]) -> None:
        trouble = ""
        for pause_s in back_off(RETRY_S):
            await asyncio.sleep(pause_s)
            async with self._init_lock:
                try:
                    if self._receiver is not None:
                        await asyncio.to_thread(self._receiver.close)
                    receiver = await _open_configured(config, registers)
                except (SkywrightError, OSError) as error:
                    if str(error) != trouble:
                        logger.warning("%s; it is tried again", error)
                    trouble = str(error)
                    continue
                logger.info("%s is read again", config.device)
                self._retrying = None
                self._newest.clear()
                self._pulse_errors = PulseErrors()
                self._listen(receiver, config.baud)
                await self._report_health(True)
                return

    def _end_captures(self, code: grpc.StatusCode, text: str) -> None:
        for capture in self._captures:
            capture.end(code, text)
        self._captures.clear()


async def _open(config: F9tConfig) -> Receiver:
    """Open a receiver in another thread; when this is cancelled, it is closed again."""
    opening = asyncio.ensure_future(asyncio.to_thread(Receiver, config.device, config.baud))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        await asyncio.wait([opening])
        if opening.exception() is None:
            await asyncio.to_thread(opening.result().close)
        raise


async def _open_configured(config: F9tConfig, registers: dict[str, Any]) -> Receiver:
    """Open and configure a receiver in other threads; if that fails, it is closed again."""
    receiver = await _open(config)
    try:
        await asyncio.to_thread(configure, receiver, config, registers)
    except BaseException:
        await asyncio.to_thread(receiver.close)
        raise
    return receiver


def _values_of(struct: Struct) -> dict[str, Any]:
    try:
        return MessageToDict(struct)
    except (Error, ValueError) as error:  # JSON has neither NaN nor infinity
        raise ConfigError(f"f9t_config: {error}") from error


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
        seen = f"a {model}" if model else "of an unknown model"
        raise ConfigError(f"{receiver.device} is {seen}, not a {MODEL_PREFIX}")
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
