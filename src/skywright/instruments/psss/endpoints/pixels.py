"""Reads the bodies of requests: JSON objects, and pixels, large ones in another process.

30 MB of JSON become 5.5 million Python objects. In the process of the service they would delay
every pulse for a second, and their memory would not be freed.
"""

import pickle
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from skywright.errors import ConfigError, DataError, SkywrightError
from skywright.processes.child import start_module

SMALL_BYTES = 200_000
"""Bodies up to this size are read in the process of the service."""


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
    ConfigError
        If the body is no JSON object.
    DataError
        If a field is missing or wrong; the message names it.
    """
    message = read_object(body)
    for field in ("filename", "data"):
        if field not in message:
            raise DataError(f"{field} is missing; expected filename and data")
    name = message["filename"]
    if not isinstance(name, str):
        raise DataError(f"filename: {name!r} is not text")
    data = message.pop("data")
    return Upload(name, None if data is None else to_pixels(data))


def read_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body.

    Raises
    ------
    ConfigError
        If the body is something else.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"the body is {type(value).__name__}; expected an object {{...}}")
    return value


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


def read_upload(body: bytes) -> Upload:
    """Read the body of POST /background as `parse_upload` does, a large one in another process."""
    if len(body) <= SMALL_BYTES:
        return parse_upload(body)
    with start_module(
        "skywright.instruments.psss.endpoints.pixels", stderr=subprocess.DEVNULL
    ) as process:
        output, _ = process.communicate(body)
    if process.returncode:
        raise DataError(
            f"the body could not be read (exit status {process.returncode}); "
            "is there memory for it?"
        )
    found = pickle.loads(output)
    if isinstance(found, str):
        raise DataError(found)
    return Upload(*found)


def main() -> None:
    """Read a body from stdin; write its name and pixels, or why it is refused, to stdout."""
    try:
        upload = parse_upload(sys.stdin.buffer.read())
    except SkywrightError as error:
        found: Any = str(error)
    else:
        found = upload.name, upload.pixels
    sys.stdout.buffer.write(pickle.dumps(found, pickle.HIGHEST_PROTOCOL))


if __name__ == "__main__":
    main()
