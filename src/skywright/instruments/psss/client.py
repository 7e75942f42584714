"""A client of the REST API, ours or the old service's."""

from typing import Any

import httpx
import numpy as np
import orjson
from numpy.typing import ArrayLike, NDArray

from skywright.closing import Closing
from skywright.errors import ConfigError, DataError, HardwareError

TIMEOUT_S = 10.0
UPLOAD_TIMEOUT_S = 60.0
START_TIMEOUT_S = 70.0
"""The service waits up to 60 s for its kernels (`processor.WARM_LIMIT_S`)."""


class RefusedError(DataError, ValueError):
    """The service answered that it refuses; a `ValueError` too, as the old client raised."""


class Client(Closing):
    """Talks to a PSSS service.

    Parameters
    ----------
    address
        ``http://host:port``.
    timeout_s
        Timeout of an answer, s; a start or an upload has a timeout of about a minute.

    Raises
    ------
    ConfigError
        If the address is not one.

    Notes
    -----
    All methods raise `RefusedError` with the service's reason if it refuses, `HardwareError` if it
    cannot be reached or does not answer, and `DataError` if the answer is not that of its API.

    Examples
    --------
    >>> client = Client("http://127.0.0.1:12000")
    >>> client.get_address()
    'http://127.0.0.1:12000'
    """

    def __init__(
        self, address: str = "http://127.0.0.1:12000", timeout_s: float = TIMEOUT_S
    ) -> None:
        self._address = address.rstrip("/")
        if not self._address.startswith(("http://", "https://")):
            raise ConfigError(f"address {address!r}: expected http://HOST:PORT")
        # The service is on the beamline's own network, where a proxy cannot help.
        self._http = httpx.Client(timeout=timeout_s, trust_env=False)

    def get_address(self) -> str:
        """Return the address of the service."""
        return self._address

    def start(self) -> str:
        """Start the processing; return the state, ``processing``."""
        return str(self._ask("POST", "/start", timeout_s=START_TIMEOUT_S))

    def stop(self) -> str:
        """Stop the processing; return the state, ``stopped``."""
        return str(self._ask("POST", "/stop"))

    def get_status(self) -> str:
        """Return ``stopped`` or ``processing``."""
        return str(self._ask("GET", "/status"))

    def get_roi(self) -> tuple[int, int]:
        """Return the rows (ymin, ymax) that are summed, (0, 0) for all; our service only."""
        ymin, ymax = self._ask("GET", "/status", field="roi")
        return int(ymin), int(ymax)

    def get_statistics(self) -> dict[str, Any]:
        """Return what was processed and sent since the last start; {} before the first one.

        ``lost`` and ``unsent`` count since the start of the process.
        """
        return dict(self._ask("GET", "/statistics", field="statistics"))

    def get_parameters(self) -> dict[str, Any]:
        """Return the parameters; ``background`` is the name of the one in use, or empty."""
        return dict(self._ask("GET", "/parameters", field="parameters"))

    def set_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Change parameters, all or none of them; return all that there are now."""
        native = {
            # A masked array is sent by its `tolist`, which gives None for masked elements.
            name: _native(value) if type(value) is np.ndarray else value
            for name, value in parameters.items()
        }
        option = orjson.OPT_SERIALIZE_NUMPY
        body = orjson.dumps(native, option=option, default=lambda array: array.tolist())
        return dict(self._ask("POST", "/parameters", body, field="parameters"))

    def set_background(self, filename: str = "", data: ArrayLike | None = None) -> str:
        """Set the picture that is subtracted, or clear it.

        Parameters
        ----------
        filename
            Its name, a label only: no file is read.
        data
            (rows, columns), 0 to 65535, fractions are cut; an array, lists, or an object that has
            ``tolist()``; None clears.

        Returns
        -------
        str
            ``ok``.

        Raises
        ------
        DataError
            If `data` is no picture of numbers, or has masked pixels.
        """
        if data is not None and not isinstance(data, np.ndarray) and hasattr(data, "tolist"):
            data = data.tolist()
        try:
            pixels = None if data is None else np.asarray(data)
        except ValueError as error:
            raise DataError(f"background: {error}") from error
        if np.ma.is_masked(data):
            raise DataError("background: has masked pixels, expected a value for each")
        if pixels is not None and (pixels.ndim != 2 or pixels.dtype.kind not in "biuf"):
            raise DataError(
                f"background of shape {pixels.shape} and dtype {pixels.dtype}: "
                "expected a picture (rows, columns) of numbers"
            )
        body = orjson.dumps(
            {"filename": filename, "data": None if pixels is None else _native(pixels)},
            option=orjson.OPT_SERIALIZE_NUMPY,
        )
        return str(self._ask("POST", "/background", body, UPLOAD_TIMEOUT_S, "state"))

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        timeout_s: float | None = None,
        field: str = "status",
    ) -> Any:
        """Return a field of the answer to a request."""
        name = f"{method} {self._address}{path}"
        timeout = httpx.USE_CLIENT_DEFAULT if timeout_s is None else timeout_s
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            reply = self._http.request(
                method, self._address + path, content=body, headers=headers, timeout=timeout
            )
        except httpx.TimeoutException as error:
            raise HardwareError(f"{name}: no answer in time; is the service overloaded?") from error
        except httpx.HTTPError as error:
            raise HardwareError(f"{name}: {error}; does the service run there?") from error
        try:
            answer = orjson.loads(reply.content)
        except orjson.JSONDecodeError as error:
            raise DataError(
                f"{name}: HTTP {reply.status_code}, not JSON; is this a PSSS service?"
            ) from error
        if not isinstance(answer, dict) or "state" not in answer or "status" not in answer:
            raise DataError(f"{name}: an answer without state and status; is this a PSSS service?")
        if answer["state"] != "ok":
            raise RefusedError(str(answer["status"]))
        if field not in answer:
            raise DataError(f"{path}: an answer without {field}")
        return answer[field]


def _native(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array in C's order and the native byte order; orjson takes no other."""
    return np.asarray(array, array.dtype.newbyteorder("="), order="C")
