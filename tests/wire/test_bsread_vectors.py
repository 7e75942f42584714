"""bsread bytes worked out by hand from the format's description, both ways."""

import hashlib
import json

import numpy as np
import pytest
from support.bsread_message import encode

from skywright.errors import ConfigError, DataError
from skywright.wire.bsread import HEADERS_KEPT, Decoder, HeadlessError
from skywright.wire.bsread_channel import VALUE_BYTES_MAX, parse_channel
from skywright.wire.bsread_encoder import ChannelValue, Encoder

STAMP = bytes.fromhex("00f1536500000000 15cd5b0700000000")  # 1700000000 s, 123456789 ns, little
BIG_STAMP = bytes.fromhex("000000006553f100 00000000075bcd15")
TIME_NS = 1_700_000_000_123_456_789
ONE_IN_EIGHT = bytes.fromhex("01 00000000000000")
"""Eight bytes 1, 0 ... 0 with their bits transposed: bit 0 of the first is bit 0 of byte 0."""


def message(channels, *frames, pulse_id=7, data_header=None, **main):
    header = data_header
    if header is None:
        header = json.dumps({"htype": "bsr_d-1.1", "channels": channels}).encode()
    main = {
        "htype": "bsr_m-1.1",
        "pulse_id": pulse_id,
        "hash": hashlib.md5(header).hexdigest(),
        "global_timestamp": {"sec": 1700000000, "ns": 123456789},
        **main,
    }
    return [json.dumps(main).encode(), header, *frames]


def value(entry, frame, stamp=STAMP):
    entry = {"name": "A", **entry}
    return Decoder().decode(message([entry], bytes.fromhex(frame), stamp)).value("A")


SCALARS = [
    ("int8", "fe", "fe", -2),
    ("uint8", "fe", "fe", 254),
    ("int16", "feff", "fffe", -2),
    ("uint16", "0201", "0102", 258),
    ("int32", "feffffff", "fffffffe", -2),
    ("uint32", "04030201", "01020304", 0x01020304),
    ("int64", "feffffffffffffff", "fffffffffffffffe", -2),
    ("uint64", "0807060504030201", "0102030405060708", 0x0102030405060708),
    ("float32", "0000c03f", "3fc00000", 1.5),
    ("float64", "000000000000f83f", "3ff8000000000000", 1.5),
    ("bool", "01", "01", True),
]


@pytest.mark.parametrize(("kind", "little", "big", "expected"), SCALARS)
def test_scalars_of_every_type_in_both_byte_orders(kind, little, big, expected):
    for encoding, frame in (("little", little), ("big", big), (None, little)):
        entry = {"type": kind, "shape": [1]} | ({"encoding": encoding} if encoding else {})
        got = value(entry, frame)
        assert got == expected
        assert got.dtype.newbyteorder("=") == np.dtype(kind)
        assert value(entry | {"type": kind.upper()}, frame) == expected


@pytest.mark.parametrize(("kind", "little", "big", "expected"), SCALARS)
def test_scalars_are_written_as_by_hand(kind, little, big, expected):
    array = np.array([expected], kind)
    frames = encode(1, TIME_NS, {"A": array, "B": array.astype(array.dtype.newbyteorder(">"))})
    assert bytes(frames[2]).hex() == little
    assert bytes(frames[3]) == STAMP
    assert bytes(frames[4]).hex() == big
    # Types of one byte have no order, so their timestamps are little-endian.
    assert bytes(frames[5]) == (BIG_STAMP if array.itemsize > 1 else STAMP)
    entries = json.loads(bytes(frames[1]))["channels"]
    assert [entry["encoding"] for entry in entries] == [
        "little",
        "big" if array.itemsize > 1 else "little",
    ]


def test_absent_fields_have_their_defaults():
    assert value({}, "000000000000f83f") == 1.5
    flat = value({}, "000000000000f83f" * 2)
    assert flat.tolist() == [1.5, 1.5]
    assert value({"type": None, "shape": None, "encoding": None}, "000000000000f83f") == 1.5


def test_shape_is_fastest_dimension_first():
    entry = {"type": "uint16", "shape": [3, 2]}
    expected = [[1, 2, 3], [4, 5, 6]]
    assert value(entry, "010002000300040005000600").tolist() == expected
    got = value(entry | {"encoding": "big"}, "000100020003000400050006")
    assert got.tolist() == expected
    assert got.dtype == np.dtype(">u2")
    header = json.loads(bytes(encode(1, 1, {"A": np.zeros((2, 3), "u2")})[1]))
    assert header["channels"][0]["shape"] == [3, 2]


