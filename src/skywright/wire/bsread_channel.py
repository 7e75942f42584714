"""One channel of bsread: what the data header says of it, and its value's bytes to numpy."""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skywright.errors import DataError
from skywright.wire.bsread_compression import COMPRESSIONS, Compression, decompress

DTYPES = {
    name: np.dtype(name)
    for name in (
        *("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
        *("float32", "float64", "bool"),
    )
}
"""Channel types and numpy's; a ``string`` is UTF-8 beside them."""

STRING = "string"
VALUE_BYTES_MAX = 1 << 30
"""A channel that declares more is not decoded: `bsread` gives None for it."""

TIMESTAMPS = {False: struct.Struct("<qq"), True: struct.Struct(">qq")}


@dataclass(frozen=True, slots=True)
class Channel:
    """What the data header says of a channel.

    Attributes
    ----------
    name
        Name of the channel.
    type
        Type of the value in lower case: one of `DTYPES`, ``string``, or an unknown one that was
        sent.
    shape
        Shape in numpy's order, (rows, columns); the data header has the opposite order. None: the
        header declares no shape, and the value is a flat array of any length.
    big_endian
        True if value and timestamp are big-endian, False if they are little-endian.
    compression
        Compression of the value.
    modulo, offset
        The channel has a value in the messages with ``pulse_id % modulo == offset``; None if the
        header does not declare it.
    as_sent
        The channel's entry of the data header, with unknown keys, so that it can be forwarded.
    trouble
        The reason for which its values cannot be decoded and are None; empty if they can be.
    frame_index
        Index of its value's frame in a message; that of its timestamp follows.
    """

    name: str
    type: str = "float64"
    shape: tuple[int, ...] | None = None
    big_endian: bool = False
    compression: Compression = "none"
    modulo: int | None = None
    offset: int | None = None
    as_sent: Mapping[str, Any] = field(default_factory=dict, compare=False)
    trouble: str = ""
    frame_index: int = field(default=0, compare=False)

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The numpy type in the channel's byte order; None of strings and of unknown types."""
        dtype = DTYPES.get(self.type)
        return dtype.newbyteorder(">") if dtype is not None and self.big_endian else dtype


def parse_channel(entry: Mapping[str, Any], frame_index: int) -> Channel:
    """Return what an entry of the data header says; never raises.

    Parameters
    ----------
    entry
        JSON object with a ``name``; what is wrong beside it becomes the channel's `trouble`.
    frame_index
        Index of its value's frame in a message.
    """
    troubles = []
    declared = entry.get("type")
    kind = "float64" if declared is None else str(declared).lower()
    if kind != STRING and kind not in DTYPES:
        troubles.append(f"type {declared!r} is unknown")
    compression: Any = entry.get("compression") or "none"
    if compression not in COMPRESSIONS:
        troubles.append(f"compression {compression!r} is unknown")
        compression = "none"
    encoding = entry.get("encoding") or "little"
    if encoding not in ("little", "big"):
        troubles.append(f"encoding {encoding!r} is neither little nor big")
    shape = entry.get("shape")
    if shape is not None:
        shape = _numpy_shape(shape)
        if shape is None:
            troubles.append(f"shape {entry.get('shape')!r} is no list of whole numbers")
        elif math.prod(shape) * DTYPES.get(kind, DTYPES["uint8"]).itemsize > VALUE_BYTES_MAX:
            troubles.append(f"shape {shape} of {kind} is more than {VALUE_BYTES_MAX} bytes")
    return Channel(
        name=entry["name"],
        type=kind,
        shape=shape,
        big_endian=encoding == "big",
        compression=compression,
        modulo=whole_number(entry.get("modulo"), least=1),
        offset=whole_number(entry.get("offset")),
        as_sent=entry,
        trouble="; ".join(troubles),
        frame_index=frame_index,
    )


def decode_value(channel: Channel, frame: Any) -> Any:
    """Return the value in a frame.

    Parameters
    ----------
    channel
        What the data header says.
    frame
        A buffer of bytes. An uncompressed array is a read-only view of it.

    Returns
    -------
    ndarray, numpy scalar or str
        The array has the channel's shape and byte order; one element is a scalar.

    Raises
    ------
    DataError
        If the frame does not hold what the channel says.
    """
    if channel.trouble:
        raise DataError(f"{channel.name}: {channel.trouble}")
    dtype = channel.dtype
    nbytes = None
    if dtype is not None and channel.shape is not None:
        nbytes = math.prod(channel.shape) * dtype.itemsize
    itemsize = 1 if dtype is None else dtype.itemsize
    data = decompress(frame, channel.compression, itemsize, nbytes)
    if dtype is None:
        try:
            return data.tobytes().decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{channel.name}: a string that is no UTF-8 ({error})") from error
    if data.nbytes % itemsize:
        raise DataError(f"{channel.name}: {data.nbytes} bytes of {dtype}")
    array = data.view(dtype) if dtype.kind != "b" else data != 0
    if array.size == 1:
        return array[0]
    if channel.shape is not None:
        array = array.reshape(channel.shape)
    if not array.flags.aligned:  # of a small message, which zmq leaves where it was received
        array = array.copy()
    array.flags.writeable = False  # the frame may be on its way to another reader
    return array


def decode_timestamp(frame: Any, *, big_endian: bool) -> int | None:
    """Return ns since 1970 from a timestamp frame, None when it holds none.

    Parameters
    ----------
    frame
        16 bytes: int64 seconds, int64 nanoseconds.
    big_endian
        Byte order of the channel.
    """
    layout = TIMESTAMPS[big_endian]
    if len(frame) != layout.size:
        return None
    seconds, nanoseconds = layout.unpack(frame)
    return nanoseconds_of(seconds, nanoseconds)


def encode_timestamp(time_ns: int, *, big_endian: bool) -> bytes:
    """Return the timestamp frame of ns since 1970."""
    return TIMESTAMPS[big_endian].pack(*divmod(time_ns, 1_000_000_000))


def nanoseconds_of(seconds: Any, nanoseconds: Any) -> int | None:
    """Return ns since 1970; None if a part is no finite number, or the time does not fit int64."""
    for part in (seconds, nanoseconds):
        if not isinstance(part, int | float) or isinstance(part, bool) or not math.isfinite(part):
            return None
    time_ns = int(seconds) * 1_000_000_000 + int(nanoseconds)
    return time_ns if -(2**63) <= time_ns < 2**63 else None


def _numpy_shape(shape: Any) -> tuple[int, ...] | None:
    sizes = shape if isinstance(shape, list) else [shape]
    whole = [size for size in map(whole_number, sizes) if size is not None]
    return tuple(reversed(whole)) if len(whole) == len(sizes) <= 32 else None


def whole_number(number: Any, least: int = 0) -> int | None:
    """Return a number of JSON as int; None if it is no whole number or is less than `least`.

    Languages that have one kind of number write ``7.0`` for 7.
    """
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        return None
    return number
