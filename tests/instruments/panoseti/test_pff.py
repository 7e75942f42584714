import errno
import json
import os
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.pano_files import START_S, file_name, made_frames, numbers_at

from skywright.errors import DataError
from skywright.instruments.panoseti.clock import (
    NS,
    NSEC,
    NUM,
    SEC,
    TAI,
    USEC,
    Flag,
    board_ns,
    estimate_offset,
    in_step,
)
from skywright.instruments.panoseti.frames import QUADRANTS, make_frames
from skywright.instruments.panoseti.pff import PffFile, read_pff
from skywright.instruments.panoseti.pff_writer import FrameEncoder, PffWriter, encode_frames
from skywright.instruments.panoseti.products import PRODUCTS, parse_file_name, start_token

RUN = "obs_Lick.start_2024-07-25T04:34:06Z.runtype_sci-data.pffd"


def write(path, product, data):
    name = path / file_name(product)
    name.write_bytes(data)
    return name


@pytest.mark.parametrize("product", PRODUCTS)
def test_written_frames_are_read_back(product, tmp_path):
    frames = made_frames(product, 57)
    path = write(tmp_path, product, encode_frames(frames))
    kind = PRODUCTS[product]
    sizes = {"ph256": 636, "ph1024": 2540, "img16": 2540, "img8": 1516}
    assert path.stat().st_size == 57 * sizes[product]
    read = read_pff(path)
    np.testing.assert_array_equal(read.image, frames.image)
    np.testing.assert_array_equal(read.numbers, frames.numbers)
    np.testing.assert_array_equal(read.time_ns, START_S * NS + 1_000_000 * np.arange(1, 58))
    assert read.image.dtype == np.dtype(kind.dtype)
    assert not read.flags.any()


@pytest.mark.parametrize(
    ("file", "count", "shape"),
    [
        ("start_2024-07-25T04:34:46Z.dp_img16.bpp_2.module_1.seqno_0.pff", 250, (32, 32)),
        ("start_2024-07-25T04:34:46Z.dp_ph256.bpp_2.module_1.seqno_0.pff", 500, (16, 16)),
        ("start_2024-07-25T04:39:00Z.dp_ph256.bpp_2.module_1.seqno_1.pff", 300, (16, 16)),
        ("start_2024-07-25T04:34:46Z.dp_img8.bpp_1.module_1.seqno_0.pff", 0, (32, 32)),
        ("start_2024-07-25T04:34:46Z.dp_ph1024.bpp_2.module_1.seqno_0.pff", 0, (32, 32)),
    ],
)
def test_real_files_of_lick_decode_wholly(test_data, file, count, shape):
    path = test_data / "panoseti/data_dir/module_1" / RUN / file
    frames = read_pff(path)
    assert frames.image.shape == (count, *shape)
    assert encode_frames(frames) == path.read_bytes()
    backward = np.diff(frames.time_ns, prepend=frames.time_ns[:1]) < 0
    np.testing.assert_array_equal(frames.flags, np.where(backward, Flag.BACKWARD, 0))
    with PffFile(path) as opened:  # a frame has the flag in whatever pieces the file is read
        pieces = [opened.read(first, first + 7).flags for first in range(0, count, 7)]
    np.testing.assert_array_equal(np.concatenate([frames.flags[:0], *pieces]), frames.flags)


@pytest.mark.parametrize("without", [1, 40])
def test_a_step_backward_behind_frames_without_a_time_is_flagged(without, tmp_path):
    frames = made_frames("img16", without + 4)
    frames.numbers[2 : 2 + without] = 0
    frames.numbers[2 + without] = frames.numbers[0]
    frames.numbers[2 + without, :, NSEC] += 1
    path = write(tmp_path, "img16", encode_frames(frames))
    backward = [2 + without]
    flags = read_pff(path).flags
    assert np.flatnonzero(flags & Flag.BACKWARD).tolist() == backward
    assert np.flatnonzero(flags & Flag.EMPTY).tolist() == list(range(2, 2 + without))
    with PffFile(path) as file:  # in whatever pieces and order the file is read
        numbers = list(range(len(file)))
        for order in (numbers, numbers[::-1], numbers[::2]):
            found = {n: file.read(n, n + 1).flags[0] for n in order}
            assert [n for n in sorted(found) if found[n] & Flag.BACKWARD] == [
                n for n in backward if n in order
            ]