def test_an_array_is_a_read_only_view_of_the_frame():
    frame = bytes(range(240)) * 40
    got = Decoder().decode(message([{"name": "A", "type": "uint8", "shape": [9600]}], frame, STAMP))
    array = got.value("A")
    assert np.shares_memory(array, np.frombuffer(frame, "u1"))
    assert not array.flags.writeable
    assert got.value("A") is array


def test_unaligned_frames_give_aligned_arrays():
    frame = memoryview(b"x" + bytes(range(8)))[1:]
    got = Decoder().decode(message([{"name": "A", "type": "uint32", "shape": [2]}], frame, b""))
    assert got.value("A").flags.aligned
    assert got.value("A").tolist() == [0x03020100, 0x07060504]


def test_strings():
    text = {"type": "string", "shape": [1]}
    assert value(text, "68c3a9") == "hé"
    assert value(text, "") is None
    assert value(text, "ff") is None
    assert value(text | {"compression": "lz4"}, "0300000030 68c3a9") == "hé"
    packed = "0000000000000008 00002000 00000009 80" + (b"\xff" + bytes(7)).hex()
    assert value(text | {"compression": "bitshuffle_lz4"}, packed) == "\x01" * 8
    frames = encode(1, 1, {"A": "hé"}, compression="bitshuffle_lz4")
    assert bytes(frames[2]).hex() == "68c3a9"
    assert json.loads(bytes(frames[1]))["channels"][0] == {
        "name": "A", "type": "string", "shape": [1], "encoding": "little", "compression": "none",
    }  # fmt: skip


LITERALS = "40 01020304"
"""An LZ4 block of four literals."""


@pytest.mark.parametrize(
    ("encoding", "size", "expected"),
    [
        ("little", "04000000", [0x0201, 0x0403]),
        ("big", "00000004", [0x0102, 0x0304]),
        # As the Python sender writes it, whose own reader cannot read it.
        ("big", "04000000", [0x0102, 0x0304]),
        ("little", "00000004", [0x0201, 0x0403]),
    ],
)
def test_lz4_sizes_in_either_byte_order(encoding, size, expected):
    entry = {"type": "uint16", "encoding": encoding, "compression": "lz4"}
    assert value(entry | {"shape": [2]}, size + LITERALS).tolist() == expected
    assert value(entry, size + LITERALS).tolist() == expected


def test_lz4_is_written_with_the_size_in_the_channels_order():
    array = np.array([0x0201, 0x0403], "<u2")
    frames = encode(1, 1, {"A": array, "B": array.astype(">u2")}, compression="lz4")
    assert bytes(frames[2]).hex(" ", -4) == "04000000 40010203 04"
    assert bytes(frames[4]).hex(" ", -4) == "00000004 40020104 03"


BITSHUFFLED = "0000000000000008 00002000 00000009 80"
"""Prefix: 8 bytes, blocks of 8192; block: 9 bytes of LZ4, 8 literals."""


def test_bitshuffle_by_hand():
    entry = {"type": "uint8", "shape": [8], "compression": "bitshuffle_lz4"}
    assert value(entry, BITSHUFFLED + ONE_IN_EIGHT.hex()).tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    frames = encode(1, 1, {"A": np.array([1] + [0] * 7, "u1")}, compression="bitshuffle_lz4")
    prefix = bytes(frames[2])[:12]
    assert prefix.hex() == "000000000000000800002000"
    got = value(entry, bytes(frames[2]).hex())
    assert got.tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert not got.flags.writeable  # every reader of the message gets this array


def test_bitshuffle_leaves_what_is_no_multiple_of_eight_as_it_is():
    entry = {"type": "uint8", "shape": [3], "compression": "bitshuffle_lz4"}
    assert value(entry, "0000000000000003 00002000 010203").tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("kind", "block"),
    [("uint8", 8192), ("uint16", 8192), ("uint32", 8192), ("float64", 8192)],
)
def test_bitshuffle_blocks_are_8192_bytes(kind, block):
    frames = encode(1, 1, {"A": np.ones(5000, kind)}, compression="bitshuffle_lz4")
    assert int.from_bytes(bytes(frames[2])[8:12], "big") == block
    assert int.from_bytes(bytes(frames[2])[:8], "big") == 5000 * np.dtype(kind).itemsize


