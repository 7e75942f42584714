"""The hardware server and its connection, as a DCSS sees them; operations are the tests'."""

import asyncio
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.dcss import Dcss, Link
from support.in_loop import running
from support.waiting import until

from skywright.errors import DataError
from skywright.instruments.loop.dhs.link import Connection, keep_connected
from skywright.instruments.loop.dhs.server import Call, Server
from skywright.processes.ports import free_port

OPERATIONS = ("echo", "wait", "think", "fail", "break", "long")


class Operations:
    """Operations of all manners."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.thinking = threading.Event()

    async def echo(self, call: Call) -> str:
        await call.update(f"about to answer {call.start.handle}")
        return f"normal {' '.join(call.start.arguments)}"

    async def wait(self, call: Call) -> str:
        await asyncio.Event().wait()
        return "normal"

    async def think(self, call: Call) -> str:
        def think() -> None:
            self.thinking.set()
            self.release.wait(30)

        await asyncio.to_thread(think)
        return "normal"

    async def fail(self, call: Call) -> str:
        raise DataError("nothing [here] to {see}")

    async def break_(self, call: Call) -> str:
        raise ZeroDivisionError("1/0")

    async def long(self, call: Call) -> str:
        return f"normal {'x' * 2000}"

    def server(self) -> Server:
        table = {name: getattr(self, name.replace("break", "break_")) for name in OPERATIONS}
        return Server("loopDHS", table)


@pytest.fixture
def operations() -> Iterator[Operations]:
    made = Operations()
    yield made
    made.release.set()


@pytest.fixture
def dcss(operations: Operations) -> Iterator[Dcss]:
    hub = Dcss()
    server = operations.server()
    with running(lambda: keep_connected("127.0.0.1", hub.port, server.session, retry_s=0.05)):
        yield hub
    hub.close()


@pytest.fixture
def link(dcss: Dcss) -> Iterator[Link]:
    with dcss.connected(*OPERATIONS) as link:
        yield link


def test_operations_answer_with_their_handle(link: Link) -> None:
    assert link.run("echo", "1.14", "a", "b") == "normal a b"
    assert link.updates("1.14") == ["about to answer 1.14"]
    assert link.run("echo", "1.15", "{}", "{two words}") == "normal  two words"


def test_names_in_the_database_may_differ_from_ours(link: Link) -> None:
    link.send("stoh_register_operation ourEcho echo")
    link.start("ourEcho", "1.1", "x")
    assert link.reply("1.1") == "normal x"
    assert link.messages[-1] == "htos_operation_completed ourEcho 1.1 normal x"


def test_what_is_not_ours_is_completed_or_ignored(
    link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    link.send(
        "stoh_register_real_motor gonio_phi gonio_phi",
        "stoh_set_motor_children gonio_phi gonio_z",
        "stoc_whatever",
        "",
        "stoh_start_operation echo",
        "stoh_register_operation",
    )
    assert link.run("unheardOf", "1.1") == "error not_implemented"
    assert link.run("echo", "1.2") == "normal"
    assert "stoh_start_operation echo: expected an operation and a handle" in caplog.text


def test_names_and_handles_that_are_not_ascii_are_answered(link: Link) -> None:
    assert link.run("größe", "1.1") == "error not_implemented"
    assert link.run("echo", "à.1", "ü") == "normal ü"
    link.start("wait", "ø.2")
    link.send("stoh_abort_all hard")
    assert link.reply("ø.2") == "aborted"


def test_a_handle_too_long_for_any_answer_ends_nothing_else(link: Link) -> None:
    link.start("wait", "9" * 1000)
    link.start("wait", "1.1")
    link.send("stoh_abort_all hard")
    assert link.reply("1.1") == "aborted"
    assert link.run("echo", "1.2") == "normal"


def test_failures_end_one_operation_only(link: Link) -> None:
    assert link.run("fail", "1.1") == "error nothing (here) to (see)"
    assert link.run("break", "1.2") == "error ZeroDivisionError 1/0"
    assert link.run("long", "1.3") == "error reply_too_long"
    assert link.run("echo", "1.4", "x") == "normal x"


def test_messages_byte_by_byte_and_five_at_once(link: Link) -> None:
    for byte in link.layout2("stoh_start_operation echo 1.1 slowly", binary=b"\1\2\3", end=b" "):
        link.send_bytes(bytes([byte]))
    assert link.reply("1.1") == "normal slowly"
    link.send(*(f"stoh_start_operation echo 2.{i} {i}" for i in range(5)))
    assert [link.reply(f"2.{i}") for i in range(5)] == [f"normal {i}" for i in range(5)]


def test_an_abort_completes_all_at_once_even_what_has_only_begun(
    link: Link, operations: Operations
) -> None:
    link.start("wait", "1.1")
    link.start("think", "1.2")
    assert operations.thinking.wait(90)
    asked = time.monotonic()
    link.send("stoh_start_operation wait 1.3", "stoh_abort_all hard")
    replies = {handle: link.reply(handle) for handle in ("1.1", "1.2", "1.3")}
    assert set(replies.values()) == {"aborted"}
    assert link.times[-1] - asked < 1.0, "the thread that is busy was waited for"
    operations.release.set()
    assert link.run("echo", "1.4") == "normal"
    assert all(len(link.completions(handle)) == 1 for handle in replies)


def test_dcss_goes_and_comes_back(dcss: Dcss, operations: Operations) -> None:
    with dcss.connected(*OPERATIONS) as link:
        link.start("wait", "1.1")
        link.start("think", "1.2")
        assert operations.thinking.wait(90)
    with dcss.connected(*OPERATIONS) as link:
        operations.release.set()
        assert link.run("echo", "1.3", "again") == "normal again"
        assert not link.completions("1.1")
        assert not link.completions("1.2")
    for _ in range(3):  # it hangs up on us, as for a name that it does not know
        refused = dcss.accept()
        refused.shake_hands()
        refused.close()
    with dcss.connected() as link:
        assert link.run("echo", "1.4") == "normal"


def test_a_stream_that_has_lost_its_place_is_begun_anew(dcss: Dcss) -> None:
    with dcss.connected("echo") as link:
        link.send_bytes(b"9" * 26)
        link.wait_closed()
    with dcss.connected("echo") as link:
        assert link.run("echo", "1.1") == "normal"


def test_what_runs_is_aborted_when_we_are_told_to_end(operations: Operations) -> None:
    hub = Dcss()
    server = operations.server()
    with running(lambda: keep_connected("127.0.0.1", hub.port, server.session)):
        link = hub.accept()
        link.shake_hands()
        link.start("wait", "1.1")
        link.run("echo", "1.2")
    link.wait_closed()
    assert link.completions("1.1") == ["aborted"]
    link.close()
    hub.close()


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def fuzzed(rng: random.Random) -> bytes:
    """Return a message that is odd in one way or another, or a piece of garbage."""
    words = [
        "stoh_start_operation",
        "echo",
        "fail",
        "stoh_abort_all",
        "{",
        "}",
        "{}",
        "\x01",
        "9.9",
    ]
    text = " ".join(rng.choices(words, k=rng.randrange(8)))
    kind = rng.randrange(5)
    if kind == 0:
        return rng.randbytes(rng.randrange(300))
    if kind == 1:
        return text.encode().ljust(200, b"\0")[:200]
    data = Link.layout2(text, binary=rng.randbytes(rng.randrange(50)))
    if kind == 2:
        place = rng.randrange(len(data))
        return data[:place] + rng.randbytes(1) + data[place + 1 :]
    return data[: rng.randrange(len(data))] if kind == 3 else data


def test_a_thousand_fuzzed_messages_leave_nothing_behind(dcss: Dcss) -> None:
    rng = random.Random(4)
    with dcss.connected("echo") as link:
        link.run("echo", "0.0")
        files, threads = open_files(), threading.active_count()
    sent = 0
    while sent < 1000:
        with dcss.connected("echo") as link:
            for _ in range(50):
                try:
                    link.send_bytes(fuzzed(rng))
                except OSError:  # it has hung up, as it should on a broken header
                    break
                finally:
                    sent += 1
            assert not [text for text in link.messages if text.startswith("BROKEN")]
    with dcss.connected("echo") as link:
        assert link.run("echo", "1.1", "alive") == "normal alive"
        deadline = time.monotonic() + 20
        while (open_files(), threading.active_count()) > (files, threads):
            assert time.monotonic() < deadline, "threads or descriptors leak"
            threading.Event().wait(0.05)


def test_a_dcss_that_hangs_up_each_time_is_logged_once(
    dcss: Dcss, caplog: pytest.LogCaptureFixture
) -> None:
    def count(words: str) -> int:
        return sum(words in record.getMessage() for record in caplog.get_records("call"))

    for _ in range(4):  # it does not know the name, or another DHS has it
        dcss.accept().hang_up_after_the_handshake()
    with dcss.connected("echo") as link:
        assert link.run("echo", "1.1") == "normal"
        assert count("closed the connection") == count("registered nothing") == 1
    dcss.accept().hang_up_after_the_handshake()
    dcss.accept().close()
    assert count("closed the connection") == 2
    assert count("registered nothing") == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])  # the latter may have two addresses
def test_why_dcss_cannot_be_reached_is_in_the_systems_words(
    host: str, operations: Operations, caplog: pytest.LogCaptureFixture
) -> None:
    port, server = free_port(), operations.server()
    with running(lambda: keep_connected(host, port, server.session, retry_s=0.05)):
        until(lambda: caplog.messages)
    assert caplog.messages[0] == (f"DCSS at {host}:{port}: Connection refused; trying every 0.05 s")


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="an option of Linux")
def test_a_dcss_whose_machine_dies_before_it_has_our_message_is_noticed_as_soon() -> None:
    async def connected() -> tuple[int, int]:
        async with await asyncio.start_server(lambda *_: None, "127.0.0.1") as server:
            address = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(*address)
            Connection(reader, writer)
            made = writer.get_extra_info("socket")
            names = "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT"
            idle_s, interval_s, count, unacknowledged_ms = (
                made.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names
            )
            writer.close()
            return idle_s + interval_s * count, unacknowledged_ms

    idle_s, unacknowledged_ms = asyncio.run(connected())
    assert unacknowledged_ms == 1000 * idle_s
