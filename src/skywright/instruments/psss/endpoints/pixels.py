"""Converts nested JSON lists to pixels, for large lists in another process.

30 MB of JSON become 5.5 million Python objects. In the process of the service they would delay
every pulse for a second, and their memory would not be freed.
"""

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import anyio
import numpy as np
import orjson
from numpy.typing import NDArray

from skywright.errors import DataError
from skywright.processes.child import start_module

SMALL_BYTES = 200_000
"""Bodies up to this size are read in the process of the service."""
_REFUSED = 3


@dataclass(frozen=True)
class Upload:
    """A background that a client has sent.

    Parameters
    ----------
    name
        Label.
    pixels
        (rows, columns) uint16; None clears the background.
    """

    name: str
    pixels: NDArray[np.uint16] | None


def parse_upload(body: bytes) -> Upload:
    """Read the body of POST /background.

    Parameters
    ----------
    body
        JSON ``{"filename": text, "data": [[number, ...], ...] or null}``.

    Raises
    ------
    DataError
        If a field is missing or wrong; the message names it.
    """
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise DataError(f"the body is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise DataError('the body is not an object {"filename": text, "data": lists or null}')
    for field in ("filename", "data"):
        if field not in message:
            raise DataError(f"{field} is missing; expected filename and data")
    name = message["filename"]
    if not isinstance(name, str):
        raise DataError(f"filename: {name!r} is not text")
    data = message.pop("data")
    return Upload(name, None if data is None else to_pixels(data))


def to_pixels(data: Any) -> NDArray[np.uint16]:
    """Return nested lists as (rows, columns) uint16, without fractions.

    Raises
    ------
    DataError
        If the lists are no picture, or a value is outside 0..65535.
    """
    if not isinstance(data, list) or not all(isinstance(row, list) for row in data):
        raise DataError("data: expected rows of numbers, [[...], ...]")
    # An array of texts takes the memory of the longest one for each of its elements.
    kinds = {kind for row in data for kind in set(map(type, row))}
    if not kinds <= {bool, int, float}:
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise DataError(f"data: holds {found}; expected rows of numbers, [[...], ...]")
    try:
        values = np.array(data)
    except ValueError as error:
        raise DataError("data: the rows are not of one length") from error
    if values.ndim != 2 or not values.size or values.dtype.kind not in "biuf":
        raise DataError(
            f"data: of shape {values.shape} and type {values.dtype}; "
            "expected rows of numbers, [[...], ...]"
        )
    if values.dtype.kind == "f":
        values = np.trunc(values)
    lowest, highest = values.min(), values.max()
    if not (lowest >= 0 and highest <= 65535):
        wrong = lowest if not lowest >= 0 else highest
        raise DataError(f"data: {wrong} is outside 0..65535 (uint16)")
    return values.astype(np.uint16)


class Parser:
    """Reads one body as it arrives. `close` must be called in any case."""

    def __init__(self, expected_bytes: int | None) -> None:
        self._body = bytearray()
        self._is_large = expected_bytes is None or expected_bytes > SMALL_BYTES
        self._process: subprocess.Popen[bytes] | None = None

    async def feed(self, piece: bytes) -> None:
        """Add a piece of the body."""
        if not self._is_large:
            self._body += piece
            return
        await anyio.to_thread.run_sync(self._write, piece)

    def _started(self) -> "subprocess.Popen[bytes]":
        """Return the process. It is started here: the event loop must not wait for its start."""
        if self._process is None:
            self._process = start_module(
                "skywright.instruments.psss.endpoints.pixels", stderr=subprocess.DEVNULL, bufsize=0
            )
        return self._process

    def _write(self, piece: bytes) -> None:
        stdin = self._started().stdin
        assert stdin is not None
        rest = memoryview(piece)
        try:
            while rest:
                rest = rest[stdin.write(rest) :]
        except BrokenPipeError:  # `result` reports why the process has ended
            return

    async def result(self) -> Upload:
        """Return the background of the complete body.

        Raises
        ------
        DataError
            If the body is no background.
        """
        if not self._is_large:
            return await anyio.to_thread.run_sync(parse_upload, bytes(self._body))
        return await anyio.to_thread.run_sync(self._receive)

    def _receive(self) -> Upload:
        process = self._started()
        output, _ = process.communicate()
        if process.returncode not in (0, _REFUSED):
            raise DataError(
                f"the body could not be read (exit status {process.returncode}); "
                "is there memory for it?"
            )
        line, _, pixels = output.partition(b"\n")
        header = orjson.loads(line)
        if process.returncode == _REFUSED:
            raise DataError(header["error"])
        if header["shape"] is None:
            return Upload(header["name"], None)
        values = np.frombuffer(pixels, np.uint16).reshape(header["shape"])
        return Upload(header["name"], values)

    def close(self) -> None:
        """End the process, if it still runs."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def main() -> None:
    """Read a body from stdin; write one JSON line, and the pixels after it, to stdout."""
    try:
        upload = parse_upload(sys.stdin.buffer.read())
    except DataError as error:
        sys.stdout.buffer.write(orjson.dumps({"error": str(error)}) + b"\n")
        sys.exit(_REFUSED)
    shape = None if upload.pixels is None else upload.pixels.shape
    header: dict[str, Any] = {"name": upload.name, "shape": shape}
    sys.stdout.buffer.write(orjson.dumps(header) + b"\n")
    if upload.pixels is not None:
        sys.stdout.buffer.write(upload.pixels.data)


if __name__ == "__main__":
    main()
