"""What the service has served: the statistics that old clients ask for."""

import threading
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

TIME_FORMAT = "%Y-%m-%d %H:%M:%S.%f"
"""Of the statistics: local time, as the old service gave it."""
SILENCE_S = 1.0
"""Without a pulse for this long the rate falls; a shorter time says nothing of it."""


class ServiceStatistics:
    """The figures of GET /statistics, begun anew with each start of the processing.

    Lost pulses and results that could not be sent are counted apart; neither counts as sent.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started: datetime | None = None
        self._processed = 0
        self._sent = 0
        self._last_sent: tuple[int, datetime] | None = None
        self._duration_ms: float | None = None
        self._rate_hz = 0.0
        self._last_processed_s: float | None = None

    def begin(self) -> None:
        """Forget what was; the processing starts now."""
        with self._lock:
            self._started = datetime.now()
            self._processed = self._sent = 0
            self._last_sent = self._duration_ms = self._last_processed_s = None
            self._rate_hz = 0.0

    def end(self) -> None:
        """Note that the processing has stopped: there is no rate."""
        with self._lock:
            self._last_processed_s = None
            self._rate_hz = 0.0

    def processed(self, duration_ms: float, now_s: float) -> None:
        """Note that a pulse was processed, with or without a picture.

        Parameters
        ----------
        duration_ms
            Time that it took.
        now_s
            Monotonic clock, for the rate.
        """
        with self._lock:
            self._processed += 1
            self._duration_ms = duration_ms
            if self._last_processed_s is not None and now_s > self._last_processed_s:
                # Mean interval over about the last 50 pulses, in which a pause weighs as one.
                interval = now_s - self._last_processed_s
                mean = 1.0 / self._rate_hz if self._rate_hz else interval
                self._rate_hz = 1.0 / (mean + (interval - mean) / min(self._processed, 50))
            self._last_processed_s = now_s

    def sent(self, pulse_id: int) -> None:
        """Note that the result of a pulse was handed to the output stream."""
        with self._lock:
            self._sent += 1
            self._last_sent = pulse_id, datetime.now()

    @property
    def counts(self) -> tuple[int, int]:
        """Pulses processed, with or without a picture, and results sent since the last start."""
        with self._lock:
            return self._processed, self._sent

    @property
    def rate_hz(self) -> float:
        """Pulses a second, 0 before the second one and after a stop; falls while none comes."""
        with self._lock:
            silent_s = time.monotonic() - (self._last_processed_s or 0.0)
            return min(self._rate_hz, 1.0 / silent_s) if silent_s > SILENCE_S else self._rate_hz

    def as_json(self, lost: Mapping[str, int], unsent: Mapping[str, int]) -> dict[str, Any]:
        """Return the figures as clients get them, {} before the first start.

        Parameters
        ----------
        lost, unsent
            Pulses lost, and results that could not be sent, by cause.
        """
        with self._lock:
            if self._started is None:
                return {}
            pulse_id, time = self._last_sent or (None, None)
            figures: dict[str, Any] = {
                "processing_start_time": self._started.strftime(TIME_FORMAT),
                "last_sent_pulse_id": pulse_id,
                "last_sent_time": time and time.strftime(TIME_FORMAT),
                "n_processed_images": self._processed,
                "n_sent": self._sent,
                "lost": dict(lost),
                "unsent": dict(unsent),
            }
            if self._duration_ms is not None:
                figures["last_processing_duration_ms"] = self._duration_ms
            return figures
