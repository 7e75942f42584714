"""Motion JPEG: every picture, in whatever way the stream is broken."""

import math

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st

from skywright.wire.axis_mjpeg import JpegEnd, MixedReplace, Part, encode_part


def jpeg(value: int, size: int = 32) -> bytes:
    noise = np.random.default_rng(value).integers(0, 255, (size, size + 8, 1), np.uint8)
    return simplejpeg.encode_jpeg(noise, colorspace="GRAY", quality=60)


A, B, C = jpeg(1), jpeg(2), jpeg(3, 48)


def part(data: bytes, *headers: str, delimiter: str = "--myboundary") -> bytes:
    lines = [delimiter, *(headers or ("Content-Type: image/jpeg", f"Content-Length: {len(data)}"))]
    return "\r\n".join([*lines, "", ""]).encode() + data + b"\r\n"


def parts_of(*pieces: bytes, boundary: str = "myboundary", **limits: int) -> list[Part]:
    stream = MixedReplace(boundary, **limits)
    return [each for piece in pieces for each in stream.receive(piece)]


def pictures(*pieces: bytes, boundary: str = "myboundary") -> list[bytes]:
    return [each.data for each in parts_of(*pieces, boundary=boundary)]


def test_as_cameras_send_it() -> None:
    found = parts_of(part(A) + part(B) + part(C))
    assert [(each.data, each.trouble) for each in found] == [(A, ""), (B, ""), (C, "")]
    assert math.isnan(found[0].sender_time)


def test_own_parts_bring_their_time() -> None:
    (found,) = parts_of(encode_part(A, 1234.5))
    assert (found.data, found.sender_time) == (A, 1234.5)


@pytest.mark.parametrize(
    ("stream", "boundary"),
    [
        (part(A, "Content-Type: image/jpeg") + part(B, "Content-Type: image/jpeg"), "myboundary"),
        (part(A, delimiter="--other") + part(B, delimiter="--other"), "myboundary"),
        (part(A) + part(B), "--myboundary"),
        (part(A, delimiter="----myboundary") + part(B, delimiter="----myboundary"), "--myboundary"),
        (part(A).replace(b"\r\n", b"\n", 3) + part(B), "myboundary"),
        (b"\r\n" + part(A) + b"\r\n\r\n" + part(B), "myboundary"),
        (b"hello, camera 7\r\n" + part(A) + part(B), "myboundary"),
        (part(A, "Content-Length: 7") + part(B, "Content-Length: 7"), "myboundary"),
        (part(A, "Content-Length: 999999") + part(B, "Content-Length: 999999"), "myboundary"),
        (part(A, "Content-Length: many") + part(B, "Content-Length: -3"), "myboundary"),
        (b"--myboundary\r\n\r\n" + A + b"\r\n--myboundary\r\n\r\n" + B, "myboundary"),
        (b"--myboundary\r\nContent-Type: image/jpeg\r\n" + A + part(B), "myboundary"),
        (A + B, "myboundary"),
        (part(A)[:-2] + part(B)[2:], "myboundary"),
        (part(A) + b"#" * 5000 + part(B), "myboundary"),
        (part(A) + b"--myboundary--\r\n" + part(B), "myboundary"),
    ],
    ids=[
        *("no length", "other boundary", "dashes announced", "dashes sent", "line feeds", "blanks"),
        *("prologue", "length too short", "length too long", "no number", "no headers"),
        *("no blank line", "no boundaries", "half a boundary", "garbage between", "closed early"),
    ],
)
def test_broken_streams_lose_no_picture(stream: bytes, boundary: str) -> None:
    assert pictures(stream, boundary=boundary) == [A, B]
    single = [stream[i : i + 1] for i in range(len(stream))]
    assert pictures(*single, boundary=boundary) == [A, B]


@pytest.mark.parametrize("between", [b"\r\n", b"\n", b"garbage"])
@pytest.mark.parametrize("with_length", [True, False])
def test_bytes_between_the_headers_and_a_picture_are_left_out(
    between: bytes, with_length: bool
) -> None:
    def odd(data: bytes) -> bytes:
        length = f"Content-Length: {len(between + data)}"
        return part(between + data, "Content-Type: image/jpeg", *([length] * with_length))

    stream = odd(A) + odd(B) + part(C)
    for received in ([stream], [stream[i : i + 1] for i in range(len(stream))]):
        found = parts_of(*received)
        assert [each.data for each in found] == [A, B, C]
        assert not any(each.trouble for each in found)