def test_size_zero_is_none():
    entry = {"type": "uint8", "compression": "bitshuffle_lz4"}
    assert value(entry, "0000000000000000 00002000") is None
    assert value(entry | {"shape": [0]}, "0000000000000000 00002000") is None
    assert value({"type": "uint8", "compression": "lz4"}, "00000000") is None
    assert Decoder().decode(encode(1, 1, {"A": np.zeros(0)})).value("A") is None


@pytest.mark.parametrize("compression", ["none", "lz4", "bitshuffle_lz4"])
def test_data_headers_compressed_and_not(compression):
    encoder = Encoder(header_compression=compression)
    frames = encoder.encode(5, TIME_NS, {"A": 1, "B": "x"})
    main = json.loads(bytes(frames[0]))
    assert main == {
        "htype": "bsr_m-1.1",
        "pulse_id": 5,
        "hash": hashlib.md5(bytes(frames[1])).hexdigest(),
        "global_timestamp": {"sec": 1700000000, "ns": 123456789},
        **({"dh_compression": compression} if compression != "none" else {}),
    }
    got = Decoder().decode(frames)
    assert (got.value("A"), got.value("B"), got.time_ns) == (1, "x", TIME_NS)


def test_data_header_with_an_lz4_size_written_big_endian():
    header = b'{"channels": []}'
    block = bytes([0xF0, 1]) + header
    for order in ("little", "big"):
        packed = len(header).to_bytes(4, order) + block
        got = Decoder().decode(message([], data_header=packed, dh_compression="lz4"))
        assert got.channels == {}


def test_times():
    decode = Decoder().decode
    assert decode(message([])).time_ns == TIME_NS
    assert decode(message([], global_timestamp={"epoch": 3, "ns": 4})).time_ns == 3_000_000_004
    assert decode(message([], global_timestamp={"sec": 3})).time_ns == 3_000_000_000
    limit = {"sec": 9_223_372_036, "ns": 854_775_807}  # of 64 bits
    assert decode(message([], global_timestamp=limit)).time_ns == 2**63 - 1
    limit["ns"] += 1
    assert decode(message([], global_timestamp=limit)).time_ns is None
    wrong = ({"ns": 1}, {"sec": "1", "ns": 2}, {"sec": 10**30, "ns": 0}, {"sec": True})
    for absent in (None, {}, 17, *wrong):
        assert decode(message([], global_timestamp=absent)).time_ns is None
    frames = message([])
    main = json.loads(frames[0])
    del main["global_timestamp"]
    assert decode([json.dumps(main).encode(), frames[1]]).time_ns is None
    main = json.loads(bytes(encode(1, None, {"A": 1})[0]))
    assert "global_timestamp" not in main


def test_channel_times():
    entries = [{"name": name, "type": "uint8"} for name in "ABC"]
    entries[1]["encoding"] = "big"
    got = Decoder().decode(message(entries, b"1", STAMP, b"1", BIG_STAMP, b"1", b""))
    assert [got.channel_time_ns(name) for name in "ABC"] == [TIME_NS, TIME_NS, None]
    assert got.value("C") == ord("1")


def test_missing_values_and_frames():
    entries = [{"name": name, "type": "uint8", "shape": [1]} for name in "ABCD"]
    got = Decoder().decode(message(entries, b"", b"", b"\x02", STAMP, b"\x03"))
    assert [got.value(name) for name in "ABCD"] == [None, 2, 3, None]
    surplus = message(entries[:1], b"\x01", STAMP, b"more", b"and more")
    assert Decoder().decode(surplus).value("A") == 1


def test_a_lost_frame_does_not_shift_values_into_other_channels():
    entries = [
        {"name": "A", "type": "float64", "shape": [2]},
        {"name": "B", "type": "float64", "shape": [3]},
    ]
    a, b = np.arange(2.0).tobytes(), np.arange(3.0).tobytes()
    # The value of A is lost: its timestamp, 16 bytes too, stands in its place.
    got = Decoder().decode(message(entries, STAMP, b, STAMP))
    assert (got.value("A"), got.value("B")) == (None, None)
    assert (got.raw("A").value, got.raw("A").timestamp) == (b"", b"")
    assert Decoder().decode(message(entries, a, STAMP, b, STAMP)).value("A").tolist() == [0, 1]


