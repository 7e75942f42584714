"""bsread round trips of any value, the old library's bytes among them, and broken messages."""

import json
import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from support.bsread_message import encode
from support.bsread_old import OldSource, frames_of

from skywright.errors import DataError
from skywright.wire.bsread import Decoder
from skywright.wire.bsread_channel import DTYPES
from skywright.wire.bsread_encoder import ChannelValue

COMPRESSIONS = ("none", "lz4", "bitshuffle_lz4")
FUZZED = 3000

dtypes = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda name: st.sampled_from([np.dtype(name), np.dtype(name).newbyteorder(">")])
)
arrays = dtypes.flatmap(
    lambda dtype: npst.arrays(
        dtype, npst.array_shapes(max_dims=3, max_side=70), fill=npst.from_dtype(dtype)
    )
)
names = st.text(min_size=1, max_size=30).filter(lambda text: text.isprintable())
times = st.integers(0, 2**62)


def same(got, sent):
    """Whether a decoded array is the one sent: bytes, type and byte order."""
    if sent.size == 1:
        return got.tobytes() == sent.astype(got.dtype).tobytes()
    return (got.dtype, got.shape, got.tobytes()) == (sent.dtype, sent.shape, sent.tobytes())


@given(
    sent=st.dictionaries(names, arrays, max_size=3),
    compression=st.sampled_from(COMPRESSIONS),
    header=st.sampled_from(COMPRESSIONS),
    time_ns=st.none() | times,
    pulse_id=st.integers(0, 2**63 - 1),
)
@settings(max_examples=150, deadline=None)
def test_arrays_come_back_as_they_were(sent, compression, header, time_ns, pulse_id):
    frames = encode(pulse_id, time_ns, sent, compression=compression, header_compression=header)
    got = Decoder().decode([bytes(frame) for frame in frames])
    assert (got.pulse_id, got.time_ns) == (pulse_id, time_ns)
    assert list(got.channels) == list(sent)
    for name, array in sent.items():
        assert same(got.value(name), array)
        assert got.channel_time_ns(name) == time_ns
    again = encode(pulse_id, time_ns, {name: got.raw(name) for name in sent})
    assert [bytes(frame) for frame in again[2:]] == [bytes(frame) for frame in frames[2:]]


@given(
    text=st.text(max_size=300),
    number=st.integers(-(2**63), 2**63 - 1),
    real=st.floats(allow_nan=False),
    compression=st.sampled_from(COMPRESSIONS),
)
@settings(max_examples=100, deadline=None)
def test_python_values_come_back(text, number, real, compression):
    packed = ChannelValue(text, compression=compression)
    frames = encode(1, 1, {"text": text, "packed": packed, "number": number, "real": real})
    got = Decoder().decode([bytes(frame) for frame in frames])
    assert got.value("text") == (text or None)
    assert got.value("packed") == (text or None)
    assert (got.value("number"), got.value("real")) == (number, real)


@given(
    array=arrays,
    compression=st.sampled_from(COMPRESSIONS),
    header=st.sampled_from(COMPRESSIONS),
    seconds=st.sampled_from(["sec", "epoch"]),
)
@settings(max_examples=100, deadline=None)
def test_we_read_what_the_old_library_sends(array, compression, header, seconds):
    data = {"A": array, "text": "hé", "none": None, "x": 1.5, "b": True}
    frames = frames_of(3, (17, 5), data, compression, header, seconds)
    got = Decoder().decode(frames)
    assert (got.pulse_id, got.time_ns) == (3, 17_000_000_005)
    assert same(got.value("A"), array)
    assert [got.value(name) for name in ("text", "none", "x", "b")] == ["hé", None, 1.5, True]


@given(array=arrays, compression=st.sampled_from(COMPRESSIONS))
@settings(max_examples=100, deadline=None)
def test_the_old_library_reads_what_we_send(array, compression):
    frames = encode(
        3, 17_000_000_005, {"A": array, "text": "hé", "none": None},
        compression=compression, header_compression="bitshuffle_lz4",
    )  # fmt: skip
    source = OldSource.__new__(OldSource)
    source.hash, source.channels = None, []
    got = source.parse([bytes(frame) for frame in frames]).data
    assert (got.pulse_id, got.global_timestamp, got.global_timestamp_offset) == (3, 17, 5)
    assert same(np.asarray(got.data["A"].value), array)
    assert (got.data["A"].timestamp, got.data["A"].timestamp_offset) == (17, 5)
    assert got.data["text"].value == "hé"
    assert got.data["none"].value is None


