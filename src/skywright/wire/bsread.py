"""bsread, the stream of a free-electron laser: received frames to messages.

A message is one pulse: main header, data header, then value and timestamp of each channel. Values
are decoded when asked for; frames are kept as received, so that a channel can be forwarded byte
for byte.
"""

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import orjson

from skywright.errors import DataError
from skywright.wire.bsread_channel import (
    Channel,
    decode_timestamp,
    decode_value,
    nanoseconds_of,
    parse_channel,
    whole_number,
)
from skywright.wire.bsread_compression import COMPRESSIONS, decompress
from skywright.wire.bsread_encoder import RawChannel

logger = logging.getLogger(__name__)

HEADERS_KEPT = 32
"""Data headers remembered by hash: a stream has one, or a few when channels come by modulo."""

EMPTY = b""

STOP, RECONNECT = "bsr_stop", "bsr_reconnect"
"""Types of control messages, without their version."""


class HeadlessError(DataError):
    """A message that begins in the middle: its first frames were lost in the sender."""


class ControlMessage(NamedTuple):
    """A message of the dispatching layer about the stream itself; it has no pulse.

    `type` is `STOP` (no pulses until further notice) or `RECONNECT` (the pulses come from
    `address` now).
    """

    type: str
    address: str


def control_message(frames: Sequence[Any]) -> ControlMessage | None:
    """Return the control message that multipart frames hold; None if they are no such message."""
    if len(frames) != 1:  # so the main headers of pulses are not parsed twice
        return None
    try:
        header = _json_object(frames[0], "main header")
    except DataError:
        return None
    kind = str(header.get("htype")).rpartition("-")[0]
    if kind not in (STOP, RECONNECT):
        return None
    return ControlMessage(kind, str(header.get("address", "")))


@dataclass(eq=False, slots=True)
class Message:
    """One pulse as it came.

    Attributes
    ----------
    pulse_id
        Number of the pulse on the machine's 100 Hz clock.
    time_ns
        Global timestamp, ns since 1970; None if the message has none.
    hash
        Hash of the data header that the sender wrote into the main header; empty if there is none.
    channels
        Channels by name, in the order of the data header.
    frames
        Frames of the message as they were received, headers included.
    troubles
        Why values that were asked for cannot be decoded, by name of the channel.
    """

    pulse_id: int
    time_ns: int | None
    hash: str
    channels: Mapping[str, Channel]
    frames: Sequence[Any] = field(repr=False)
    _values: dict[str, Any] = field(default_factory=dict, repr=False)
    troubles: dict[str, str] = field(default_factory=dict, repr=False)

    def value(self, name: str) -> Any:
        """Return the value of a channel, decoded at the first call.

        Returns
        -------
        Read-only array in the channel's shape and byte order, numpy scalar when it has one
        element, or str. None when it is missing, empty, or cannot be decoded (`troubles` says why).

        Raises
        ------
        KeyError
            If there is no such channel.
        """
        if name in self._values:
            return self._values[name]
        channel = self.channels[name]
        value, result = self._pair(name)[0], None
        if len(value):
            try:
                result = decode_value(channel, value)
                if isinstance(result, str | np.ndarray) and not len(result):
                    result = None
            except DataError as error:
                self.troubles[name] = str(error)
                logger.debug("pulse %d: %s: %s", self.pulse_id, name, error)
        self._values[name] = result
        return result

    def channel_time_ns(self, name: str) -> int | None:
        """Return the time of a channel's value, ns since 1970, None when it has none.

        Raises
        ------
        KeyError
            If there is no such channel.
        """
        big_endian = self.channels[name].big_endian
        return decode_timestamp(self._pair(name)[1], big_endian=big_endian)

    def raw(self, name: str) -> RawChannel:
        """Return a channel as it came, for `Encoder.encode` to send the same bytes again.

        Raises
        ------
        KeyError
            If there is no such channel.
        """
        return RawChannel(self.channels[name].as_sent, *self._pair(name))

    def _pair(self, name: str) -> tuple[Any, Any]:
        """Return value and timestamp frames, both empty when they cannot be this channel's."""
        at = self.channels[name].frame_index
        value, timestamp = [*self.frames[at : at + 2], EMPTY, EMPTY][:2]
        if len(timestamp) not in (0, 16):  # a frame before was lost: these are of another channel
            return EMPTY, EMPTY
        return value, timestamp


