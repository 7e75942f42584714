"""AXIS HTTP push: whatever a video server sends, in whatever pieces."""

import asyncio
import math
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skywright.wire.axis_body import name_with_time, time_in_name
from skywright.wire.axis_http import Cut, Event, PushConnection, Refused, Upload
from skywright.wire.axis_receiver import PushReceiver

JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 4 + b"\r\n--edge\r\n\xff\xd9"
PNG = b"\x89PNG\r\n\x1a\n" + b"rest"


def post(body: bytes, *headers: str, path: str = "/up?id=3", version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: camera", *headers]
    if not any(h.lower().startswith(("content-length", "transfer-encoding")) for h in headers):
        lines.append(f"Content-Length: {len(body)}")
    if not any(h.lower().startswith("content-type") for h in headers):
        lines.append("Content-Type: image/jpeg")
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


def form(*parts: tuple[str, bytes]) -> tuple[str, bytes]:
    body = b"".join(b"--e d\r\n" + h.encode() + b"\r\n\r\n" + data + b"\r\n" for h, data in parts)
    return 'Content-Type: multipart/form-data; boundary="e d"', body + b"--e d--\r\n"


def statuses(answer: bytes) -> list[int]:
    return [int(line.split()[1]) for line in answer.split(b"\r\n") if line.startswith(b"HTTP/")]


def talk(data: bytes, **settings: int) -> tuple[list[Event], bytes, PushConnection]:
    connection = PushConnection(**settings)
    events, answer = connection.receive(data)
    return events, answer, connection


def test_picture_comes_unchanged_and_the_connection_stays() -> None:
    events, answer, connection = talk(post(JPEG) + post(PNG, "Content-Type: image/png"))
    assert events == [Upload(JPEG), Upload(PNG)]
    assert statuses(answer) == [200, 200]
    assert b"Connection: keep-alive" in answer
    assert not connection.closing
    assert connection.receive(post(JPEG))[0] == [Upload(JPEG)]


def test_headers_of_the_next_upload_may_come_with_a_large_body() -> None:
    large = b"\xff\xd8\xff" + b"x" * 200_000 + b"\xff\xd9"
    both = post(large) + post(JPEG)
    cut = len(post(large)) + 20
    events, answer, connection = talk(both[:cut])
    more, rest = connection.receive(both[cut:])
    assert events + more == [Upload(large), Upload(JPEG)]
    assert statuses(answer + rest) == [200, 200]


@pytest.mark.parametrize("request_", [post(JPEG, "Connection: close"), post(JPEG, version="1.0")])
def test_connection_closes_when_the_sender_wants_that(request_: bytes) -> None:
    events, answer, connection = talk(request_)
    assert events == [Upload(JPEG)]
    assert b"Connection: close" in answer
    assert connection.closing


def test_chunked_body() -> None:
    request = post(chunked(JPEG, 100), "Transfer-Encoding: chunked")
    events, answer, _ = talk(request)
    assert events == [Upload(JPEG)]
    assert statuses(answer) == [200]


def test_continue_is_said_before_the_body_comes() -> None:
    request = post(JPEG, "Expect: 100-continue")
    head = request.index(JPEG)
    connection = PushConnection()
    assert connection.receive(request[:head]) == ([], b"HTTP/1.1 100 Continue\r\n\r\n")
    events, answer = connection.receive(request[head:])
    assert events == [Upload(JPEG)]
    assert statuses(answer) == [200]


def test_form_gives_every_picture_in_it() -> None:
    kind, body = form(
        ('Content-Disposition: form-data; name="comment"', b"no picture"),
        (
            'Content-Disposition: form-data; name="a"; filename="C:\\\\pics\\\\i 1.jpg"\r\n'
            "Content-Type: image/jpeg",
            JPEG,
        ),
        ('Content-Disposition: form-data; name="b"; filename=b.png', PNG),
    )
    events, answer, _ = talk(post(body, kind))
    assert [(e.name, e.data) for e in events if isinstance(e, Upload)] == [
        ("i 1.jpg", JPEG),
        ("b.png", PNG),
    ]
    assert statuses(answer) == [200]


def test_name_of_the_file() -> None:
    request = post(JPEG, "Content-Disposition: attachment; filename=image26-11-20_08-17-20-45.jpg")
    (upload,), _, _ = talk(request)
    assert isinstance(upload, Upload)
    assert upload.name == "image26-11-20_08-17-20-45.jpg"
    expected = datetime(2026, 11, 20, 8, 17, 20, 450_000, tzinfo=UTC).timestamp()
    assert time_in_name(upload.name) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("image26-11-20_08-17-20-45.jpg", 20.45),
        ("cam_20261120T081720.jpg", 20.0),
        ("cam1_2026-11-20_08-17-20.123456.jpeg", 20.123456),
        ("26.11.20-08.17.20.png", 20.0),
    ],
)
def test_times_in_names(name: str, second: float) -> None:
    start = datetime(2026, 11, 20, 8, 17, tzinfo=UTC).timestamp()
    assert time_in_name(name) == pytest.approx(start + second, abs=1e-5)


