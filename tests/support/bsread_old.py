"""bsread as the old Python library speaks it, written from the format's description alone.

Shares no code with skywright. `OldSender` sends frame by frame and swallows a full queue, so that
messages without beginning, middle or end go out; `OldSource` dies of what the old one dies of.
"""

import contextlib
import hashlib
import json
import struct
import time
from types import SimpleNamespace

import bitshuffle
import lz4.block
import numpy as np
import zmq

TYPES = {
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "int64": "i8", "uint64": "u8", "float32": "f4", "float64": "f8", "bool": "?",
}  # fmt: skip


def bitshuffle_frame(array):
    size = array.dtype.itemsize
    block = max(8192 // size // 8 * 8, 128)
    prefix = struct.pack(">qi", array.nbytes, block * size)
    return prefix + bitshuffle.compress_lz4(array.reshape(-1), block).tobytes()


def lz4_frame(array):
    packed = lz4.block.compress(array.tobytes(), store_size=False)
    return struct.pack("<I", array.nbytes) + packed  # little, whatever the channel's order


def compress(array, compression):
    if compression == "bitshuffle_lz4":
        return bitshuffle_frame(array)
    if compression == "lz4":
        return lz4_frame(array)
    return array.tobytes()


def as_array(value):
    if isinstance(value, str):
        return "string", np.frombuffer(value.encode(), "u1"), [1]
    if isinstance(value, bool):
        return "bool", np.array([value]), [1]
    if isinstance(value, int | float):
        array = np.array([value])
        return array.dtype.name, array, [1]
    array = np.asarray(value)
    return array.dtype.name, array, list(array.shape[::-1]) or [1]


def frames_of(
    pulse_id, timestamp, data, compression="none", header_compression="none", seconds="sec"
):
    """The frames of one message; `timestamp` = (s, ns)."""
    entries, values = [], []
    for name, value in data.items():
        if value is None:
            entries.append({"name": name, "type": "float64", "shape": [1], "encoding": "little"})
            values += [b"", b""]
            continue
        kind, array, shape = as_array(value)
        big = array.dtype.byteorder == ">"
        entry = {"name": name, "type": kind, "shape": shape, "encoding": "big" if big else "little"}
        if compression != "none":
            entry["compression"] = compression
        entries.append(entry)
        values += [compress(array, compression), struct.pack(">qq" if big else "<qq", *timestamp)]
    header = json.dumps({"htype": "bsr_d-1.1", "channels": entries}).encode()
    main = {"htype": "bsr_m-1.1", "pulse_id": pulse_id}
    if header_compression != "none":
        main["dh_compression"] = header_compression
        header = compress(np.frombuffer(header, "u1"), header_compression)
    main["hash"] = hashlib.md5(header).hexdigest()
    main["global_timestamp"] = {seconds: timestamp[0], "ns": timestamp[1]}
    return [json.dumps(main).encode(), header, *values]


class OldSender:
    """Sender(port, queue_size, mode, block, ...) of the old library."""

    def __init__(
        self, port, queue_size=10, mode=zmq.PUSH, block=True, send_timeout=None,
        data_compression="none", data_header_compression="none", start_pulse_id=0,
    ):  # fmt: skip
        self.context = zmq.Context()
        self.socket = self.context.socket(mode)
        self.socket.set_hwm(queue_size)
        self.socket.setsockopt(zmq.LINGER, 1000)
        if send_timeout:
            self.socket.setsockopt(zmq.SNDTIMEO, send_timeout)
        self.socket.bind(f"tcp://127.0.0.1:{port}")
        self.block = block
        self.compression = data_compression, data_header_compression
        self.pulse_id = start_pulse_id

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()
        self.context.term()

    def send(self, data, pulse_id=None, timestamp=None):
        if pulse_id is None:
            pulse_id, self.pulse_id = self.pulse_id, self.pulse_id + 1
        if timestamp is None:
            timestamp = time.time()
        if isinstance(timestamp, float):
            timestamp = int(timestamp), int(timestamp % 1 * 1e9)
        frames = frames_of(pulse_id, timestamp, data, *self.compression)
        self.send_frames(frames)

    def send_frames(self, frames):
        flags = 0 if self.block else zmq.NOBLOCK
        for number, frame in enumerate(frames):
            more = zmq.SNDMORE if number < len(frames) - 1 else 0
            with contextlib.suppress(zmq.Again):  # so a message goes out in pieces
                self.socket.send(frame, flags | more)


def decompress(frame, compression, dtype, order):
    if compression == "bitshuffle_lz4":
        size, block = struct.unpack(">qi", frame[:12])
        if size == 0:
            return None
        count = size // dtype.itemsize
        packed = np.frombuffer(frame[12:], "u1")
        return bitshuffle.decompress_lz4(packed, (count,), dtype, block // dtype.itemsize)
    if compression == "lz4":
        (size,) = struct.unpack(order + "I", frame[:4])
        return np.frombuffer(lz4.block.decompress(frame[4:], uncompressed_size=size), dtype)
    return np.frombuffer(frame, dtype)


def value_of(entry, frame):
    if not frame:
        return None
    order = ">" if entry.get("encoding") == "big" else "<"
    kind = entry.get("type", "float64").lower()
    compression = entry.get("compression", "none")
    if kind == "string":
        return decompress(frame, compression, np.dtype("u1"), order).tobytes().decode()
    array = decompress(frame, compression, np.dtype(order + TYPES[kind]), order)
    if array is None or len(array) == 1:
        return None if array is None else array[0]
    shape = entry.get("shape")
    return array.reshape(shape[::-1]) if shape else array


class OldSource:
    """Source(host, port, mode, queue_size, receive_timeout) of the old library."""

    def __init__(self, host, port, mode=zmq.PULL, queue_size=100, receive_timeout=None):
        self.context = zmq.Context()
        self.socket = self.context.socket(mode)
        self.socket.set_hwm(queue_size)
        if mode == zmq.SUB:
            self.socket.subscribe(b"")
        if receive_timeout:
            self.socket.setsockopt(zmq.RCVTIMEO, receive_timeout)
        self.handshakes = self.socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self.socket.connect(f"tcp://{host}:{port}")
        self.hash, self.channels = None, []

    def await_sender(self, limit_ms=20_000):
        """Not of the old library: what is sent before the reader is there goes to nobody."""
        assert self.handshakes.poll(limit_ms), "no sender"
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.disable_monitor()
        self.handshakes.close(linger=0)
        self.socket.close(linger=0)
        self.context.term()

    def receive(self):
        """One message as the old library gives it, None at the time-out."""
        try:
            frames = self.socket.recv_multipart()
        except zmq.Again:
            return None
        return self.parse(frames)

    def parse(self, frames):
        main = json.loads(frames[0])
        changed = main["hash"] != self.hash
        if changed:
            header, how = frames[1], main.get("dh_compression", "none")
            if how != "none":
                header = decompress(header, how, np.dtype("u1"), "<").tobytes()
            self.channels = json.loads(header)["channels"]
            self.hash = main["hash"]
        data = {}
        for number, entry in enumerate(self.channels):
            value, stamp = frames[2 + 2 * number : 4 + 2 * number]
            order = ">qq" if entry.get("encoding") == "big" else "<qq"
            seconds, offset = struct.unpack(order, stamp) if stamp else (None, None)
            data[entry["name"]] = SimpleNamespace(
                value=value_of(entry, value), timestamp=seconds, timestamp_offset=offset
            )
        stamp = main["global_timestamp"]
        inner = SimpleNamespace(
            pulse_id=main["pulse_id"],
            hash=main["hash"],
            global_timestamp=stamp.get("sec", stamp.get("epoch")),
            global_timestamp_offset=stamp["ns"],
            format_changed=changed,
            data=data,
        )
        return SimpleNamespace(data=inner, frames=frames)
