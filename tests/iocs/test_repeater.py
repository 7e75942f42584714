"""The repeater registers the C client library and caproto, and sends beacons on."""

import socket
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.ready_process import ReadyProcess, ended_after

from iocs.repeater import BEACON, CONFIRM, HEADER, REGISTER
from skywright.processes.ports import free_port

LOOPBACK = 0x7F000001


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    number = free_port()
    with ended_after(ReadyProcess("-m", "iocs.repeater", "--port", str(number))):
        yield number


@pytest.fixture
def client() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.settimeout(10)
        yield made


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        yield made


@pytest.mark.parametrize("request_", [b"", HEADER.pack(REGISTER, 0, 0, 0, 0, LOOPBACK)])
def test_a_registration_is_confirmed_and_beacons_come(
    port: int, client: socket.socket, server: socket.socket, request_: bytes
) -> None:
    client.sendto(request_, ("127.0.0.1", port))
    assert client.recv(100) == HEADER.pack(CONFIRM, 0, 0, 0, 0, LOOPBACK)
    for address in (0, 0x0A000001):
        server.sendto(HEADER.pack(BEACON, 0, 13, 5064, 7, address), ("127.0.0.1", port))
        expected = HEADER.pack(BEACON, 0, 13, 5064, 7, address or LOOPBACK)
        assert client.recv(100) == expected


def test_a_short_message_harms_nobody(
    port: int, client: socket.socket, server: socket.socket
) -> None:
    client.sendto(b"", ("127.0.0.1", port))
    client.recv(100)
    server.sendto(b"\x00", ("127.0.0.1", port))
    assert client.recv(100) == b"\x00"
    server.sendto(struct.pack(">H", BEACON), ("127.0.0.1", port))
    assert client.recv(100) == struct.pack(">H", BEACON)


def test_a_taken_port_is_one_line() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "iocs.repeater", "--port", str(port)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.strip() == f"UDP port {port}: Address already in use"
