"""The camera as a video server that uploads its pictures by HTTP while a trigger is open."""

import logging
import threading
from collections import Counter

import httpx

from skywright.acquire.newest import NewestQueue
from skywright.instruments.loop.camera import Camera
from skywright.instruments.loop.sources import SourceFrame
from skywright.wire.axis_body import SIGNATURES, name_with_time
from skywright.wire.axis_client import camera_url, without_login

logger = logging.getLogger(__name__)

CONNECTIONS = 2
"""Uploads at the same time, so that pictures can overtake each other as real ones do."""
WAITING = 300
"""Pictures that wait for a slow receiver; further ones push out the oldest."""
LIMIT_S = 5.0
LAST_S = 10.0
"""Longest wait for the answers to the last pictures: a receiver may send one drop by drop."""
POLL_S = 0.1
CLOSED = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
"""Errors of a request on a connection that the receiver has just closed. The picture is posted once
more; a receiver that died over it gets the same name again."""
PNG = SIGNATURES[1]


class Uploader:
    """Posts each picture of a camera, whose source runs while the trigger is open, to a receiver.

    Each is a request of its own, on one of some connections.

    Raises
    ------
    ConfigError
        If `url` is no HTTP address.
    """

    def __init__(self, camera: Camera, url: str) -> None:
        given = camera_url(url, "/")
        self.url = without_login(given)
        self._login = (given.username, given.password or "") if given.username else None
        self.counts: Counter[str] = Counter()
        """Pictures since the last opening of the trigger, by outcome: ``sent``, ``refused`` by the
        receiver, ``failed`` (not reached), ``dropped``."""
        self._camera = camera
        self._lock, self._counting = threading.Lock(), threading.Lock()
        self._closed = threading.Event()
        self._pictures: NewestQueue[SourceFrame] | None = None
        self._threads: list[threading.Thread] = []

    def trigger(self, opened: bool) -> None:
        """Begin to upload, or end when all pictures taken so far are sent; may block for that.

        A receiver that needs more than `LIMIT_S` for a connection's share loses the rest.
        """
        with self._lock:
            if opened and self._pictures is None:
                self._pictures = pictures = self._camera.subscribe(WAITING, runs_source=True)
                self._closed = closed = threading.Event()
                self.counts = Counter()
                self._threads = [
                    threading.Thread(
                        target=self._send_all, args=(pictures, closed), name="upload", daemon=True
                    )
                    for _ in range(CONNECTIONS)
                ]
                for thread in self._threads:
                    thread.start()
            elif not opened and self._pictures is not None:
                pictures, self._pictures = self._pictures, None
                try:
                    pictures.close()  # raises if the source does not stop in time
                finally:
                    self._closed.set()
                    self._send_last(pictures)

    def _send_last(self, pictures: NewestQueue[SourceFrame]) -> None:
        for thread in self._threads:
            thread.join(LIMIT_S)
        while pictures.get(0.0) is not None:
            self.counts["dropped"] += 1
        for thread in self._threads:
            thread.join(LAST_S)
        self.counts["dropped"] += pictures.dropped
        logger.info("uploads to %s: %s", self.url, dict(self.counts))

    def close(self) -> None:
        """Close the trigger."""
        self.trigger(False)

    def _send_all(self, pictures: NewestQueue[SourceFrame], closed: threading.Event) -> None:
        with httpx.Client(timeout=LIMIT_S, trust_env=False, auth=self._login) as client:
            while True:
                over = closed.is_set()
                frame = pictures.get(POLL_S)
                if frame is not None:
                    self._send(client, frame)
                elif over:
                    return

    def _send(self, client: httpx.Client, frame: SourceFrame) -> None:
        data = frame.data or b""
        headers = {
            "Content-Type": "image/png" if data.startswith(PNG) else "image/jpeg",
            "Content-Disposition": f'attachment; filename="{name_with_time(frame.time)}"',
        }
        try:
            try:
                answer = client.post(self.url, content=data, headers=headers)
            except CLOSED:  # by the receiver after its last answer, which need not say so
                answer = client.post(self.url, content=data, headers=headers)
        except httpx.HTTPError as error:
            self._count("failed", f"{type(error).__name__}: {error}")
            return
        self._count("sent" if answer.is_success else "refused", f"{answer.status_code}")

    def _count(self, outcome: str, why: str) -> None:
        with self._counting:
            self.counts[outcome] += 1
            # The first one of a trigger says it for all
            if self.counts[outcome] == 1 and outcome != "sent":
                logger.error("upload to %s %s: %s", self.url, outcome, why)