def test_real_times_are_exact(test_data):
    directory = test_data / "panoseti/data_dir/module_1" / RUN
    movie = read_pff(directory / "start_2024-07-25T04:34:46Z.dp_img16.bpp_2.module_1.seqno_0.pff")
    assert movie.time_ns[0] == 1721882092691007488
    assert movie.header(0)["quabo_0"]["pkt_num"] == 37905
    assert np.ptp(movie.numbers[:, :, NSEC], axis=1).max() <= 8
    assert set(np.diff(movie.time_ns)) <= {999996, 1_000_000, 1_000_004}
    ph = read_pff(directory / "start_2024-07-25T04:34:46Z.dp_ph256.bpp_2.module_1.seqno_0.pff")
    assert (ph.quabo[0], ph.time_ns[0]) == (0, 1721882094288621037)


def test_real_files_of_palomar_are_flagged_and_masked(test_data):
    directory = next((test_data / "panoseti/data_dir/module_254").iterdir())
    ph = read_pff(next(directory.glob("*ph256*")))
    assert len(ph) == 250
    assert (ph.flags & Flag.UNLOCKED).all()
    arrival = ph.numbers[:, 0]
    np.testing.assert_array_equal(ph.time_ns, arrival[:, SEC] * NS + arrival[:, USEC] * 1000)
    assert estimate_offset(ph.numbers[:, 0]).seconds == 60
    events = read_pff(next(directory.glob("*ph1024*")))
    boards = events.present.sum(axis=1)
    assert (len(events), (boards == 1).sum(), (boards == 2).sum()) == (242, 234, 8)
    masked = events.masked()
    assert (masked.count(axis=(1, 2)) == 256 * boards).all()


@pytest.mark.parametrize("digits", [{3}, {0}, {0, 1, 2, 5}, {9}, set(range(10))])
def test_frames_with_a_longer_number_are_found(digits, tmp_path):
    frames = made_frames("ph256", 10)
    parts = []
    for number in range(10):
        one = encode_frames(frames[number : number + 1])
        if number in digits:
            text = b'"pkt_nsec": ' + f"{frames.numbers[number, 0, NSEC]:>9}".encode()
            assert text in one
            one = one.replace(text, b'"pkt_nsec": 1734567890')
        parts.append(one)
    path = write(tmp_path, "ph256", b"".join(parts))
    with PffFile(path) as file:
        read = file.read()
        assert len(file) == 10
        np.testing.assert_array_equal(read.image, frames.image)
        long = np.isin(np.arange(10), list(digits))
        np.testing.assert_array_equal((read.flags & Flag.UNLOCKED) > 0, long)
        assert (read.numbers[long, 0, NSEC] == 1734567890).all()
        assert (file.read(-1).image[0] == frames.image[9]).all()
        assert (file.read(4, 5).image[0] == frames.image[4]).all()


@pytest.mark.parametrize("end", [b"{", b'{ "quabo_num": '])
def test_a_frame_that_is_cut_at_a_brace_is_whole_when_the_file_has_grown(end, tmp_path):
    frames = made_frames("ph256", 4)
    image = np.frombuffer((end * 512)[-512:], np.int16)
    frames.image[2] = image.reshape(16, 16)
    data = encode_frames(frames)
    long = data.replace(f"{frames.numbers[0, 0, NSEC]:>9}".encode(), b"1734567890", 1)
    assert len(long) == len(data) + 1
    begin = long.index(image.tobytes())
    cut = long.index(end, begin + 200) + len(end)  # inside the image
    path = write(tmp_path, "ph256", long[:cut])
    with PffFile(path) as file:
        assert len(file) == 2
        path.write_bytes(long)
        assert len(file) == 4
        np.testing.assert_array_equal(file.read().image, frames.image)
        assert (file.skipped, file.torn) == (0, 0)


