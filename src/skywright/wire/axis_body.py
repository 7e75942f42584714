"""Finds the pictures in the body of an upload, and the time in a file name.

The body is one picture, or a multipart form with pictures as its parts.

Formats: RFC 2046 5.1.1 (multipart), RFC 6266 (file names).
"""

import email.message
import email.parser
import email.policy
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

PICTURE_TYPES = ("image/jpeg", "image/jpg", "image/pjpeg", "image/png", "image/x-png")
UNTYPED = ("", "application/octet-stream", "binary/octet-stream")
FORM = "multipart/form-data"
PICTURE_BYTES_MAX = 32_000_000
"""Longest image file that is received, bytes."""
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")

_TIME_IN_NAME = re.compile(
    r"(?<!\d)(\d{4}|\d{2})[-_.]?(\d{2})[-_.]?(\d{2})[-_.T ]?"
    r"(\d{2})[-_.:]?(\d{2})[-_.:]?(\d{2})(?:[-_.,](\d{1,6}))?(?!\d)"
)


def time_in_name(name: str) -> float:
    """Return the time that a file name carries, as video servers write it.

    Parameters
    ----------
    name
        ``image26-11-20_08-17-20-45.jpg`` or ``20261120T081720.jpg``: year (2 or 4 digits) to
        second, and a fraction behind.

    Returns
    -------
    float
        Unix seconds, the sender's clock read as UTC; NaN when there is no time.
    """
    for match in _TIME_IN_NAME.finditer(name):
        year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
        if year < 100:
            year += 2000
        try:
            moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        except ValueError:
            continue
        return moment.timestamp() + float(f"0.{match.group(7) or 0}")
    return float("nan")


def name_with_time(time: float) -> str:
    """Return the file name that an AXIS video server gives to a picture of that time (unix s)."""
    hundredths = int(time * 100.0)
    moment = datetime.fromtimestamp(hundredths // 100, tz=UTC)
    return f"image{moment:%y-%m-%d_%H-%M-%S}-{hundredths % 100:02d}.jpg"


def content_type(headers: email.message.Message) -> str:
    """Return the media type in small letters, empty when there is none (not text/plain)."""
    return headers.get_content_type() if "Content-Type" in headers else ""


def pictures_in(headers: email.message.Message, body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield name (or empty) and file of each picture: the body, or the parts of the form in it.

    Parameters
    ----------
    headers
        Of the request.
    body
        Without its transfer encoding.
    """
    parts = iter([(headers, body)])
    if content_type(headers) == FORM:
        parts = _parts(body, _decoded(headers.get_boundary))
    for part, data in parts:
        kind = content_type(part)
        if kind in PICTURE_TYPES or (kind in UNTYPED and data.startswith(SIGNATURES)):
            path = _decoded(part.get_filename)  # some senders give a whole path, not a name
            yield path.replace("\\", "/").rpartition("/")[2], data


def _decoded(get: Callable[[], str | None]) -> str:
    """Return a parameter of a header; empty if it is missing or its character set is unknown."""
    try:
        return get() or ""
    except ValueError:
        return ""


def _parts(body: bytes, boundary: str) -> Iterator[tuple[email.message.Message, bytes]]:
    """Split a multipart body into headers and contents."""
    delimiter = b"\r\n--" + boundary.encode("latin-1", "replace")
    parse = email.parser.BytesHeaderParser(policy=email.policy.compat32).parsebytes
    # What is before the first delimiter and behind the last, closing one is to be ignored.
    for part in (b"\r\n" + body).split(delimiter)[1:]:
        if part.startswith(b"--"):
            return
        head, blank, content = part.partition(b"\r\n\r\n")
        if blank:
            yield parse(head.lstrip(b" \t").removeprefix(b"\r\n") + blank), content