@pytest.mark.parametrize(
    "entry",
    [
        {"type": "float128"},
        {"type": 7},
        {"compression": "zstd"},
        {"compression": 3},
        {"encoding": "middle"},
        {"shape": [2]},
        {"shape": [-1]},
        {"shape": ["x"]},
        {"shape": {"x": 1}},
        {"shape": [1 << 40]},
        {"shape": [1] * 40},
        {"shape": [0.5]},
    ],
)
def test_an_unreadable_channel_is_none_and_the_rest_goes_on(entry):
    entries = [{"name": "A", **entry}, {"name": "B", "type": "uint8"}]
    got = Decoder().decode(message(entries, bytes(8), STAMP, b"\x05", STAMP))
    assert (got.value("A"), got.value("B")) == (None, 5)


def test_a_channel_that_declares_more_than_the_limit_is_not_decoded():
    for size, is_readable in ((VALUE_BYTES_MAX, True), (VALUE_BYTES_MAX + 1, False)):
        channel = parse_channel({"name": "A", "type": "uint8", "shape": [size]}, 2)
        assert (not channel.trouble) is is_readable


def test_unknown_keys_and_nameless_channels():
    entries = [{"type": "uint8"}, {"name": "B", "type": "uint8", "color": "red", "modulo": 4.0}]
    got = Decoder().decode(message(entries, b"\x01", STAMP, b"\x02", STAMP, extra=[1]))
    assert list(got.channels) == ["B"]
    assert got.value("B") == 2
    assert got.channels["B"].modulo == 4
    with pytest.raises(KeyError):
        got.value("A")


@pytest.mark.parametrize("header", [b"{}", b'{"channels": []}', b'{"channels": null}'])
def test_no_channels_is_an_empty_message(header):
    assert Decoder().decode(message([], data_header=header)).channels == {}


def test_the_data_header_is_parsed_once_per_hash():
    decoder = Decoder()
    frames = message([{"name": "A", "type": "uint8"}], b"\x01", STAMP)
    first = decoder.decode(frames)
    again = decoder.decode([frames[0], b"not looked at", b"\x02", STAMP])
    assert first.hash == again.hash
    assert again.value("A") == 2
    other = message([{"name": "B", "type": "uint8"}], b"\x03", STAMP)
    assert decoder.decode(other).hash != first.hash
    assert decoder.decode(frames).value("A") == 1
    # Without a hash there is nothing to remember it by.
    for name in "CD":
        frames = message([{"name": name, "type": "uint8"}], b"\x01", STAMP, hash=None)
        assert (got := decoder.decode(frames)).value(name) == 1
        assert got.hash == ""


def test_the_newest_data_headers_are_remembered():
    decoder = Decoder()
    for number in range(3 * HEADERS_KEPT):
        frames = message([{"name": f"A{number}", "type": "uint8"}], b"\x01", STAMP)
        decoder.decode(frames)
    assert len(decoder._data_headers) == HEADERS_KEPT
    again = decoder.decode([frames[0], b"not looked at", *frames[2:]])
    assert list(again.channels) == [f"A{number}"]


def test_headless_messages_are_told_from_garbage():
    frames = message([{"name": "A", "type": "uint8"}], b"\x01", STAMP)
    with pytest.raises(HeadlessError, match="no pulse_id"):
        Decoder().decode(frames[1:])
    for broken in (
        [],
        frames[2:],
        frames[:1],
        [b""],
        [b"[]", frames[1]],
        [b"\xff\xfe", frames[1]],
        [frames[0], b"{"],
        [frames[0], b""],
        [frames[0], b'{"channels": 3}'],
        message([], pulse_id="7"),
        message([], pulse_id=-1),
        message([], pulse_id=2**63),
        message([], pulse_id=True),
        message([], pulse_id=7.5),
        message([], dh_compression="gzip"),
        message([], data_header=b"", dh_compression="lz4"),
        message([], data_header=b"1234567", dh_compression="bitshuffle_lz4"),
    ):
        with pytest.raises(DataError) as error:
            Decoder().decode(broken)
        assert not isinstance(error.value, HeadlessError)


