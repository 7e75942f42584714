"""A scripted DCSS on a raw socket. It shares no code with the DHS that it tests."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

LIMIT_S = 120.0


class Dcss:
    """The hub's hardware port.

    Parameters
    ----------
    port
        0 takes a free one.
    """

    def __init__(self, port: int = 0) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self._listener.settimeout(LIMIT_S)
        self.port: int = self._listener.getsockname()[1]

    def accept(self) -> "Link":
        """Take the next connection; nothing is said yet."""
        connected, _ = self._listener.accept()
        return Link(connected)

    @contextmanager
    def connected(self, *operations: str, name: str = "loopDHS") -> Iterator["Link"]:
        """Take a connection, shake hands, and register operations."""
        link = self.accept()
        try:
            assert link.shake_hands() == f"htos_client_is_hardware {name}"
            for operation in operations:
                link.send(f"stoh_register_operation {operation} {operation}")
            yield link
        finally:
            link.close()

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()


class Link:
    """One connected hardware server."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._socket.settimeout(LIMIT_S)
        self._news = threading.Condition()
        self.messages: list[str] = []
        self.times: list[float] = []
        self.closed = False
        self.raw = b""
        """All bytes of messages of layout 2 that came."""

    def shake_hands(self) -> str:
        """Ask who it is, as DCSS does; return the answer and listen from then on."""
        self._socket.sendall(b"stoc_send_client_type".ljust(200, b"\0"))
        asked = time.monotonic()
        answer = self._exactly(200)
        assert time.monotonic() - asked < 1.0, "DCSS would have hung up"
        assert answer[answer.index(b"\0") :].strip(b"\0") == b""
        threading.Thread(target=self._listen, daemon=True).start()
        return answer.partition(b"\0")[0].decode("ascii")

    def hang_up_after_the_handshake(self) -> None:
        """Close the connection, as DCSS does if it does not know the name."""
        self.shake_hands()
        self.close()

    @staticmethod
    def layout2(text: str, binary: bytes = b"", end: bytes = b"\0") -> bytes:
        """Return a message as DCSS sends it; `end` is byte 26 of the header."""
        body = text.encode() + b" \0"
        header = b"%12d%13d" % (len(body), len(binary))
        return header + end + body + binary

    def send(self, *texts: str) -> None:
        """Send messages of layout 2, all in one segment."""
        self.send_bytes(b"".join(map(self.layout2, texts)))

    def send_bytes(self, data: bytes) -> None:
        """Send what may be anything."""
        self._socket.sendall(data)

    def start(self, operation: str, handle: str, *arguments: object) -> None:
        """Start an operation."""
        self.send(" ".join(map(str, ("stoh_start_operation", operation, handle, *arguments))))

    def run(self, operation: str, handle: str, *arguments: object) -> str:
        """Start an operation and return its reply."""
        self.start(operation, handle, *arguments)
        return self.reply(handle)

    def reply(self, handle: str) -> str:
        """Wait until an operation is completed; return status and results."""
        self.until(lambda: self.completions(handle))
        return self.completions(handle)[0]

    def completions(self, handle: str) -> list[str]:
        """Return all that has completed an operation so far."""
        return self._of("htos_operation_completed", handle)

    def updates(self, handle: str) -> list[str]:
        """Return its updates so far."""
        return self._of("htos_operation_update", handle)

    def rows(self, handle: str) -> dict[int, list[str]]:
        """Return the rows of a series by index: status and values."""
        words = [text.split(" ") for text in self.updates(handle)]
        rows = [each for each in words if each[0] == "LOOP_INFO"]
        by_index = {int(each[1]): each[2:] for each in rows}
        assert len(by_index) == len(rows), "an index came twice"
        return by_index

    def notes(self) -> list[str]:
        """Return the notes so far."""
        return [text for text in self.messages if text.startswith("htos_note ")]

    def until(self, condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
        """Wait for something to be true of the messages."""
        with self._news:
            met = self._news.wait_for(lambda: condition() or self.closed, limit_s)
        assert met, f"not within {limit_s} s; messages: {self.messages[-20:]}"
        assert condition(), f"connection closed; messages: {self.messages[-20:]}"

    def wait_closed(self, limit_s: float = LIMIT_S) -> None:
        """Wait until the other side has hung up."""
        with self._news:
            assert self._news.wait_for(lambda: self.closed, limit_s)

    def close(self) -> None:
        """Hang up."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # a thread that reads would keep it open
        self._socket.close()

    def _of(self, command: str, handle: str) -> list[str]:
        words = [text.split(" ", 3) for text in self.messages]
        return [each[3] for each in words if each[0] == command and each[2] == handle]

    def _listen(self) -> None:
        try:
            while True:
                header = self._exactly(26)
                assert header[25:] == b" "
                assert header[12:25] == b"%13d" % 0
                length = int(header[:12])
                assert header[:12] == b"%12d" % length
                assert length <= 1024
                body = self._exactly(length)
                assert body.endswith(b" \0")
                text = body[:-2].decode()
                assert "\0" not in text
                assert not text.startswith(("htos_note", "htos_log")) or len(text) < 190
                with self._news:
                    self.messages.append(text)
                    self.times.append(time.monotonic())
                    self._news.notify_all()
        except (ConnectionError, OSError):
            pass
        except AssertionError as error:
            self.messages.append(f"BROKEN {error!r}")
        with self._news:
            self.closed = True
            self._news.notify_all()

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                piece = self._socket.recv(count - len(data))
            except TimeoutError:
                continue
            if not piece:
                raise ConnectionError("closed")
            data += piece
        return data
