"""A trained network behind the REST path of an AutoML container; our network stands in for it.

Every picture gets a result in time: when the service is silent, loading, wrong or overwhelmed, the
detector of `skywright.instruments.loop.detect` answers and the result says why.
"""

import itertools
import logging
import threading
import time

import httpx
import numpy as np
from numpy.typing import NDArray

from skywright.errors import ConfigError, DataError, HardwareError, message_of
from skywright.instruments.loop.backends import Detector, Found, check_number
from skywright.instruments.loop.backends.boxes import CONSIDERED, from_boxes
from skywright.instruments.loop.detect import find_loop
from skywright.instruments.loop.picture import encode_jpeg, to_gray
from skywright.waiting import pause
from skywright.wire import automl
from skywright.wire.automl import BOXES_MAX, HEALTH_PATH, PREDICT_PATH, Box, Instance
from skywright.wire.axis_client import camera_url, hide_login

logger = logging.getLogger(__name__)

FIRST_PAUSE_S, PAUSE_MAX_S = 1.0, 30.0
RETRY_AFTER_S = 0.2
HEALTH_LIMIT_S = 1.0
REPLY_BYTES_MAX = 4_000_000
JPEG_QUALITY = 95
BUSY = 503


class AutoMLDetector(Detector):
    """Asks a service for boxes.

    A service that does not answer is left alone for a second, and each time for twice as long, up
    to 30 s; then one picture asks for its health first.

    Parameters
    ----------
    url
        ``http://host:8501``; the path of the predictions may follow.
    threshold
        Score below which a box is nothing.
    timeout_s, retries
        Limit for a picture, with its `retries`, when the service cannot be reached or is busy.
    waiting
        Pictures under way at the same time; further ones do not wait.
    most_boxes
        Number of boxes that are asked for and looked at, best scores first; None asks for as many
        as AutoML's clients do, and looks at `CONSIDERED`.

    Raises
    ------
    ConfigError
        If `url` is no HTTP address, or a number is out of range.
    """

    def __init__(
        self,
        url: str,
        threshold: float = 0.04,
        timeout_s: float = 4.0,
        retries: int = 1,
        waiting: int = 16,
        most_boxes: int | None = None,
    ) -> None:
        try:
            camera_url(url, "/")
        except ConfigError as error:
            raise ConfigError(
                f"automl: url {hide_login(str(url))!r}: expected http://host:port"
            ) from error
        check_number("automl: threshold", threshold, 0, 1)
        check_number("automl: timeout_s", timeout_s, 0.01, 3600)
        check_number("automl: retries", retries, 0, 100, whole=True)
        check_number("automl: waiting", waiting, 1, 1000, whole=True)
        if most_boxes is not None:
            check_number("automl: most_boxes", most_boxes, 1, 100, whole=True)
        self.url = url.rstrip("/").removesuffix(PREDICT_PATH)
        self._service = f"automl: {hide_login(self.url)}"
        """Name and address of the service, for messages."""
        self.threshold = threshold
        self._timeout_s, self._retries, self._waiting = timeout_s, retries, waiting
        self._asked, self._considered = most_boxes or BOXES_MAX, most_boxes or CONSIDERED
        self._places = threading.BoundedSemaphore(waiting)
        self._keys = itertools.count()
        self._lock = threading.Lock()
        self._pause_s, self._down_until, self._why = 0.0, 0.0, ""
        self._client = httpx.Client(
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=waiting),
            trust_env=False,
        )

    def find(self, picture: NDArray[np.uint8], file: bytes | None = None, key: str = "") -> Found:
        """Look at a picture; `file` goes out unchanged if it is a JPEG."""
        gray = to_gray(picture)
        seen = find_loop(gray)
        if not self._places.acquire(blocking=False):
            return Found(seen, "network", f"automl: {self._waiting} pictures wait already")
        try:
            boxes = self._ask(picture, file, key or f"loop:{next(self._keys)}")
        except (HardwareError, DataError) as error:
            logger.warning("%s; our detector stands in", error)
            return Found(seen, "network", str(error))
        finally:
            self._places.release()
        found = from_boxes(boxes, seen, gray.shape, self.threshold, self._considered)
        return Found(found, "automl")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _ask(self, picture: NDArray[np.uint8], file: bytes | None, key: str) -> list[Box]:
        """Return the boxes; raise HardwareError for no reply, DataError for a wrong one."""
        deadline = time.monotonic() + self._timeout_s
        try:
            self._check_health()
            if file is None or not file.startswith(b"\xff\xd8"):
                file = encode_jpeg(picture, JPEG_QUALITY, "444")
            reply = self._post(automl.encode_request([Instance(key, file)], self._asked), deadline)
        except HardwareError as error:
            with self._lock:
                if not self._why or time.monotonic() >= self._down_until:
                    self._stay_away(str(error))
            raise
        with self._lock:
            self._pause_s, self._why = 0.0, ""
        try:
            return automl.decode_reply(reply, key)
        except DataError as error:
            raise DataError(f"{self._service}: {error}") from error

    def trouble(self) -> str:
        """Return why the service cannot be used at present; empty if it answers."""
        try:
            health = self._client.get(self.url + HEALTH_PATH, timeout=HEALTH_LIMIT_S)
        except httpx.HTTPError as error:
            return f"{self._service}: {_reason(error)}"
        return "" if health.is_success else f"{self._service}{HEALTH_PATH}: {health.status_code}"

    def _check_health(self) -> None:
        """Let nobody wait for a service that is known to be down."""
        with self._lock:
            if not self._why:
                return
            if time.monotonic() < self._down_until:
                raise HardwareError(self._why)
            self._stay_away(self._why)  # this picture asks, the others go on without
        if why := self.trouble():
            raise HardwareError(why)

    def _stay_away(self, why: str) -> None:
        """Begin the next pause, twice as long; the lock is held."""
        self._pause_s = min(max(2.0 * self._pause_s, FIRST_PAUSE_S), PAUSE_MAX_S)
        self._down_until, self._why = time.monotonic() + self._pause_s, why

    def _post(self, body: bytes, deadline: float) -> bytes:
        left = self._retries
        while True:
            try:
                return self._post_once(body, deadline)
            except _AgainError as error:
                if left == 0 or time.monotonic() + RETRY_AFTER_S >= deadline:
                    raise HardwareError(f"{self._service}: {error}") from error
            left -= 1
            pause(RETRY_AFTER_S)

    def _post_once(self, body: bytes, deadline: float) -> bytes:
        reply = bytearray()
        left = max(deadline - time.monotonic(), 0.01)
        headers = {"Content-Type": "application/json"}
        try:
            with self._client.stream(
                "POST", self.url + PREDICT_PATH, content=body, headers=headers, timeout=left
            ) as answer:
                for piece in answer.iter_bytes():
                    reply += piece
                    if time.monotonic() > deadline:
                        raise HardwareError(f"{self._service}: no reply in {self._timeout_s} s")
                    if len(reply) > REPLY_BYTES_MAX:
                        raise DataError(f"{self._service}: more than {REPLY_BYTES_MAX} bytes")
        except httpx.TimeoutException as error:
            raise HardwareError(f"{self._service}: {_reason(error)}") from error
        except httpx.HTTPError as error:
            raise _AgainError(_reason(error)) from error
        if answer.status_code == BUSY:
            raise _AgainError("503, still loading")
        if not answer.is_success:
            raise DataError(f"{self._service}: {answer.status_code} {bytes(reply[:200])!r}")
        return bytes(reply)


class _AgainError(Exception):
    """A failure that another attempt may cure."""


def _reason(error: httpx.HTTPError) -> str:
    silent = isinstance(error, httpx.TimeoutException)
    return "no reply in time" if silent else message_of(error)
