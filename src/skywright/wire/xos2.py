"""xos, the protocol of DCSS and its hardware servers: bytes to messages and back.

A message is ASCII text, a command word and arguments as Tcl lists them, in one of two layouts.
Layout 1 is 200 bytes, padded with NUL. Layout 2 is a header of 26 bytes with two decimal numbers,
the lengths of the text (terminator included) and of a binary part, then both.

A name or handle of DCSS that is not ASCII must go back as it came, so a character stands for a
byte (Latin-1).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from skywright.errors import DataError

V1_BYTES = 200
HEADER_BYTES = 26
TEXT_BYTES_MAX = 1024
"""Longest text of layout 2, terminator included, that a DCSS is sure to take."""
NOTE_BYTES_MAX = 189
"""Longest note: DCSS keeps them in buffers of about 200 bytes."""
INCOMING_BYTES_MAX = 1 << 20
"""A longer text in a header means that the place in the stream is lost."""

_TERMINATOR = " \0"
_WORD_START, _BARE_WORD = re.compile(r"\S", re.ASCII), re.compile(r"\S+", re.ASCII)
# What Tcl would substitute or group by has no place in words for people.
_HARMLESS = str.maketrans({"[": "(", "]": ")", "{": "(", "}": ")", '"': "'", ";": ",", "\\": "/"})


@dataclass(frozen=True)
class Message:
    """One message as it came, and the layout, 1 or 2, that it came in."""

    text: str
    layout: int


@dataclass(frozen=True)
class StartOperation:
    """``stoh_start_operation``: `handle` names this start in every reply."""

    name: str
    handle: str
    arguments: tuple[str, ...] = ()


def encode(text: str, layout: int) -> bytes:
    """Return the bytes of a message.

    Parameters
    ----------
    text
        Command and arguments, a character for each byte. Blanks around it are left out.
    layout
        1 or 2.

    Raises
    ------
    DataError
        If the text is too long for the layout, has NUL, or a character that is no byte.
    """
    text = text.strip(" ")
    if "\0" in text or max(text, default="") > "\xff":
        raise DataError(f"xos message {text[:60]!r}: expected bytes without NUL")
    if layout == 1:
        if len(text) >= V1_BYTES:
            raise DataError(f"xos message of {len(text)} bytes, at most {V1_BYTES - 1} in layout 1")
        return text.encode("latin-1").ljust(V1_BYTES, b"\0")
    length = len(text) + len(_TERMINATOR)
    if length > TEXT_BYTES_MAX:
        raise DataError(
            f"xos message of {length} bytes ({text[:60]}...), DCSS takes at most {TEXT_BYTES_MAX}"
        )
    return f"{length:12d}{0:13d} {text}{_TERMINATOR}".encode("latin-1")


class MessageParser:
    """Cuts a stream of bytes, which TCP may split and join anywhere, into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = 0

    def feed(self, data: bytes) -> Iterator[Message]:
        """Take bytes, and yield the messages that are whole now; binary parts are dropped.

        Raises
        ------
        DataError
            After the messages before it, at a header that cannot be one: the rest of the stream
            has no meaning then, and the connection is to be closed.
        """
        self._buffer += data
        while (message := self._next()) is not None:
            yield message

    def _next(self) -> Message | None:
        buffer = self._buffer
        skipped = min(self._skip, len(buffer))
        del buffer[:skipped]
        self._skip -= skipped
        if len(buffer) < HEADER_BYTES:
            return None
        words = bytes(buffer[:HEADER_BYTES]).partition(b"\0")[0].split()
        if not words or not words[0].isdigit():
            return self._cut(0, V1_BYTES, 1)
        text_bytes, binary_bytes = _lengths(words)
        message = self._cut(HEADER_BYTES, HEADER_BYTES + text_bytes, 2)
        if message is not None:
            self._skip = binary_bytes
        return message

    def _cut(self, start: int, stop: int, layout: int) -> Message | None:
        if len(self._buffer) < stop:
            return None
        # What follows the first NUL is whatever was in the sender's buffer before.
        text = bytes(self._buffer[start:stop]).partition(b"\0")[0]
        del self._buffer[:stop]
        return Message(text.strip().decode("latin-1"), layout)


def _lengths(words: list[bytes]) -> tuple[int, int]:
    """Return the two numbers of a header of layout 2."""
    if len(words) == 2 and all(word.isdigit() for word in words):
        text_bytes, binary_bytes = map(int, words)
        if max(text_bytes, binary_bytes) <= INCOMING_BYTES_MAX:
            return text_bytes, binary_bytes
    header = b" ".join(words).decode("ascii", "replace")
    raise DataError(
        f"xos header {header!r}: expected the lengths of text and binary part, each at most "
        f"{INCOMING_BYTES_MAX}; the stream cannot be read any further"
    )


def split_words(text: str) -> list[str]:
    """Split a message into words as Tcl does: blanks separate, braces group, ``{}`` is empty.

    A brace that is never closed counts as an ordinary character.
    """
    words, at = [], 0
    closing = _closing_braces(text)
    while (found := _WORD_START.search(text, at)) is not None:
        start = found.start()
        if (end := closing.get(start)) is not None:
            word, at = text[start + 1 : end], end + 1
        else:
            at = _BARE_WORD.match(text, start).end()  # type: ignore[union-attr]
            word = text[start:at]
        words.append(word)
    return words


def _closing_braces(text: str) -> dict[int, int]:
    """Return the place of the brace that closes each brace, by the place of the opening one."""
    closing: dict[int, int] = {}
    opened: list[int] = []
    for at, character in enumerate(text):
        if character == "{":
            opened.append(at)
        elif character == "}" and opened:
            closing[opened.pop()] = at
    return closing


def harmless(text: str) -> str:
    """Return words for people without anything that Tcl, or a line of a log, would stumble over."""
    printable = "".join(c if " " <= c <= "~" else " " for c in text)
    return " ".join(printable.translate(_HARMLESS).replace("$", "").split())


def client_is_hardware(name: str) -> str:
    """Return the answer to ``stoc_send_client_type``, due within 1 s."""
    return f"htos_client_is_hardware {name}"


def operation_update(name: str, handle: str, text: str) -> str:
    """Return an update of a running operation."""
    return f"htos_operation_update {name} {handle} {text}"


def operation_completed(name: str, handle: str, reply: str) -> str:
    """Return the end of an operation; the first word of `reply` is its status, then results."""
    return f"htos_operation_completed {name} {handle} {reply}"


def note(text: str) -> str:
    """Return a note for DCSS's users, cut to what DCSS can hold."""
    return f"htos_note {harmless(text)}"[:NOTE_BYTES_MAX].rstrip()
