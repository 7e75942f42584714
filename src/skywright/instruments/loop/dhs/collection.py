"""One series of pictures: every one recorded, searched for the loop, and reported to DCSS.

Pictures come on the source's thread, which only numbers and queues them; the search runs on threads
of its own, and this coroutine reports in the order of the numbers.
"""

import asyncio
import hashlib
import math
import threading
import time
from collections import Counter, deque
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skywright.errors import DataError
from skywright.instruments.loop.backends import Detector
from skywright.instruments.loop.detection import Detection
from skywright.instruments.loop.dhs.config import DhsConfig
from skywright.instruments.loop.dhs.replies import (
    NO_PICTURE,
    OperationError,
    loop_words,
    why_failed,
)
from skywright.instruments.loop.picture import Size
from skywright.instruments.loop.sources import SourceFrame

if TYPE_CHECKING:  # it imports this module
    from skywright.instruments.loop.dhs.pictures import Saver

QUEUE_BYTES = 4_000_000
"""Of pictures that wait for the search; beyond it pictures are recorded and not searched."""
FIRST_S = 14.0
"""Time for the first picture: spindle and trigger must get going, and scripts wait 15 s."""
QUIET_S = 5.0
"""A series without a new picture for this time is over."""
LATE_S = 0.5
"""Pictures belong to a series until this time after its stop; video servers are 0.3 s late."""
SKIPPED, UNDECODABLE, NOT_SEARCHED = "skipped", "undecodable", "not searched"
FATES = ("received", "analysed", "failed", SKIPPED, UNDECODABLE, "doubled")


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one picture of a series."""

    index: int
    """Number in the series, from 0, in order of arrival."""
    frame_number: int
    time: float
    """Its identity in the recording, and its time, unix s."""
    found: Detection | None = None
    size: Size = (0, 0)
    """What is in it, and its width and height, px; None if it was not searched."""
    backend: str = ""
    """What has found it, one of `skywright.instruments.loop.backends.BACKENDS`."""
    why: str = ""
    """Why it was not searched: `SKIPPED`, `UNDECODABLE`, or `NOT_SEARCHED` and the error."""

    @property
    def row(self) -> str:
        """The update that DCSS gets of it."""
        if self.found is None:
            return f"LOOP_INFO {self.index} failed {self.why}"
        why = why_failed(self.found, self.size)
        if why:
            return f"LOOP_INFO {self.index} failed {why}"
        return f"LOOP_INFO {self.index} normal {loop_words(self.found, self.size)}"


class Collection:
    """A series, from the first picture to the last row.

    Parameters
    ----------
    detector, search
        What searches the pictures, and the threads on which it does.
    key
        Name of the series for a detector elsewhere; a picture's is ``key:index``.
    config
        How many pictures one turn gives (a stopped series with that many does not wait for late
        ones), and whether the series ends with them by itself.
    saver
        Saves each picture; None saves none.
    """

    def __init__(
        self,
        detector: Detector,
        search: Executor,
        key: str,
        config: DhsConfig,
        saver: "Saver | None" = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        """Pictures ``received``, ``doubled`` (the same bytes once more), and of those reported
        ``failed`` (no row ``normal``), `SKIPPED`, `UNDECODABLE`, `NOT_SEARCHED`."""
        self.backends: Counter[str] = Counter()
        """Pictures searched, by what has searched them."""
        self._detector = detector
        self.key = key
        self._expected, self._end_by_count = config.expected, config.end_by_count
        self._saver = saver
        self._lock = threading.Lock()
        self._order: deque[Future[Finding]] = deque()
        self._waiting_bytes = 0
        self._digests: set[bytes] = set()
        self._last = time.monotonic()
        self._stopped: float | None = None
        self._over = False
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._search = search

    # ---- the source's thread

    def take(self, frame: SourceFrame) -> None:
        """Give a picture its number and queue it; returns at once."""
        digest = hashlib.blake2b(frame.data or b"", digest_size=16).digest()
        with self._lock:
            if self._over or self._is_full or time.monotonic() > self._takes_until():
                return
            index = self.counts["received"]
            self.counts["received"] += 1
            self.counts["doubled"] += digest in self._digests
            self._digests.add(digest)
            self._last = time.monotonic()
            if self._saver is not None:  # also what the search has no time for
                self._saver.save_later(index, frame)
            if self._waiting_bytes and self._waiting_bytes + frame.nbytes > QUEUE_BYTES:
                skipped: Future[Finding] = Future()
                skipped.set_result(Finding(index, frame.frame_number, frame.time, why=SKIPPED))
                self._order.append(skipped)
            else:
                self._waiting_bytes += frame.nbytes
                self._order.append(self._search.submit(self._examine, index, frame))
        self._loop.call_soon_threadsafe(self._changed.set)

    # ---- the search's threads

    def _examine(self, index: int, frame: SourceFrame) -> Finding:
        try:
            finding = self._find(index, frame)
        except Exception as error:  # whatever a detector raises, the next picture may be good
            why = f"{NOT_SEARCHED}: {type(error).__name__}"
            finding = Finding(index, frame.frame_number, frame.time, why=why)
        finally:
            with self._lock:
                self._waiting_bytes -= frame.nbytes
        if self._saver is not None:
            self._saver.save_drawn(frame, finding)
        return finding

    def _find(self, index: int, frame: SourceFrame) -> Finding:
        try:
            picture = frame.pixels(color=self._detector.color)
        except DataError:
            return Finding(index, frame.frame_number, frame.time, why=UNDECODABLE)
        found = self._detector.find(picture, frame.data, f"{self.key}:{index}")
        size = picture.shape[1], picture.shape[0]
        return Finding(index, frame.frame_number, frame.time, found.detection, size, found.backend)

    # ---- the event loop

    def expect(self) -> None:
        """Say that the spindle turns from now on: the wait for the first picture begins."""
        self._last = time.monotonic()

    def stop(self) -> None:
        """Say that the turn is over: what has come is still searched and reported."""
        if self._stopped is None:
            self._stopped = time.monotonic()
        self._changed.set()

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped is not None

    async def next(self) -> Finding | None:
        """Return the next finding, in order; None when the series is over.

        Raise `OperationError` if not one picture has come, nor a stop.
        """
        while not self._order:
            left_s = self._ends() - time.monotonic()
            if left_s <= 0.0:
                with self._lock:  # `take` may be about to queue one more
                    self._over = not self._order
                if not self._over:
                    break
                if not self.counts["received"] and self._stopped is None:
                    raise OperationError(NO_PICTURE)
                return None
            self._changed.clear()
            try:
                async with asyncio.timeout(left_s):
                    await self._changed.wait()
            except TimeoutError:
                continue
        finding = await asyncio.wrap_future(self._order.popleft())
        self.counts["failed"] += " failed " in finding.row
        if finding.found is None:
            self.counts[finding.why.partition(":")[0]] += 1
        else:
            self.backends[finding.backend] += 1
        return finding

    def close(self) -> None:
        """Take no more pictures, and search none of those that wait."""
        with self._lock:
            self._over = True
            for waiting in self._order:
                waiting.cancel()

    def fates(self) -> dict[str, int]:
        """Return the number of pictures of each of `FATES`."""
        analysed = {"analysed": self.backends.total()}
        return {fate: analysed.get(fate, self.counts[fate]) for fate in FATES}

    def summary(self) -> str:
        """Say how the series went, for DCSS's log."""
        expected = f"{self._expected} expected, " if self._expected else ""
        by = ", ".join(f"{name} {count}" for name, count in self.backends.most_common())
        words = {fate: f"{count} {fate}" for fate, count in self.fates().items()}
        words["analysed"] += f" ({by})" if by else ""
        return expected + ", ".join(words.values())

    @property
    def _is_full(self) -> bool:
        return self._end_by_count and self.counts["received"] >= self._expected

    def _takes_until(self) -> float:
        """Return until when pictures belong to the series."""
        return math.inf if self._stopped is None else self._stopped + LATE_S

    def _ends(self) -> float:
        """Return when the series is over if nothing more comes."""
        if self._is_full:
            return self._last
        if self._stopped is not None:
            complete = 0 < self._expected <= self.counts["received"]
            return self._stopped if complete else self._takes_until()
        return self._last + (QUIET_S if self.counts["received"] else FIRST_S)
