"""Source of pictures that an AXIS video server uploads over HTTP, on any number of connections."""

import asyncio
import logging
import threading
from collections import Counter, deque
from collections.abc import Mapping

from skywright.acquire.source import Report
from skywright.errors import ConfigError
from skywright.instruments.loop.picture import picture_size
from skywright.instruments.loop.sources import Deliver, SourceFrame
from skywright.instruments.loop.sources.fetched import Date, make_dating
from skywright.wire.axis_body import time_in_name
from skywright.wire.axis_http import Cut, Event, Refused, Upload
from skywright.wire.axis_receiver import PushReceiver

logger = logging.getLogger(__name__)

SIZES_KEPT = 100


class PushedPictures:
    """Receives uploaded pictures, and delivers them between `start` and `stop`.

    It listens as long as the object exists; while it is stopped, uploads are answered and dropped.
    Frame numbers count complete uploads in order of arrival, dropped ones included, over all
    connections. Pictures on parallel connections can overtake each other; their order is that of
    their times, because a picture's arrival is the time when its upload began.

    Parameters
    ----------
    host, port
        Address to listen on. Port 0: a free port, which is then the attribute `port`.
    size
        Width and height of the first picture, px, if known. The attribute `size` is then the
        largest of the last `SIZES_KEPT` pictures, because a server may send several sizes. It is
        read without this object's lock, which is held during a delivery: a reader must not wait.
    date
        Computes the time of a picture (`skywright.instruments.loop.sources.fetched.make_dating`).

    Raises
    ------
    ConfigError
        If it cannot listen on the port.
    """

    name = "push"
    period_s = 0.0

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        size: tuple[int, int] | None = None,
        date: Date | None = None,
    ) -> None:
        self._date = date or make_dating()
        self._sizes = deque([size] if size else [], maxlen=SIZES_KEPT)
        self.size = size
        self.counts: Counter[str] = Counter()
        """Number of uploads ``received``, ``dropped`` (while stopped), ``cut off`` and ``refused``,
        and of requests that upload nothing, ``no upload``."""
        self._deliver: Deliver | None = None
        self._report: Report | None = None
        self._lock = threading.RLock()
        self._receiver = PushReceiver(self._on_event)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="source-push", daemon=True
        )
        self._thread.start()
        opening = asyncio.run_coroutine_threadsafe(self._receiver.open(host, port), self._loop)
        try:
            self.port = opening.result(5.0)
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be
            self.close()
            raise ConfigError(
                f"cannot listen for pictures on {host}:{port} ({error}); choose another port"
            ) from error

    def start(self, deliver: Deliver, report: Report) -> None:
        """Start to deliver uploads."""
        with self._lock:
            self._deliver, self._report = deliver, report

    def stop(self) -> None:
        """Drop uploads from now on; once this has returned, nothing is delivered."""
        with self._lock:
            self._deliver = self._report = None

    @property
    def lost(self) -> Mapping[str, int]:
        """Number of uploads that were lost, by cause, since the object was made."""
        counts = {cause: self.counts[cause] for cause in ("cut off", "refused")}
        return {cause: count for cause, count in counts.items() if count}

    def set_period(self, seconds: float) -> None:
        """Change nothing: the sender alone knows its period."""

    def close(self) -> None:
        """Stop listening."""
        self.stop()
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._receiver.close(), self._loop).result(3.0)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(3.0)
            self._loop.close()

    def _on_event(self, event: Event, peer: str) -> None:
        """Process an event of the receiver, on the thread of the receiver."""
        with self._lock:
            if isinstance(event, Upload):
                self._on_upload(event)
            elif isinstance(event, Cut):
                expected = event.expected_bytes or "more"
                received = f"{event.received_bytes} of {expected} bytes"
                self._count_lost("cut off", f"{peer}: upload cut off, {received}")
            elif isinstance(event, Refused):
                message = f"{peer}: {event.status.value} {event.status.phrase}: {event.why}"
                if event.is_upload:
                    self._count_lost("refused", message)
                else:  # a browser or a port scan: no picture is lost
                    self.counts["no upload"] += 1
                    logger.info("%s", message)

    def _on_upload(self, upload: Upload) -> None:
        number = self.counts["received"]
        self.counts["received"] += 1
        if (size := picture_size(upload.data, self._sizes)) is not None:
            self._sizes.append(size)
            widths, heights = zip(*self._sizes, strict=True)
            self.size = max(widths), max(heights)
        if self._deliver is None:
            self.counts["dropped"] += 1
            return
        sent = time_in_name(upload.name)
        self._deliver(
            SourceFrame(number, self._date(upload.time, sent), upload.data, sender_time=sent)
        )

    def _count_lost(self, cause: str, message: str) -> None:
        """Count an upload that failed. While stopped it is no loss: it would have been dropped."""
        if self._report is None:
            self.counts["dropped"] += 1
            return
        self.counts[cause] += 1
        self._report(message)
