"""Values to frames of bsread."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from skywright.errors import ConfigError
from skywright.wire.bsread_channel import DTYPES, STRING, encode_timestamp
from skywright.wire.bsread_compression import COMPRESSIONS, Compression, compress

MAIN_TYPE, DATA_TYPE = "bsr_m-1.1", "bsr_d-1.1"


@dataclass(frozen=True, slots=True)
class RawChannel:
    """A channel as it was received, to be sent again byte for byte."""

    as_sent: Mapping[str, Any]
    """Its entry of the data header."""
    value: Any
    timestamp: Any


@dataclass(frozen=True, slots=True)
class ChannelValue:
    """A value with what a plain value cannot say.

    Parameters
    ----------
    value
        As `Encoder.encode` takes it; None when it is missing.
    type, shape
        Declared while the value is None, so that the data header stays the same; shape as numpy
        has it, ``(1,)`` for a string or scalar.
    compression
        None: the encoder's.
    modulo, offset
        Written when given.
    """

    value: Any
    type: str = "float64"
    shape: tuple[int, ...] = (1,)
    compression: Compression | None = None
    modulo: int | None = None
    offset: int | None = None


class Encoder:
    """Messages to frames; makes the data header anew only when the channels change.

    Parameters
    ----------
    compression
        Of the values that do not say their own. Strings, scalars and arrays of one element are
        not compressed: it would make them longer.
    header_compression
        Of the data header.

    Raises
    ------
    ConfigError
        If a compression is unknown.
    """

    def __init__(
        self, compression: Compression = "none", header_compression: Compression = "none"
    ) -> None:
        for name in (compression, header_compression):
            if name not in COMPRESSIONS:
                raise ConfigError(f"compression: {name!r}, expected one of {COMPRESSIONS}")
        self._compression = compression
        self._header_compression = header_compression
        self._entries: list[Mapping[str, Any]] | None = None
        self._header: Any = b""
        self._hash = ""

    def encode(self, pulse_id: int, time_ns: int | None, channels: Mapping[str, Any]) -> list[Any]:
        """Return the frames of one pulse.

        Parameters
        ----------
        pulse_id
            Of the machine's clock.
        time_ns
            ns since 1970, the global timestamp and that of every value; None leaves both out.
        channels
            Value by name: bool, int, float, str, list, numpy scalar or array, None (missing),
            `ChannelValue`, or `RawChannel`, sent as it came under the name given here.

        Returns
        -------
        Buffers of bytes. Uncompressed arrays are not copied: leave them alone until zmq is done.

        Raises
        ------
        ConfigError
            If a value is of a type that bsread does not have.
        """
        entries: list[Mapping[str, Any]] = []
        frames: list[Any] = [b"", b""]
        for name, value in channels.items():
            entry, data, stamp = self._channel(name, value, time_ns)
            entries.append(entry)
            frames += (data, stamp)
        if entries != self._entries:
            self._make_header(entries)
        main: dict[str, Any] = {"htype": MAIN_TYPE, "pulse_id": int(pulse_id), "hash": self._hash}
        if time_ns is not None:
            seconds, nanoseconds = divmod(int(time_ns), 1_000_000_000)
            main["global_timestamp"] = {"sec": seconds, "ns": nanoseconds}
        if self._header_compression != "none":
            main["dh_compression"] = self._header_compression
        frames[:2] = orjson.dumps(main), self._header
        return frames

    def _make_header(self, entries: list[Mapping[str, Any]]) -> None:
        text = orjson.dumps({"htype": DATA_TYPE, "channels": entries})
        self._header = compress(np.frombuffer(text, np.uint8), self._header_compression)
        self._hash = hashlib.md5(self._header, usedforsecurity=False).hexdigest()
        self._entries = entries

    def _channel(
        self, name: str, value: Any, time_ns: int | None
    ) -> tuple[Mapping[str, Any], Any, Any]:
        if isinstance(value, RawChannel):
            entry = value.as_sent
            if entry.get("name") != name:
                entry = {**entry, "name": name}
            return entry, value.value, value.timestamp
        more = value if isinstance(value, ChannelValue) else ChannelValue(value)
        kind, shape = more.type, more.shape
        array: NDArray[Any] | None = None
        if more.value is not None:
            kind, array = _as_array(name, more.value)
            shape = () if kind == STRING else array.shape
        is_short = kind == STRING or shape in ((), (1,))
        compression = more.compression or ("none" if is_short else self._compression)
        big_endian = array is not None and array.dtype.byteorder == ">"
        entry = {
            "name": name,
            "type": kind,
            "shape": list(reversed(shape)) or [1],
            "encoding": "big" if big_endian else "little",
            "compression": compression,
        }
        given = {"modulo": more.modulo, "offset": more.offset}
        entry |= {key: number for key, number in given.items() if number is not None}
        if array is None:
            return entry, b"", b""
        stamp = b"" if time_ns is None else encode_timestamp(time_ns, big_endian=big_endian)
        return entry, compress(array, compression, big_endian=big_endian), stamp


def _as_array(name: str, value: Any) -> tuple[str, NDArray[Any]]:
    """Return the channel type and the bytes of a value as a C-contiguous array."""
    try:
        if isinstance(value, str):
            return STRING, np.frombuffer(value.encode(), np.uint8)
        array = np.asarray(value, order="C")
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"{name}: {value!r} makes no array ({error})") from error
    if array.dtype.name not in DTYPES:
        raise ConfigError(f"{name}: {array.dtype} is no type of bsread: {', '.join(DTYPES)}")
    return array.dtype.name, array