@given(st.floats(1e9, 2e9))
def test_times_are_written_as_they_are_read(time: float) -> None:
    assert 0.0 <= time - time_in_name(name_with_time(time)) < 0.01001


def test_upload_has_the_time_at_which_it_began() -> None:
    now = iter([100.0, 200.0])
    connection = PushConnection(clock=lambda: next(now))
    request = post(JPEG)
    other = PushConnection(clock=lambda: 150.0)  # begins later and is done before
    connection.receive(request[:50])
    (second,), _ = other.receive(request)
    (first,), _ = connection.receive(request[50:])
    (third,), _ = connection.receive(request)
    assert [each.time for each in (first, second, third) if isinstance(each, Upload)] == [
        *(100.0, 150.0, 200.0)
    ]


@pytest.mark.parametrize("name", ["", "image.jpg", "shot_000123.jpg", "26-13-20_08-17-20.jpg"])
def test_names_without_a_time(name: str) -> None:
    assert math.isnan(time_in_name(name))


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST / HTTP/1.1\r\nContent-Type: image/jpeg\r\n\r\n" + JPEG, 411),
        (post(b"", "Content-Length: 1001"), 413),
        (post(chunked(bytes(1200), 300), "Transfer-Encoding: chunked"), 413),
        (post(b"text", "Content-Type: text/plain"), 415),
        (post(b"text", "Content-Type: application/octet-stream"), 415),
        (post(JPEG[:500], "Content-Encoding: gzip"), 415),
        (post(form(("A: b", b"x"))[1], form()[0]), 415),
        (post(b"xx", "Content-Type: multipart/form-data"), 415),
        (post(JPEG[:500], "Expect: 200-ok"), 417),
        (b"GET / HTTP/1.1\r\n\r\n", 405),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (post(b"", "Content-Length: -4"), 400),
        (post(JPEG, "Content-Length: 9", "Transfer-Encoding: chunked"), 400),
        (b"POST / HTTP/1.1\r\nX: " + b"y" * 70_000, 431),
    ],
)
def test_what_is_no_picture_is_refused_by_its_name(request_: bytes, status: int) -> None:
    events, answer, connection = talk(request_, bytes_max=1000)
    assert [type(e) for e in events] == [Refused]
    assert isinstance(events[0], Refused)
    assert events[0].status == HTTPStatus(status)
    assert statuses(answer) == [status]
    # Only a request that was read to its end leaves the connection usable.
    assert connection.closing == (status != 415 or b"text/plain" in request_ or b"gzip" in request_)
    assert connection.end() == []


@pytest.mark.parametrize(
    ("request_", "is_upload"),
    [
        (post(b"text", "Content-Type: text/plain"), True),
        (post(bytes(5000)), True),
        (b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n", True),
        (b"POST / HTTP/1.1\r\nX: " + b"a" * 100_000, True),
        (b"GET / HTTP/1.1\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n", False),
        (b"\x16\x03\x01\x02\x00\x01\x00", False),
    ],
)
def test_a_refused_request_is_an_upload_or_not(request_: bytes, is_upload: bool) -> None:
    (event,), _, _ = talk(request_, bytes_max=1000)
    assert isinstance(event, Refused)
    assert event.is_upload == is_upload


def test_too_long_is_refused_before_the_body_is_sent() -> None:
    request = post(bytes(5000), "Expect: 100-continue")
    _, answer, connection = talk(request[: request.index(bytes(5000))], bytes_max=1000)
    assert statuses(answer) == [413]
    assert connection.closing


def test_upload_cut_off_is_no_picture() -> None:
    connection = PushConnection()
    events, answer = connection.receive(post(JPEG)[:-10])
    assert (events, answer) == ([], b"")
    assert connection.end() == [Cut(len(JPEG) - 10, len(JPEG))]
    assert connection.end() == []


@settings(deadline=None)
@given(data=st.data())
def test_any_division_into_pieces_gives_the_same(data: st.DataObject) -> None:
    kind, body = form(("Content-Type: image/jpeg", JPEG), ("Content-Type: image/png", PNG))
    stream = (
        post(JPEG)
        + post(chunked(JPEG, 77), "Transfer-Encoding: chunked")
        + post(body, kind)
        + post(PNG, "Content-Type: image/png", "Connection: close")
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=30)))
    connection = PushConnection()
    events: list[Event] = []
    answers = b""
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        some, answer = connection.receive(stream[start:stop])
        events += some
        answers += answer
    assert [e.data for e in events if isinstance(e, Upload)] == [JPEG, JPEG, JPEG, PNG, PNG]
    assert len(events) == 5
    assert statuses(answers) == [200] * 4
    assert connection.closing


