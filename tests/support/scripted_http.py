"""An HTTP server that says exactly what a test tells it to, byte by byte."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Script = Callable[["Visit"], None]


@dataclass
class Visit:
    """One request: its head and body as they came, and the socket to answer on."""

    head: str
    body: bytes
    number: int
    socket: socket.socket

    def say(self, *pieces: bytes) -> None:
        """Send bytes; a client that has gone is none of our business."""
        with contextlib.suppress(OSError):
            for piece in pieces:
                self.socket.sendall(piece)

    @property
    def path(self) -> str:
        return self.head.split()[1]

    def answer(self, status: int, body: bytes = b"") -> None:
        """Send a whole answer."""
        head = f"HTTP/1.1 {status} -\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self.say(head.encode() + body)

    def wait_for_end(self) -> None:
        """Say nothing until the client has gone."""
        with contextlib.suppress(OSError):
            self.socket.settimeout(30)
            while self.socket.recv(4096):
                pass


@dataclass
class Server:
    """Where it listens, and the heads of the requests so far."""

    port: int
    requests: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def scripted(script: Script) -> Iterator[Server]:
    """Answer each connection's one request by `script`, then close it."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = Server(listening.getsockname()[1])
    threads: list[threading.Thread] = []

    def visit(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, ValueError):
            connection.settimeout(30)
            head, body = _read(connection)
            server.requests.append(head)
            script(Visit(head, body, len(server.requests) - 1, connection))
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(0.2)
            while connection.recv(4096):  # to close with bytes unread would reset
                pass

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threads.append(threading.Thread(target=visit, args=(connection,), daemon=True))
                threads[-1].start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(90)
        for each in threads:
            each.join(90)


def _read(connection: socket.socket) -> tuple[str, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise ValueError("the client went away")
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    wanted = int(length[0].split(b":")[1]) if length else 0
    while len(body) < wanted:
        body += connection.recv(65536)
    return head.decode("latin-1"), body
