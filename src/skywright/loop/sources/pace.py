"""The clock of sources that make their own pictures."""

import threading
import time
from collections.abc import Callable

from skywright.loop.sources import Deliver, Report, SourceFrame


class Paced:
    """Deliver `make(number, time)` every `period_s`, on a thread, from `start` to `stop`.

    Parameters
    ----------
    name
        Of the source.
    make
        Gives the picture of a frame number at a time (unix s); None loses that picture;
        `StopIteration` ends the source.
    period_s
        Time between pictures.
    size
        Width and height, px, when known.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[int, float], SourceFrame | None],
        period_s: float,
        size: tuple[int, int] | None,
    ) -> None:
        self.name = name
        self.period_s = period_s
        self.size = size
        self._make = make
        self._number = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def set_period(self, seconds: float) -> float:
        """Set the time between pictures, s; takes effect with the next picture."""
        self.period_s = max(seconds, 0.001)
        return self.period_s

    def start(self, deliver: Deliver, report: Report) -> None:
        """Begin to deliver pictures; nothing happens when it delivers already."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._stop.clear()
        self._thread = threading.Thread(
            target=self._run, args=(deliver, report), name=f"source-{self.name}", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Deliver nothing any more once this has returned."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._thread = None

    close = stop

    def _run(self, deliver: Deliver, report: Report) -> None:
        due = time.monotonic() + self.period_s  # the first exposure begins now
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            try:
                frame = self._make(self._number, time.time())
            except StopIteration:
                report(f"{self.name}: no more pictures after {self._number}")
                return
            except Exception as error:  # a bad file or scene must not end the camera in silence
                report(f"{self.name}: picture {self._number}: {error}")
                frame = None
            self._number += 1
            if frame is not None:
                deliver(frame)
            # A late picture is not made up for by a burst: the schedule starts anew.
            due = max(due + self.period_s, time.monotonic() - self.period_s)
