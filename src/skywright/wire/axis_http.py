"""AXIS HTTP: pictures that a video server uploads (POST), bytes to objects and answers back.

`PushConnection` is the protocol without a socket; `skywright.wire.axis_receiver` has the sockets.
"""

import email.message
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus

import httptools

from skywright.wire.axis_body import (
    FORM,
    PICTURE_BYTES_MAX,
    PICTURE_TYPES,
    UNTYPED,
    content_type,
    pictures_in,
)

HEADER_BYTES_MAX = 65_536
UPLOADING = (b"POST", b"PUT")
"""Methods of the requests that upload a picture."""


@dataclass(frozen=True)
class Upload:
    """One picture as it came.

    Attributes
    ----------
    data
        The image file.
    name
        File name that the sender gave, or empty.
    time
        Unix time, s, at which the request began, before the transfer of its body.
    """

    data: bytes
    name: str = ""
    time: float = field(default=float("nan"), compare=False)


@dataclass(frozen=True)
class Cut:
    """An upload whose connection ended before its last byte (`PushConnection.end`)."""

    received_bytes: int
    expected_bytes: int | None


@dataclass(frozen=True)
class Refused:
    """A refused request.

    Attributes
    ----------
    status
        HTTP status of our answer.
    why
        What was wrong with the request.
    is_upload
        False for a request that uploads nothing, such as a browser's or a port scan's.
    """

    status: HTTPStatus
    why: str
    is_upload: bool = True


Event = Upload | Cut | Refused


@dataclass
class _Request:
    time: float = float("nan")
    path: str = ""
    headers: email.message.Message = field(default_factory=email.message.Message)
    begun: bool = False
    header_bytes: int = 0
    body: bytearray = field(default_factory=bytearray)
    in_body: bool = False


class PushConnection:
    """One connection of a sender, without its socket: bytes in, events and answers out.

    Understands HTTP/1.0 and 1.1 with Content-Length or chunked bodies, keep-alive, pipelining,
    ``Expect: 100-continue``, a bare image or ``multipart/form-data`` with any number of images.

    Parameters
    ----------
    bytes_max
        Longest body, bytes.
    clock
        Returns the Unix time, s, for `Upload.time`.
    """

    def __init__(
        self, bytes_max: int = PICTURE_BYTES_MAX, clock: Callable[[], float] = time.time
    ) -> None:
        self.bytes_max = bytes_max
        self._clock = clock
        self.closing = False
        """True when the connection is to be closed after the answers."""
        self._parser = httptools.HttpRequestParser(self)
        self._request = _Request()
        self._events: list[Event] = []
        self._answers: list[bytes] = []

    def receive(self, data: bytes) -> tuple[list[Event], bytes]:
        """Take bytes from the sender.

        Returns
        -------
        events, answers
            `Upload` and `Refused` events, and the bytes to send back.
        """
        if not self.closing:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade:
                self._refuse(HTTPStatus.BAD_REQUEST, "asks for another protocol")
            except httptools.HttpParserError as error:
                if not self.closing:
                    self._refuse(HTTPStatus.BAD_REQUEST, f"not HTTP: {error}")
            # If an upload has ended in `data`, most of `data` may be its body: it is not counted
            if self._request.begun and not self._request.in_body and not self._events:
                self._request.header_bytes += len(data)
                if self._request.header_bytes > HEADER_BYTES_MAX:
                    self._refuse(
                        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                        f"more than {HEADER_BYTES_MAX} bytes of headers",
                    )
        events, self._events = self._events, []
        answers, self._answers = b"".join(self._answers), []
        return events, answers

    def end(self) -> list[Event]:
        """Take the end of the connection; an upload under way is cut off."""
        if self.closing or not self._request.in_body:
            return []
        self.closing = True
        return [Cut(len(self._request.body), self._content_length())]

    # ---- called by the parser

    def on_message_begin(self) -> None:
        """Begin a request."""
        if not self.closing:
            self._request = _Request(begun=True, time=self._clock())

    def on_url(self, url: bytes) -> None:
        """Take a part of the path."""
        self._request.path += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._request.headers[name.decode("latin-1")] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Refuse a request before its body comes, if its headers are reason enough."""
        if self.closing:
            return
        request = self._request
        request.in_body = True
        refusal = self._refusal()
        if refusal is not None:
            self._refuse(*refusal)
        elif request.headers.get("Expect", "").lower() == "100-continue":
            self._answers.append(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        """Take a part of the body."""
        if self.closing:
            return
        self._request.body += data
        if len(self._request.body) > self.bytes_max:
            self._refuse(*self._too_large())

    def on_message_complete(self) -> None:
        """End a request."""
        if self.closing:
            return
        request, self._request = self._request, _Request()
        uploads = [
            Upload(data, name, request.time)
            for name, data in pictures_in(request.headers, bytes(request.body))
        ]
        keep = self._parser.should_keep_alive()
        if not uploads:
            why = "the body holds no JPEG or PNG"
            self._events.append(Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, why))
            self._answer(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, keep, why)
        else:
            self._events += uploads
            self._answer(HTTPStatus.OK, keep)
        self.closing = not keep

    # ---- checks and answers

    def _refusal(self) -> tuple[HTTPStatus, str] | None:
        """Return status and reason when headers alone forbid a request."""
        headers = self._request.headers
        method = self._parser.get_method()
        if method not in UPLOADING:
            why = f"{method.decode('latin-1')}, expected POST of a picture"
            return HTTPStatus.METHOD_NOT_ALLOWED, why
        expected = self._content_length()
        chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
        if expected is None and not chunked:
            return HTTPStatus.LENGTH_REQUIRED, "neither Content-Length nor a chunked body"
        if expected is not None and expected > self.bytes_max:
            return self._too_large()
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            return HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "compressed body, expected the image itself"
        kind = content_type(headers)
        if kind not in (*PICTURE_TYPES, *UNTYPED, FORM):
            return HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"{kind}, expected image/jpeg or image/png"
        if headers.get("Expect", "100-continue").lower() != "100-continue":
            return HTTPStatus.EXPECTATION_FAILED, f"Expect: {headers['Expect']}"
        return None

    def _content_length(self) -> int | None:
        length = self._request.headers.get("Content-Length", "")
        return int(length) if length.strip().isdigit() else None

    def _too_large(self) -> tuple[HTTPStatus, str]:
        return (
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"more than {self.bytes_max} bytes; lower the resolution or raise the limit",
        )

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        """Answer and close: the rest of the request is of no use."""
        if not self.closing:
            # The path is known only if the first line of the request could be read
            is_upload = bool(self._request.path) and self._parser.get_method() in UPLOADING
            self._events.append(Refused(status, why, is_upload))
            self._answer(status, False, why)
            self.closing = True

    def _answer(self, status: HTTPStatus, keep: bool, why: str = "") -> None:
        body = f"{why}\n".encode() if why else b""
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            f"Content-Length: {len(body)}",
            f"Connection: {'keep-alive' if keep else 'close'}",
        ]
        if body:
            lines.append("Content-Type: text/plain; charset=utf-8")
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            lines.append("Allow: POST, PUT")
        self._answers.append("\r\n".join([*lines, "", ""]).encode() + body)
