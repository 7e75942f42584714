"""Pulses of a bsread stream."""

import logging
import math
import threading
import time
from collections.abc import Mapping
from typing import Literal

import numpy as np

from skywright.acquire.counters import Counters, sum_counts
from skywright.acquire.source import PolledSource
from skywright.errors import ConfigError, DataError
from skywright.instruments.psss.pulse import Pulse
from skywright.instruments.psss.sources.gaps import PulseGaps
from skywright.wire.bsread import (
    RECONNECT,
    ControlMessage,
    Decoder,
    HeadlessError,
    Message,
    control_message,
)
from skywright.wire.bsread_sockets import QUEUE_BYTES, Receiver

logger = logging.getLogger(__name__)

LOG_PERIOD_S = 60.0
"""Shortest time between two warnings about lost messages of one cause: they may come at the rate of
the machine, for days."""


class BsreadSource(PolledSource[Pulse]):
    """The pulses of a stream; one of its channels has the pictures.

    If the channel has no value in a message, the pulse has no picture. The same holds if its value
    is no picture or cannot be decoded, which is reported. If the message has no time stamp, the
    pulse has no time.

    `lost` counts every lost pulse under one cause: ``headless`` (a message without its main
    header), ``garbage`` (a message that cannot be decoded for another reason) or ``gap`` (a pulse
    that never came). If a `next` ends without a pulse and has met such messages, the last one is
    reported. A pulse whose picture cannot be decoded is not counted. A message with the id of one
    of the last pulses is left out and reported: no pulse is lost. Control messages of the
    dispatching layer are obeyed and are no loss: pulses that do not come after a stop are not
    missing, and after a reconnect the source reads from the new address.

    Parameters
    ----------
    address
        ``tcp://host:port`` of the sender.
    channel
        Name of the picture's channel, ``PREFIX:FPICTURE``.
    kind
        ``pull`` of a PUSH, ``sub`` of a PUB.
    step
        Difference between the pulse ids of successive messages: 1 at 100 Hz. None: the channel's
        ``modulo`` if it is above 1 and divides all differences, or else the smallest difference
        seen.
    queue_bytes
        Limit of the queue of received messages.
    energy_channel
        Name of the channel with the pulse's energy, uJ; empty: there is none.

    Raises
    ------
    ConfigError
        Raised by `open` if zmq does not take the address.
    """

    def __init__(
        self,
        address: str,
        channel: str,
        *,
        kind: Literal["pull", "sub"] = "pull",
        step: int | None = None,
        queue_bytes: int = QUEUE_BYTES,
        energy_channel: str = "",
    ) -> None:
        super().__init__("bsread")
        self.energy_channel = energy_channel
        self.address = address
        self.channel = channel
        self._kind: Literal["pull", "sub"] = kind
        self._queue_bytes = queue_bytes
        self._lock = threading.Lock()
        self._receiver: Receiver | None = None
        self._decoder = Decoder()
        self._gaps = PulseGaps(step)
        self._lost = Counters()
        self._logged_s: dict[str, float] = {}
        """Value of the monotonic clock at the last warning about lost messages, by cause."""

    @property
    def lost(self) -> Mapping[str, int]:
        """Number of lost pulses, by cause."""
        return sum_counts(self._lost.as_dict(), {"gap": self._gaps.missing})

    def open(self) -> None:
        """Connect; pulses that come while the source is stopped are not missing."""
        with self._lock:
            self._decoder = Decoder()
            self._gaps.interrupt()
            self._receiver = Receiver(self.address, self._kind, queue_bytes=self._queue_bytes)

    def next(self, timeout_s: float) -> Pulse | None:
        """Return the next pulse in the order of the wire, or None after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        trouble, left = "", timeout_s
        while (receiver := self._receiver) is not None:
            frames = receiver.receive(max(left, 0.0)) if left >= 0.0 else None
            left = deadline - time.monotonic()
            if frames is None:
                if trouble:  # else it would seem that nothing comes
                    self.report(f"{self.address}: {trouble}")
                return None
            if (control := control_message(frames)) is not None:
                self._obey(control)
                continue
            try:
                message = self._decoder.decode(frames)
            except DataError as error:
                cause = "headless" if isinstance(error, HeadlessError) else "garbage"
                self._lost.add(cause)
                self._gaps.undecodable()
                self._log_lost(cause, error)
                trouble = str(error)
                continue
            if (pulse := self._pulse(message, receiver.received_s)) is not None:
                return pulse
        return None

    def halt(self) -> None:
        """Disconnect; a `next` in progress in another thread returns None.

        The messages that wait for `next` are dropped, and the log has their number. They are no
        losses: the next pulse is not expected to continue from them (`open`).
        """
        with self._lock:
            receiver, self._receiver = self._receiver, None
        if receiver is not None and (dropped := receiver.close()):
            logger.info(
                "%s: stopped; %d messages that were received are dropped", self.address, dropped
            )

    def _log_lost(self, cause: str, error: DataError) -> None:
        now = time.monotonic()
        is_due = now - self._logged_s.get(cause, -math.inf) >= LOG_PERIOD_S
        if is_due:
            self._logged_s[cause] = now
        total = self._lost.as_dict()[cause]
        level = logging.WARNING if is_due else logging.DEBUG
        logger.log(level, "%s: %s (%s: %d so far)", self.address, error, cause, total)

    def _obey(self, control: ControlMessage) -> None:
        logger.info("%s: %s %s", self.address, *control)
        if control.type != RECONNECT:
            self._gaps.interrupt()
            return
        try:
            with self._lock:
                if (last := self._receiver) is None:
                    return
                self._receiver = Receiver(
                    control.address, self._kind, queue_bytes=self._queue_bytes
                )
                self.address = control.address
        except ConfigError as error:
            self.report(f"{self.address}: asked to reconnect: {error}")
            return
        last.close()

    def _pulse(self, message: Message, received_s: float) -> Pulse | None:
        channel = message.channels.get(self.channel)
        if not self._gaps.take(message.pulse_id, None if channel is None else channel.modulo):
            self.report(f"{self.address}: pulse {message.pulse_id} came twice")
            return None
        image = None if channel is None else message.value(self.channel)
        why = message.troubles.get(self.channel, "")
        if channel is not None and image is not None and np.ndim(image) != 2:
            why = f"{channel.type} of shape {np.shape(image)}, expected (rows, columns)"
            image = None
        if why:
            why = why.removeprefix(f"{self.channel}: ")
            self.report(
                f"{self.address}: pulse {message.pulse_id}: {self.channel} is no picture: {why}"
            )
        return Pulse(
            message.pulse_id,
            message.time_ns,
            image,
            message,
            energy_uj=self._energy(message),
            has_unusable_picture=bool(why),
            received_s=received_s,
        )

    def _energy(self, message: Message) -> float | None:
        if self.energy_channel not in message.channels:
            return None
        value = message.value(self.energy_channel)
        is_number = isinstance(value, np.generic) and value.dtype.kind in "uif"
        return float(value) if is_number and np.isfinite(value) else None
