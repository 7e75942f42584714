"""Motion JPEG as cameras stream it: ``multipart/x-mixed-replace``, bytes to pictures and back.

Cameras break the format in every way: wrong or absent Content-Length, other boundaries than they
announce, headers without end, pictures cut off. The end of a JPEG file is found in its own
bytes (ITU-T T.81 B.1), so it is returned at once. Other images end at the next boundary, or after
Content-Length bytes.
"""

import re
from dataclasses import dataclass

from skywright.wire.axis_body import PICTURE_BYTES_MAX, SIGNATURES

BOUNDARY = "myboundary"
HEAD_BYTES_MAX = 8_192
DELIMITER_BYTES_MAX = 1_024
"""Bytes that may hold the first half of a delimiter."""

_START = b"\xff\xd8\xff"
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"(?im)^content-length[ \t]*:[ \t]*(\d{1,9})[ \t]*\r?$")
_TIME = re.compile(rb"(?im)^x-timestamp[ \t]*:[ \t]*(\d{1,11}(?:\.\d+)?)[ \t]*\r?$")
_OTHER = re.compile(rb"(?im)^content-type[ \t]*:[ \t]*(?:text|audio|application/(?:json|xml))\b")
"""The type of a part that is no picture: some cameras send events or sound in between."""
ODD_BYTES_MAX = 200
"""A picture may begin this far behind the blank line, by a camera's mistake."""
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""A marker in entropy-coded data; stuffed bytes and restarts are none."""
_NO_BODY = (0x01, *range(0xD0, 0xD9))
_BEGIN, _END, _SCAN = 0xD8, 0xD9, 0xDA


@dataclass(frozen=True)
class Part:
    """One picture of the stream.

    Attributes
    ----------
    data
        The image file; for a broken part, the bytes that arrived.
    sender_time
        Unix s of the header ``X-Timestamp``; NaN when there is none.
    trouble
        What was wrong with it; empty when it came as it should.
    """

    data: bytes
    sender_time: float = float("nan")
    trouble: str = ""


class JpegEnd:
    """Finds the end of a JPEG file in a buffer that grows.

    Attributes
    ----------
    cut
        True when the file ends where another one begins, without an end of its own.
    """

    def __init__(self) -> None:
        self.cut = False
        self._place = 2  # behind SOI
        self._in_scan = False

    def find(self, data: bytearray) -> int | None:
        """Return the length of the file at the start of `data`, or None: not yet, or never."""
        while True:
            if self._in_scan:
                marker = _MARKER.search(data, self._place)
                if marker is None:
                    # The last byte may be the first half of a marker.
                    self._place = max(self._place, len(data) - 1)
                    return None
                self._place, self._in_scan = marker.end() - 2, False
            head = data[self._place : self._place + 4]
            if len(head) < 2:
                return None
            if head[0] != 0xFF:  # damaged: go on as if it were picture data
                self._in_scan = True
            elif head[1] in (_END, _BEGIN):
                self.cut = head[1] == _BEGIN
                return self._place + (0 if self.cut else 2)
            elif head[1] == 0xFF:
                self._place += 1
            elif head[1] in _NO_BODY:
                self._place += 2
            elif len(head) < 4:
                return None
            else:
                self._place += 2 + int.from_bytes(head[2:4], "big")
                self._in_scan = head[1] == _SCAN


class MixedReplace:
    """A motion JPEG stream without its socket: bytes in, pictures out as soon as they are whole.

    Parameters
    ----------
    boundary
        As the camera announces it. If the stream's first line is another delimiter, that is used.
    bytes_max
        Longest picture, bytes; a longer one is dropped.
    """

    def __init__(self, boundary: str = BOUNDARY, bytes_max: int = PICTURE_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self._delimiter = _delimiter(boundary.strip().lstrip("-") or BOUNDARY)
        self._buffer = bytearray()
        self._begun = False
        self._step = self._between
        self._length: int | None = None
        self._time = float("nan")
        self._is_other = False
        self._searched = 0
        self._jpeg: JpegEnd | None = None

    @property
    def is_in_picture(self) -> bool:
        """Whether a picture has begun that is not complete."""
        return self._step == self._body and not self._is_no_picture(self._buffer)

    def receive(self, data: bytes) -> list[Part]:
        """Take bytes of the body; return the pictures that they complete."""
        self._buffer += data
        parts: list[Part] = []
        while self._step(parts):
            pass
        return parts

    def end(self) -> int:
        """Take the end of the stream; return the bytes of the picture that it cuts off."""
        inside = self.is_in_picture
        left, self._buffer = len(self._buffer), bytearray()
        self._step = self._between
        return left if inside else 0

    # ---- each step returns whether another one may follow with the bytes at hand

    def _between(self, parts: list[Part]) -> bool:
        """Skip to the next delimiter, or to a picture that stands without one."""
        if not self._begun and not self._learn_delimiter():
            return False
        start = self._buffer.find(_START)
        # No search goes beyond what it is for: a piece may hold thousands of begun pictures.
        end = start if start >= 0 else len(self._buffer)
        delimiter = self._delimiter.search(self._buffer, 0, end)
        if start >= 0 and delimiter is None:
            self._begin_body(start, b"")
        elif delimiter is not None:
            del self._buffer[: delimiter.end()]
            self._step = self._head
        else:
            del self._buffer[:-DELIMITER_BYTES_MAX]
            return False
        return True

    def _learn_delimiter(self) -> bool:
        """Take the stream's first line for the delimiter if it looks like one."""
        # Blanks are dropped: a stream of nothing else would fill the memory.
        text = self._buffer = self._buffer.lstrip(b"\r\n \t")
        if text[:2] != b"--"[: len(text)]:
            self._begun = True
        elif b"\n" in text or len(text) > HEAD_BYTES_MAX:
            line = bytes(text[:HEAD_BYTES_MAX].split(b"\n", 1)[0]).strip().lstrip(b"-")
            if line:
                self._delimiter = _delimiter(line.decode("latin-1"))
            self._begun = True
        return self._begun

    def _head(self, parts: list[Part]) -> bool:
        """Read the headers of a part, up to the blank line or to the picture itself."""
        end = _HEAD_END.search(self._buffer, 0, HEAD_BYTES_MAX)
        start = self._buffer.find(_START, 0, HEAD_BYTES_MAX)
        if start >= 0 and (end is None or start < end.start()):
            self._begin_body(start, bytes(self._buffer[:start]))
        elif end is not None:
            self._begin_body(end.end(), bytes(self._buffer[: end.start()]))
        elif len(self._buffer) > HEAD_BYTES_MAX:
            self._step = self._between
        else:
            return False
        return True

    def _begin_body(self, start: int, head: bytes) -> None:
        del self._buffer[:start]
        length, time = _LENGTH.search(head), _TIME.search(head)
        self._length = int(length[1]) if length else None
        self._time = float(time[1]) if time else float("nan")
        self._is_other = _OTHER.search(head) is not None
        self._searched, self._jpeg = 0, None
        self._step = self._body

    def _body(self, parts: list[Part]) -> bool:
        """Wait for the end of the picture: that of the file, the next delimiter, the length."""
        buffer = self._buffer
        if self._jpeg is None:
            self._drop_odd_start()
            if buffer.startswith(_START):
                self._jpeg = JpegEnd()
        length = self._length
        file_end = self._jpeg.find(buffer) if self._jpeg is not None else None
        end = len(buffer) if file_end is None else file_end
        delimiter = self._delimiter.search(buffer, self._searched, end)
        limit = delimiter.start() if delimiter is not None else len(buffer)
        if file_end is not None and file_end <= limit:
            trouble = "the picture is cut off" if self._jpeg and self._jpeg.cut else ""
            return self._complete(parts, file_end, trouble)
        if delimiter is not None:
            whole = self._jpeg is None and length in (None, limit)
            return self._complete(parts, limit, "" if whole else "the picture is cut off")
        if self._jpeg is None and length is not None and len(buffer) >= length > 0:
            return self._complete(parts, length)
        if len(buffer) > self.bytes_max:
            parts.append(Part(b"", self._time, f"more than {self.bytes_max} bytes"))
            buffer.clear()
            self._step = self._between
        self._searched = max(0, len(buffer) - DELIMITER_BYTES_MAX)
        return False

    def _drop_odd_start(self) -> None:
        """Drop what a camera sends between the blank line and the picture, as another line end."""
        buffer = self._buffer
        start = buffer.find(_START, 0, ODD_BYTES_MAX)
        delimiter = self._delimiter.search(buffer, 0, max(start, 0))
        if start <= 0 or self._is_other or buffer.startswith(SIGNATURES) or delimiter is not None:
            return
        del buffer[:start]
        self._searched = 0
        if self._length is not None:
            self._length = max(self._length - start, 0)

    def _complete(self, parts: list[Part], end: int, trouble: str = "") -> bool:
        data = bytes(self._buffer[:end])
        del self._buffer[:end]
        if data.strip() and not self._is_no_picture(data):
            parts.append(Part(data, self._time, trouble))
        self._step = self._between
        return True

    def _is_no_picture(self, data: bytes | bytearray) -> bool:
        """Return whether a part is of another type; the type of a picture may be wrong, too."""
        return self._is_other and not data.startswith(SIGNATURES)


def _delimiter(boundary: str) -> re.Pattern[bytes]:
    """Return what matches a boundary, two or more dashes and an optional line end before it.

    Only the first of many dashes may begin it: the time for dashes alone would grow as a square.
    """
    return re.compile(rb"(?:\r?\n)?(?<!-)-{2,}" + re.escape(boundary.encode("latin-1", "replace")))


def encode_part(data: bytes, time: float) -> bytes:
    """Return a picture (JPEG file, unix s) as a part of a stream, its delimiter before it."""
    head = (
        f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n"
        f"X-Timestamp: {time:.6f}\r\n\r\n"
    )
    return head.encode() + data + b"\r\n"
