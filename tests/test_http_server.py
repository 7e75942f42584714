"""The HTTP server that is the work of a process; `HttpServer` is tested with those that use it."""

import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from typing import Any

import pytest

from skywright.errors import ConfigError
from skywright.processes.http_server import HttpServer, listen, serve

PROGRAM = """
import asyncio, sys
from skywright.processes.http_server import serve
from skywright.processes.lifecycle import announce_ready

signalled = []

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": kind + ".complete"})
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})

serve(app, "127.0.0.1", 0, lambda port: announce_ready(port=port),
      on_signal=lambda: signalled.append(1), timeout_graceful_shutdown=1)
print(signalled)
"""


def test_a_process_serves_until_sigterm_and_ends_with_status_0() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().split(":")[-1].strip(" }\n"))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=90) as answer:
            assert answer.read() == b"hello"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "[1]\n"
        assert process.wait(90) == 0


async def broken(scope: Any, receive: Any, send: Any) -> None:
    """Say at the start that it cannot start."""
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


def test_connections_do_not_wait_for_acknowledgements() -> None:
    with (
        listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_application_that_does_not_start_is_an_error() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    ready = threading.Event()
    try:
        with pytest.raises(ConfigError, match="did not start; the log above says why"):
            serve(broken, "127.0.0.1", 0, lambda _: ready.set(), lifespan="on")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert not ready.is_set()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_that_is_taken_is_named(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listener:
        port = listener.getsockname()[1]
        message = f"cannot serve HTTP on {host}:{port} .*Choose another port"
        with pytest.raises(ConfigError, match=message):
            serve(broken, host, port, lambda _: None)
        with pytest.raises(ConfigError, match=message):
            HttpServer(broken, host, port)