def seeds():
    rng = np.random.default_rng(5)
    channels = {
        "P:FPICTURE": rng.integers(0, 300, (40, 30)).astype("u2"),
        "text": "some text",
        "big": rng.normal(size=50).astype(">f8"),
        "x": 1.5,
        "none": None,
    }
    return [
        [
            bytes(frame)
            for frame in encode(9, 5, channels, compression=one, header_compression=other)
        ]
        for one in COMPRESSIONS
        for other in COMPRESSIONS
    ]


def broken(frames, rng):
    """Frames with a few bytes, sizes, header entries or whole frames changed."""
    frames = list(frames)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(frames))
        frame = bytearray(frames[at])
        match rng.randrange(7):
            case 0 if frame:
                frame[rng.randrange(len(frame))] = rng.randrange(256)
            case 1:
                frame = frame[: rng.randrange(len(frame) + 1)]
            case 2:
                frame[: rng.randrange(16)] = rng.randbytes(rng.randrange(16))
            case 3:
                del frames[at]
                frames.insert(rng.randrange(len(frames) + 1), bytes(frame))
            case 4:
                del frames[at]
                frames = frames or [b""]
                continue
            case 5:
                frame = bytearray(rng.choice((b"", b"{}", b"[]", b"null", b"1e999", b'"')))
            case 6 if b"shape" in frame:
                frame = frame.replace(
                    b"[30,40]", rng.choice((b"[1e9,1e9]", b"[-1]", b"[[1]]", b"7"))
                )
                frame = frame.replace(b"uint16", rng.choice((b"float64", b"int8", b"string", b"x")))
                frame = frame.replace(b'"none"', rng.choice((b'"lz4"', b'"bitshuffle_lz4"', b"3")))
        frames[min(at, len(frames) - 1)] = bytes(frame)
    return frames


def test_broken_messages_raise_data_errors_or_read_as_none():
    rng = random.Random(1)
    whole = seeds()
    refused = read = 0
    decoder = Decoder()
    for _ in range(FUZZED):
        frames = broken(rng.choice(whole), rng)
        for one in (decoder, Decoder()):  # with headers remembered by hash, and without
            try:
                message = one.decode(frames)
            except DataError:
                refused += 1
                continue
            read += 1
            for name, channel in message.channels.items():
                value = message.value(name)
                assert value is None or isinstance(value, str | np.generic | np.ndarray)
                if isinstance(value, np.ndarray):
                    assert channel.shape in (None, value.shape)
                message.channel_time_ns(name)
            encode(1, 1, {name: message.raw(name) for name in message.channels})
    assert refused > FUZZED / 20
    assert read > FUZZED / 20


@pytest.mark.parametrize("compression", ["lz4", "bitshuffle_lz4"])
@pytest.mark.parametrize("shape", [None, [1 << 28]])
def test_sizes_that_lie_allocate_nothing(compression, shape):
    size = 1 << 28
    entry = {"name": "A", "type": "uint8", "compression": compression}
    if shape:
        entry["shape"] = shape
    prefix = size.to_bytes(4, "little")
    if compression == "bitshuffle_lz4":
        prefix = size.to_bytes(8, "big") + (8192).to_bytes(4, "big")
    header = json.dumps({"channels": [entry]}).encode()
    frames = [b'{"pulse_id": 1}', header, prefix + bytes(1000)]
    tracemalloc.start()
    try:
        assert Decoder().decode(frames).value("A") is None
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("lie", [0, 5, 1 << 31, (1 << 32) - 1])
def test_a_block_size_that_lies_is_not_followed(lie):
    """The bitshuffle library trusts the sizes of its blocks and reads beyond the frame."""
    frames = [
        bytes(frame)
        for frame in encode(1, 1, {"A": np.zeros(64, "u1")}, compression="bitshuffle_lz4")
    ]
    frames[2] = frames[2][:12] + lie.to_bytes(4, "big") + frames[2][16:]
    assert Decoder().decode(frames).value("A") is None