class Decoder:
    """Messages from frames; parses a data header only when its hash is a new one.

    One without a hash is parsed when its bytes are not those of the last one.
    """

    def __init__(self) -> None:
        self._data_headers: OrderedDict[str, Mapping[str, Channel]] = OrderedDict()
        self._without_hash: tuple[Any, Mapping[str, Channel]] = None, {}
        """The last data header without a hash: its compression and bytes, and its channels."""

    def decode(self, frames: Sequence[Any]) -> Message:
        """Return the message that multipart frames hold.

        Parameters
        ----------
        frames
            Buffers of bytes, zmq frames among them. They are kept, not copied. Missing frames at
            the end read as missing values; surplus ones are ignored.

        Raises
        ------
        HeadlessError
            If the first frame is JSON, but no main header: frames before it were lost.
        DataError
            If the frames are no message of bsread.
        """
        if not frames:
            raise DataError("bsread: a message without frames")
        header = _json_object(frames[0], "main header")
        if "pulse_id" not in header:
            raise HeadlessError(f"bsread: no pulse_id in the first frame ({len(frames)} frames)")
        pulse_id = whole_number(header["pulse_id"])
        if pulse_id is None or pulse_id >= 2**63:
            raise DataError(
                f"bsread: pulse_id {header['pulse_id']!r} is no whole number of 63 bits"
            )
        hash_ = header.get("hash")
        hash_ = hash_ if isinstance(hash_, str) else ""
        compression = header.get("dh_compression")
        channels = self._channels(hash_, compression, frames, pulse_id)
        return Message(pulse_id, _global_time(header), hash_, channels, frames)

    def _channels(
        self, hash_: str, compression: Any, frames: Sequence[Any], pulse_id: int
    ) -> Mapping[str, Channel]:
        """Return the channels of the data header."""
        channels = self._data_headers.get(hash_)
        if channels is not None:
            return channels
        if len(frames) < 2:
            raise DataError(
                f"bsread: pulse {pulse_id}: no data header, and no earlier message had one with "
                "its hash"
            )
        content = None if hash_ else (compression, bytes(frames[1]))
        if content is not None and content == self._without_hash[0]:
            return self._without_hash[1]
        channels = _parse_data_header(frames[1], compression)
        if not channels:
            logger.warning("bsread: pulse %d: a data header without channels", pulse_id)
        if hash_:
            self._data_headers[hash_] = channels
            if len(self._data_headers) > HEADERS_KEPT:
                self._data_headers.popitem(last=False)
        else:
            self._without_hash = content, channels
        return channels


def _parse_data_header(frame: Any, compression: Any) -> dict[str, Channel]:
    compression = compression or "none"
    if compression not in COMPRESSIONS:
        raise DataError(f"bsread: dh_compression {compression!r}, expected one of {COMPRESSIONS}")
    if len(frame) and compression != "none":
        frame = decompress(frame, compression, 1, None).data
    header = _json_object(frame, "data header")
    entries = header.get("channels") or []
    if not isinstance(entries, list):
        raise DataError("bsread: the data header's channels are no list")
    channels = {}
    for index, entry in enumerate(entries):
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            channels[entry["name"]] = parse_channel(entry, 2 + 2 * index)
        else:
            logger.warning("bsread: channel %d of the data header has no name", index)
    return channels


def _json_object(frame: Any, what: str) -> dict[str, Any]:
    try:
        header = orjson.loads(memoryview(frame))
    except orjson.JSONDecodeError as error:
        raise DataError(f"bsread: the {what} is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise DataError(f"bsread: the {what} is no JSON object")
    return header


def _global_time(header: Mapping[str, Any]) -> int | None:
    stamp = header.get("global_timestamp")
    if not isinstance(stamp, dict):
        return None
    return nanoseconds_of(stamp.get("sec", stamp.get("epoch")), stamp.get("ns", 0))