@settings(deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([post(JPEG), JPEG, b"\r\n"]))))
def test_no_bytes_raise(pieces: list[bytes]) -> None:
    connection = PushConnection()
    for piece in pieces:
        connection.receive(piece)
    connection.end()


@pytest.mark.parametrize("coding", ["undefined", "idna", "a\0b", "utf-8"])
def test_a_picture_comes_also_with_a_name_in_a_coding_that_is_none(coding: str) -> None:
    name = f"Content-Type: image/jpeg\r\nContent-Disposition: form-data; filename*={coding}''%ff"
    kind, body = form((name, JPEG), ("Content-Type: image/png", PNG))
    events, _, _ = talk(post(body, kind))
    assert [each.data for each in events if isinstance(each, Upload)] == [JPEG, PNG]


def test_a_boundary_that_is_not_latin_is_no_delimiter() -> None:
    _, body = form(("Content-Type: image/jpeg", JPEG))
    kind = "Content-Type: multipart/form-data; boundary*=utf-8''%e2%82%ac"
    (event,), _, _ = talk(post(body, kind))
    assert isinstance(event, Refused)
    assert event.why == "the body holds no JPEG or PNG"


@settings(deadline=None)
@given(st.binary(max_size=300), st.text("abc =;\"'", max_size=10))
def test_no_form_raises(body: bytes, boundary: str) -> None:
    talk(post(body, f"Content-Type: multipart/form-data; boundary={boundary}"))


def test_receiver_on_sockets() -> None:
    taken: list[Event] = []

    async def session() -> None:
        receiver = PushReceiver(lambda event, peer: taken.append(event), idle_s=0.1)
        port = await receiver.open("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):  # keep-alive
            writer.write(post(JPEG))
            assert statuses(await reader.readuntil(b"\r\n\r\n")) == [200]
        other, cut = await asyncio.open_connection("127.0.0.1", port)
        cut.write(post(JPEG)[:-1])
        await cut.drain()
        assert await other.read() == b""  # idle in mid-upload: closed by the receiver
        assert await reader.read() == b""  # idle between uploads
        await receiver.close()
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1)

    asyncio.run(session())
    assert taken == [
        Upload(JPEG),
        Upload(JPEG),
        Cut(len(JPEG) - 1, len(JPEG)),
    ]


def test_a_sender_that_has_closed_already_has_no_address() -> None:
    taken: list[tuple[Event, str]] = []

    async def session() -> None:
        receiver, reader = PushReceiver(lambda *each: taken.append(each)), asyncio.StreamReader()
        reader.feed_data(post(JPEG))
        reader.feed_eof()
        writer = Mock()
        writer.get_extra_info.return_value = None
        await receiver._serve(reader, writer)
        writer.close.assert_called_once_with()

    asyncio.run(session())
    assert taken == [(Upload(JPEG), "?")]


def test_refused_sender_reads_why_although_it_sent_all_at_once() -> None:
    answers: list[bytes] = []

    def send(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as sender:
            sender.sendall(post(bytes(8_000_000)))
            while data := sender.recv(4096):
                answers.append(data)

    async def session() -> None:
        receiver = PushReceiver(lambda event, peer: None, bytes_max=1000)
        port = await receiver.open("127.0.0.1", 0)
        await asyncio.to_thread(send, port)
        await receiver.close()

    asyncio.run(session())
    assert statuses(b"".join(answers)) == [413]
    assert b"lower the resolution" in b"".join(answers)


def test_an_upload_that_goes_on_while_the_event_loop_is_held_up_is_not_cut() -> None:
    taken: list[Event] = []

    async def session() -> None:
        receiver = PushReceiver(lambda event, peer: taken.append(event), idle_s=0.3)
        port = await receiver.open("127.0.0.1", 0)
        with socket.create_connection(("127.0.0.1", port)) as sender:
            sender.sendall(post(JPEG)[:-1])
            for _ in range(1000):  # it waits for the rest now
                await asyncio.sleep(0)
            sender.sendall(post(JPEG)[-1:])
            held_up = time.monotonic() + 0.4
            while time.monotonic() < held_up:
                pass
            async with asyncio.timeout(60):
                while not taken:
                    await asyncio.sleep(0)
            await receiver.close()

    asyncio.run(session())
    assert taken == [Upload(JPEG)]


def test_the_end_does_not_wait_for_a_sender_that_reads_no_answers() -> None:
    async def session() -> None:
        receiver = PushReceiver(lambda event, peer: None, idle_s=300.0)
        port = await receiver.open("127.0.0.1", 0)
        with socket.socket() as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sender.connect(("127.0.0.1", port))
            sender.setblocking(False)
            unsent, writers = memoryview(post(JPEG) * 50_000), receiver._writers
            while not any(each.transport.get_write_buffer_size() for each in writers.values()):
                with suppress(BlockingIOError):
                    unsent = unsent[sender.send(unsent) :]
                await asyncio.sleep(0)
            await receiver.close()
        assert not writers

    asyncio.run(session())