@pytest.mark.parametrize("product", list(PRODUCTS))
def test_a_file_that_is_cut_at_its_beginning_has_its_whole_frames(product, tmp_path):
    frames = made_frames(product, 6)
    data = encode_frames(frames)
    length = len(data) // 6
    with PffFile(write(tmp_path, product, data[length // 2 :])) as file:
        read = file.read()
        np.testing.assert_array_equal(read.image, frames.image[1:])
        np.testing.assert_array_equal(read.time_ns, frames.time_ns[1:])
        assert file.skipped == length - length // 2


def test_a_frame_without_a_time_is_not_earlier_than_the_one_before(tmp_path):
    frames = made_frames("ph1024", 5)
    frames.numbers[1] = 0
    frames.numbers[3, :, SEC] -= 40
    frames.numbers[3, :, TAI] = (frames.numbers[3, :, TAI] - 40) % 1024
    path = write(tmp_path, "ph1024", encode_frames(frames))
    flags = [0, Flag.EMPTY | Flag.MISSING_QUABO, 0, Flag.BACKWARD, 0]
    assert read_pff(path).flags.tolist() == flags
    with PffFile(path) as file:  # the first of a piece follows the one before it
        assert [file.read(row, row + 1).flags[0] for row in range(5)] == flags


def test_a_file_without_frames_is_empty(tmp_path):
    with PffFile(write(tmp_path, "img8", b"")) as file:
        assert (len(file), len(file.read())) == (0, 0)


def test_garbage_and_cut_frames_are_skipped_and_counted(tmp_path):
    frames = made_frames("img16", 6)
    one = [encode_frames(frames[n : n + 1]) for n in range(6)]
    data = one[0] + one[1] + b"{garbage}" * 30 + one[2] + one[3][:1000] + one[4] + one[5]
    with PffFile(write(tmp_path, "img16", data)) as file:
        read = file.read()
        np.testing.assert_array_equal(read.image, frames.image[[0, 1, 2, 4, 5]])
        assert (file.skipped, file.torn) == (270 + 1000, 1)


@settings(max_examples=60, deadline=None)
@given(
    cut=st.integers(0, 636 * 9),
    junk=st.binary(max_size=50),
    product=st.sampled_from(list(PRODUCTS)),
    at=st.integers(0, 4),
)
def test_any_cut_and_any_junk_leave_the_other_frames(tmp_path_factory, cut, junk, product, at):
    frames = made_frames(product, 5)
    one = [encode_frames(frames[n : n + 1]) for n in range(5)]
    data = b"".join(one[:at]) + (junk if at else b"") + b"".join(one[at:])
    cut = min(cut, len(data))
    path = write(tmp_path_factory.mktemp("pff"), product, data[:cut])
    with PffFile(path) as file:
        count = len(file)
        read = file.read()
    length, skip = len(one[0]), len(junk) if at else 0
    whole = [n for n in range(5) if cut >= (n + 1) * length + (skip if n >= at else 0)]
    assert count == len(read) == len(whole)
    np.testing.assert_array_equal(read.image, frames.image[whole])


@pytest.mark.parametrize("kept", [1, 300, 620])
@pytest.mark.parametrize("product", list(PRODUCTS))
def test_a_cut_frame_of_a_growing_file_is_no_frame(product, kept, tmp_path):
    frames = made_frames(product, 9)
    one = [encode_frames(frames[n : n + 1]) for n in range(9)]
    data = b"".join([*one[:4], one[4][:kept], *one[5:]])
    path = write(tmp_path, product, b"")
    seen = []
    with PffFile(path) as file, path.open("ab", buffering=0) as out:
        for begin in range(0, len(data), 97):
            out.write(data[begin : begin + 97])
            if len(file) > len(seen):
                seen += list(file.read(len(seen)).numbers[:, 0, 0])
        assert seen == [0, 1, 2, 3, 5, 6, 7, 8]
        header = len(one[4]) - PRODUCTS[product].image_bytes
        assert (file.torn, file.skipped) == (int(kept > header), kept)


def test_a_cut_frame_before_one_cut_in_its_header_costs_no_later_one(tmp_path):
    one = [encode_frames(made_frames("img16", 9)[n : n + 1]) for n in range(9)]
    data = b"".join([*one[:4], one[4][:-7], one[5][:251], *one[6:]])
    with PffFile(write(tmp_path, "img16", data)) as file:
        read = [file.read(n, n + 1) for n in range(len(file))]
    assert [int(each.numbers[0, 0, 0]) for each in read][-3:] == [6, 7, 8]


@pytest.mark.parametrize(("kept", "excess"), [(60, 0), (60, 1), (60, 40), (4, 1), (4, 3), (1, 40)])
@pytest.mark.parametrize("product", list(PRODUCTS))
def test_a_cut_frame_that_is_filled_up_by_the_header_of_another_one_is_no_frame(
    product, kept, excess, tmp_path
):
    """The image of frame 4 seems to end with `kept` bytes of the cut header of frame 5."""
    frames = made_frames(product, 9)
    one = [encode_frames(frames[n : n + 1]) for n in range(9)]
    data = b"".join([*one[:4], one[4][:-kept], one[5][: kept + excess], *one[6:]])
    whole = [0, 1, 2, 3, 6, 7, 8]
    path = write(tmp_path, product, data)
    with PffFile(path) as file:
        read = file.read()
        assert len(file) == 7
        np.testing.assert_array_equal(read.image, frames.image[whole])
        np.testing.assert_array_equal(read.numbers, frames.numbers[whole])
        assert file.torn == 1
        assert file.skipped == len(data) - 7 * len(one[0])


@pytest.mark.parametrize("product", ["img16", "ph256"])
def test_a_growing_file_gives_its_newest_complete_frame(product, tmp_path):
    frames = made_frames(product, 40)
    data = encode_frames(frames)
    path = write(tmp_path, product, b"")
    length = len(data) // 40
    with PffFile(path) as file, path.open("ab", buffering=0) as out:
        assert len(file) == 0
        for end in range(0, len(data), 777):
            out.write(data[end : end + 777])
            there = min(end + 777, len(data)) // length
            assert len(file) == there
            if there:
                newest = file.read(-1)
                assert newest.number[0] == there - 1
                assert (newest.image[0] == frames.image[there - 1]).all()


def test_other_padding_and_field_order_are_read(tmp_path):
    image = np.arange(256, dtype="<i2")
    header = (
        b'{"tv_usec":%d,"quabo_num":2,"pkt_tai":%5d,"pkt_num":7,"tv_sec":%d,"pkt_nsec":%12d }\n\n*'
    )
    tai = (START_S + 37) % 1024
    data = b"".join(header % (300_000 + n, tai, START_S, 5 + n) + image.tobytes() for n in range(3))
    read = read_pff(write(tmp_path, "ph256", data))
    assert list(read.time_ns) == [START_S * NS + 5 + n for n in range(3)]
    assert list(read.quabo) == [2, 2, 2]


def compact(boards):
    """As Python's json writes a header: numbers without padding, so frames differ in length."""
    return json.dumps(boards, separators=(",", ":"))


def one_line(boards):
    """Padded numbers on one line, with a field that nobody asked for, the last board first."""
    parts = []
    for name, board in reversed(boards.items()):
        numbers = ", ".join(f'"{key}": {value:>12}' for key, value in board.items())
        parts.append(f'"{name}" : {{ "temperature": 21, {numbers} }}')
    return "{" + ", ".join(parts) + "}"


def indented(boards):
    """As Python's json writes a header with an indent: without an empty line in it."""
    return json.dumps(boards, indent=4)


def with_others(boards):
    """With numbers of the same names that are of none of the four boards."""
    other = {"pkt_num": 1, "pkt_tai": 2, "pkt_nsec": 3, "tv_sec": 4, "tv_usec": 5}
    inner = {name: {**board, "before": other} for name, board in boards.items()}
    return json.dumps({**inner, "quabo_9": other, "quabo_10": other, **other})


@pytest.mark.parametrize("product", ["img8", "img16", "ph1024"])
@pytest.mark.parametrize("header", [compact, one_line, indented, with_others])
def test_whole_modules_by_other_writers_are_read(header, product, tmp_path):
    frames = made_frames(product, 12)
    frames.numbers[3, 2] = 0  # a lost packet
    frames.numbers[5:, 1, NSEC] = 1_734_567_890  # a board without lock, 10 digits
    frames.numbers[9, :, NUM] = [0, 7, 65535, 123]
    parts = []
    for number in range(12):
        boards = frames.header(number)
        assert isinstance(boards, dict)
        parts.append(header(boards).encode() + b"\n\n*" + frames.image[number].tobytes())
    path = write(tmp_path, product, b"".join(parts))
    with PffFile(path) as file:
        assert len(file) == 12
        read = file.read()
        np.testing.assert_array_equal(read.image, frames.image)
        np.testing.assert_array_equal(read.numbers, frames.numbers)
        assert (read.flags[3], read.flags[4]) == (Flag.MISSING_QUABO, 0)
        assert (file.read(-1).image[0] == frames.image[11]).all()
        assert (file.read(7, 8).numbers[0] == frames.numbers[7]).all()
        assert (file.skipped, file.torn) == (0, 0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GARBAGE" * 1000, "begins with"),
        (b"{" * 5000, "no end of a PFF header"),
        (b'{ "quabo_num": 0}\n\n*' + bytes(512), "pkt_num must be a whole number"),
        (b"{ not json }\n\n*" + bytes(512), "not JSON"),
        (
            b'{"tv_sec":1,"tv_usec":1,"pkt_tai":1,"pkt_nsec":1,"pkt_num":true,"quabo_num":0}\n\n*'
            + bytes(512),
            "written as such",
        ),
        (
            b'{"a":"}}","tv_sec":1,"tv_usec":1,"pkt_tai":1,"pkt_nsec":1,"pkt_num":1,"quabo_num":0}'
            b"\n\n*" + bytes(512),
            "written as such",
        ),
        (b'{"a":' + b"[" * 3000 + b"\n\n*" + bytes(512), "not JSON"),
    ],
)
def test_a_file_without_a_header_is_refused_by_name(data, message, tmp_path):
    path = write(tmp_path, "ph256", data)
    with pytest.raises(DataError, match=message) as caught:
        read_pff(path)
    assert path.name in str(caught.value)


def test_a_truncated_file_is_an_error_and_no_crash(tmp_path):
    path = write(tmp_path, "img16", encode_frames(made_frames("img16", 20)))
    with PffFile(path) as file:
        assert len(file) == 20
        groups = file.groups(group_bytes=2540 * 5)
        next(groups)
        os.truncate(path, 2540 * 6)
        with pytest.raises(DataError, match="truncated"):
            list(groups)


def test_seconds_are_taken_from_the_nearer_side():
    product = PRODUCTS["ph256"]
    numbers = np.zeros((6, 1, 5), np.int64)
    tai = (START_S + 37) % 1024
    # in step; the packet is of the second before; of the second after; out of step; with
    # nanoseconds that run on, and as newer software writes those
    numbers[:, 0, TAI] = [tai, (tai - 1) % 1024, (tai + 1) % 1024, (tai + 300) % 1024, tai, tai]
    numbers[:, 0, SEC] = START_S
    numbers[:, 0, NSEC] = [123, 123, 123, 123, 1_500_000_000, 999_999_999]
    numbers[:, 0, 4] = 77
    zeros = np.zeros(6, np.int64)
    frames = make_frames(product, 1, "", zeros, zeros, zeros, numbers, np.zeros((6, 16, 16), "<i2"))
    expected = [START_S * NS + 123, (START_S - 1) * NS + 123, (START_S + 1) * NS + 123]
    assert list(frames.time_ns) == [*expected, *[START_S * NS + 77_000] * 3]
    assert list(frames.flags) == [0, 0, 0, *[Flag.UNLOCKED] * 3]
    assert in_step(numbers[:, 0]).tolist() == [True] * 3 + [False] * 3


def test_the_first_board_present_dates_a_frame():
    numbers = numbers_at(PRODUCTS["ph1024"], np.array([START_S * NS + 500]))
    numbers[0, 0] = 0
    numbers[0, 1, NSEC] = 42
    zeros = np.zeros(1, np.int64)
    image = np.ones((1, 32, 32), "<i2")
    frames = make_frames(PRODUCTS["ph1024"], 1, "", zeros, zeros, zeros, numbers, image)
    assert frames.time_ns[0] == START_S * NS + 42
    assert frames.flags[0] == Flag.MISSING_QUABO
    assert frames.masked()[0][QUADRANTS[0]].mask.all()
    assert frames.masked().count() == 768


@given(seconds=st.integers(2, 1022), fraction=st.integers(0, NS - 2))
def test_the_offset_of_a_free_clock_is_estimated(seconds, fraction):
    times = START_S * NS + np.arange(50) * 137_000_003
    numbers = numbers_at(PRODUCTS["ph256"], times)[:, 0]
    free = times - fraction
    numbers[:, TAI] = (free // NS + 37 - seconds) % 1024
    numbers[:, NSEC] = free % NS
    found = estimate_offset(numbers)
    moved = board_ns(numbers, found.seconds)
    np.testing.assert_array_equal(np.diff(moved), np.diff(times))
    assert (
        abs(int((moved + found.offset_ns - times)[0]) - 300_000) < 2000
    )  # network and microseconds
    odd = numbers.copy()
    odd[7, TAI] = (odd[7, TAI] + 300) % 1024  # of another second than those before and after it
    assert np.abs(board_ns(odd, found.seconds) - times).max() < 2 * NS
    numbers[np.arange(50) % 5 < 3, NSEC] = 999_999_999  # ran beyond a second
    again = estimate_offset(numbers)
    assert again.seconds == found.seconds
    assert abs(again.offset_ns - found.offset_ns) < 2000


def test_a_clock_whose_nanoseconds_run_freely_is_not_steady(test_data):
    (path,) = test_data.glob("panoseti/data_dir/module_254/*/*dp_ph256.*.pff")
    frames = read_pff(path)
    for board in range(4):
        found = estimate_offset(frames.numbers[frames.quabo == board, 0])
        # Nanoseconds to 2^31 at random: 200 ms of them are within 0.1 s, by chance.
        assert found.seconds == 60
        assert found.steady < 0.3


def test_a_board_in_step_has_no_seconds_when_the_computer_is_late():
    numbers = numbers_at(PRODUCTS["ph256"], START_S * NS + np.arange(50) * 137_000_000)[:, 0]
    arrival = numbers[:, SEC] * NS + numbers[:, USEC] * 1000 - 400_000  # 0.1 ms before the board
    numbers[:, SEC], numbers[:, USEC] = arrival // NS, arrival % NS // 1000
    found = estimate_offset(numbers)
    assert (found.seconds, found.offset_ns) == (0, -100_000)


def test_files_roll_over_and_a_file_exceeds_the_limit_by_less_than_a_frame(tmp_path):
    frames = made_frames("img8", 100)
    writer = PffWriter(tmp_path, PRODUCTS["img8"], 3, START_S * NS, max_file_bytes=20_000)
    for first in range(0, 100, 7):
        part = frames[first : first + 7]
        writer.append(part.numbers, part.image)
    writer.close()
    paths = sorted(tmp_path.iterdir(), key=lambda path: parse_file_name(path).seqno)
    assert [parse_file_name(path).seqno for path in paths] == list(range(len(paths)))
    assert all(20_000 <= path.stat().st_size < 20_000 + 1516 for path in paths[:-1])
    images = np.concatenate([read_pff(path).image for path in paths])
    np.testing.assert_array_equal(images, frames.image)


def test_a_buffered_file_grows_in_steps_of_the_buffer(tmp_path):
    frames = made_frames("ph256", 20)
    writer = PffWriter(tmp_path, PRODUCTS["ph256"], 3, START_S * NS)
    for number in range(20):
        one = frames[number : number + 1]
        writer.append(one.numbers, one.image, one.quabo)
        assert writer.path.stat().st_size == (number + 1) * 636 // 4096 * 4096
    writer.close()
    assert writer.path.stat().st_size == 20 * 636


def test_a_full_disk_is_an_error_of_the_writer(tmp_path, monkeypatch):
    writer = PffWriter(tmp_path, PRODUCTS["ph256"], 3, START_S * NS, buffer_bytes=0)
    frames = made_frames("ph256", 1)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        writer.append(frames.numbers, frames.image, frames.quabo)
    monkeypatch.undo()
    writer.close()
    assert len(read_pff(writer.path)) == 1


def test_a_file_is_closed_also_if_the_disk_is_full(tmp_path, monkeypatch):
    frames, closed = made_frames("img16", 1), []
    writer = PffWriter(tmp_path, frames.product, 1, START_S * NS)
    writer.append(frames.numbers, frames.image)

    def full(fd, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    close = os.close
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        patch.setattr(os, "close", lambda fd: closed.append(fd) or close(fd))
        with pytest.raises(OSError, match="No space"):
            writer.close()
    assert len(closed) == 1
    writer.close()


def test_a_number_that_does_not_fit_is_refused():
    frames = made_frames("ph256", 2)
    frames.numbers[1, 0, TAI] = 10_000
    with pytest.raises(DataError, match="frame 1"):
        FrameEncoder(PRODUCTS["ph256"]).encode(frames.numbers, frames.image)


@pytest.mark.parametrize(
    "name",
    [
        "start_2024-07-25T04_34_46Z.dp_img16.bpp_2.module_1.seqno_0.debug_TRUNCATED.pff",
        "start_2024-07-25T04-34-46Z.dp_img16.bpp_2.module_1.seqno_0.pff",
        "sim.dp_img16.module_1.seqno_0.pff",
    ],
)
def test_archived_and_simulated_names_are_read(name):
    parsed = parse_file_name(name)
    assert (parsed.product.name, parsed.module, parsed.seqno) == ("img16", 1, 0)
    if parsed.start:
        assert re.split(r"\D", parsed.start) == re.split(r"\D", start_token(1721882086 * NS))


@pytest.mark.parametrize(
    "name", ["hk.pff", "start_x.dp_img99.module_1.pff", "a.dp_img16.bpp_1.module_1.seqno_0.pff",
             "a.dp_img16.bpp_2.module_x.seqno_0.pff"],
)  # fmt: skip
def test_other_names_are_refused(name):
    with pytest.raises(DataError, match=name.split(".")[0]):
        parse_file_name(name)