def test_a_pulse_id_may_be_written_with_a_decimal_point():
    pulse_id = Decoder().decode(message([], pulse_id=10000000001.0)).pulse_id
    assert (pulse_id, type(pulse_id)) == (10000000001, int)


def test_python_values():
    values = {"f": 1.5, "i": -3, "b": True, "s": "x", "n": None, "l": [1, 2], "g": np.float32(2)}
    frames = encode(1, 1, values)
    entries = {entry["name"]: entry for entry in json.loads(bytes(frames[1]))["channels"]}
    assert [entries[name]["type"] for name in values] == [
        "float64", "int64", "bool", "string", "float64", "int64", "float32",
    ]  # fmt: skip
    assert entries["n"]["shape"] == [1]
    assert (bytes(frames[10]), bytes(frames[11])) == (b"", b"")
    got = Decoder().decode(frames)
    assert got.value("n") is None
    assert {name: got.value(name) for name in "fibsg"} == {name: values[name] for name in "fibsg"}
    assert got.value("l").tolist() == [1, 2]


@pytest.mark.parametrize("bad", [object(), 1j, b"bytes", [None], [[1], [1, 2]], 2**70, "\ud800"])
def test_values_that_bsread_does_not_have(bad):
    with pytest.raises(ConfigError, match="A"):
        encode(1, 1, {"A": bad})


@pytest.mark.parametrize("compression", ["none", "bitshuffle_lz4"])
def test_a_missing_value_can_keep_the_data_header_as_it_is(compression):
    encoder = Encoder(compression)
    first = encoder.encode(1, 1, {"A": ChannelValue(np.zeros((2, 3), "u4"), modulo=2, offset=1)})
    hole = ChannelValue(None, type="uint32", shape=(2, 3), modulo=2, offset=1)
    second = encoder.encode(2, 1, {"A": hole})
    assert bytes(first[1]) == bytes(second[1])
    decoder = Decoder()
    before = decoder.decode(first)
    got = decoder.decode(second)
    assert got.hash == before.hash
    assert got.value("A") is None
    assert (got.channels["A"].modulo, got.channels["A"].offset) == (2, 1)
    scalar = encoder.encode(3, 1, {"A": 1.5})
    assert bytes(scalar[1]) == bytes(encoder.encode(4, 1, {"A": ChannelValue(None)})[1])
    single = encoder.encode(5, 1, {"A": np.ones(1)})
    assert bytes(single[1]) == bytes(scalar[1])


def test_forwarding_sends_the_same_bytes():
    entry = {"name": "A", "type": "uint16", "shape": [2], "encoding": "big", "precision": 3}
    got = Decoder().decode(message([entry], b"\x00\x01\x00\x02", BIG_STAMP))
    frames = encode(7, 1, {"A": got.raw("A"), "B": got.raw("A"), "C": 1})
    assert frames[2] is got.frames[2]
    assert frames[3] is got.frames[3]
    entries = json.loads(bytes(frames[1]))["channels"]
    assert entries[0] == entry
    assert entries[1] == entry | {"name": "B"}
    assert Decoder().decode(frames).value("B").tolist() == [1, 2]


def test_unknown_compressions_are_refused_before_anything_is_sent():
    with pytest.raises(ConfigError, match="compression"):
        Encoder("zip")
    with pytest.raises(ConfigError, match="compression"):
        Encoder(header_compression="zip")


def test_a_header_without_hash_is_parsed_and_logged_once(caplog):
    decoder = Decoder()
    for header in (b"{}", b"{}", b'{"channels": [{}]}', b'{"channels": [{}]}'):
        assert decoder.decode(message([], data_header=header, hash=None)).channels == {}
    assert [record.getMessage().partition("bsread: ")[2] for record in caplog.records] == [
        "pulse 7: a data header without channels",
        "channel 0 of the data header has no name",
        "pulse 7: a data header without channels",
    ]


@pytest.mark.parametrize("more", [{}, {"hash": None}])
def test_a_message_of_a_header_that_never_came(more):
    decoder = Decoder()
    decoder.decode(message([], data_header=b"{}", hash=None))
    with pytest.raises(DataError, match="no data header, and no earlier message had one with its"):
        decoder.decode(message([], **more)[:1])
    assert not decoder._data_headers  # one without a hash takes no place