def test_picture_is_there_before_the_next_begins() -> None:
    stream = MixedReplace()
    head = part(A, "Content-Type: image/jpeg")
    assert stream.receive(head[:-3]) == []  # half of the picture's end is missing
    (found,) = stream.receive(head[-3:-2])
    assert found.data == A


def test_picture_cut_off_is_said_and_the_next_one_whole() -> None:
    half = A[: len(A) // 2]
    found = parts_of(part(half, "Content-Type: image/jpeg") + part(B), part(C))
    assert [each.data for each in found] == [half, B, C]
    assert [each.trouble for each in found] == ["the picture is cut off", "", ""]
    found = parts_of(half + B)
    assert [each.data for each in found] == [half, B]
    assert found[0].trouble


def test_what_fills_a_file_up_to_its_length_is_left_out() -> None:
    assert pictures(part(A + bytes(20)) + part(B)) == [A, B]


def test_thumbnail_does_not_end_a_picture() -> None:
    # APP1 with a whole JPEG in it, as cameras with EXIF write it.
    segment = b"\xff\xe1" + (len(B) + 2).to_bytes(2, "big") + B
    outer = A[:2] + segment + A[2:]
    assert pictures(part(outer, "Content-Type: image/jpeg") + part(C)) == [outer, C]
    assert JpegEnd().find(bytearray(outer + b"rest")) == len(outer)


def test_other_kinds_of_pictures_end_where_their_length_or_the_boundary_says() -> None:
    png = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
    typed = part(png, "Content-Type: image/png", f"Content-Length: {len(png)}")
    assert pictures(typed + part(png, "Content-Type: image/png") + part(A)) == [png, png, A]


def test_parts_that_are_no_pictures_are_left_out() -> None:
    event = part(b"motion=1", "Content-Type: text/plain", "Content-Length: 8")
    sound = part(bytes(range(100)), "Content-Type: audio/basic")
    wrong = part(C, "Content-Type: text/plain")
    assert pictures(event + part(A) + sound + part(B) + wrong) == [A, B, C]
    png = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
    assert pictures(part(png, "Content-Type: text/plain") + part(A)) == [png, A]


def test_too_long_a_picture_is_dropped_and_said() -> None:
    endless = part(A[:-2] + bytes(3000), "Content-Type: image/jpeg")
    found = parts_of(endless[:-2], part(B), bytes_max=2500)
    assert found[0].trouble == "more than 2500 bytes"
    assert found[-1].data == B


def test_blanks_before_the_first_delimiter_are_not_kept() -> None:
    stream = MixedReplace()
    for _ in range(100):
        assert stream.receive(b" \r\n" * 1000) == []
    assert len(stream._buffer) < 10_000
    assert [each.data for each in stream.receive(part(A))] == [A]


def test_end_in_the_middle_is_told() -> None:
    stream = MixedReplace()
    stream.receive(part(A)[:-100])
    assert stream.end() == len(A) - 98
    assert stream.end() == 0


def test_an_end_within_a_text_cuts_no_picture_off() -> None:
    stream = MixedReplace()
    stream.receive(part(A) + part(b"motion=1", "Content-Type: text/plain")[:-4])
    assert stream.end() == 0


@pytest.mark.parametrize(
    "between", [b"-" * 1_000_000, b"\xff\xd8\xff" * 30_000, A[:-2] + b"\xff" * 300_000]
)
def test_the_time_for_any_bytes_grows_with_their_number(between: bytes) -> None:
    """A search to the end of the piece from each of them would take minutes, or hours."""
    found = pictures(part(A) + between, b"\n" + part(B))
    assert (found[0], found[-1]) == (A, B)


def test_a_time_that_is_none_is_not_taken() -> None:
    stream = MixedReplace()
    (found,) = stream.receive(part(A, f"X-Timestamp: {10**400}"))
    assert math.isnan(found.sender_time)


@settings(deadline=None)
@given(data=st.data())
def test_any_division_into_pieces_gives_the_same(data: st.DataObject) -> None:
    stream = (
        part(A)
        + part(B, "Content-Type: image/jpeg")
        + part(C, "Content-Length: 9")
        + part(A[:300], "Content-Type: image/jpeg")
        + part(B)
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=30)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert pictures(*pieces) == [A, B, C, A[:300], B]


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([part(A), A[:99], b"--", b"\n"])))
)
def test_no_bytes_raise(pieces: list[bytes]) -> None:
    stream = MixedReplace()
    for piece in pieces:
        stream.receive(piece)
    stream.end()
