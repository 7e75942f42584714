"""Counters and rate of the service, as clients of the old service read them."""

import threading
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

TIME_FORMAT = "%Y-%m-%d %H:%M:%S.%f"
"""Format of times in the statistics: local time, as in the old service."""
SILENCE_S = 1.0
"""Time without a pulse, s, after which the rate falls. A shorter time does not show that pulses are
missing."""


class ServiceStatistics:
    """The figures of GET /statistics. They begin again with each start of the processing.

    Lost pulses and results that could not be sent are counted elsewhere, see `as_json`.
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
        """Reset all figures; the processing starts now."""
        with self._lock:
            self._started = datetime.now()
            self._processed = self._sent = 0
            self._last_sent = self._duration_ms = self._last_processed_s = None
            self._rate_hz = 0.0

    def end(self) -> None:
        """Note that the processing has stopped; the rate is then 0."""
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
            Value of the monotonic clock, for the rate.
        """
        with self._lock:
            self._processed += 1
            self._duration_ms = duration_ms
            if self._last_processed_s is not None and now_s > self._last_processed_s:
                # Mean interval over about the last 50 pulses; a pause counts as one interval.
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
        """Numbers of processed pulses, also without picture, and sent results since the start."""
        with self._lock:
            return self._processed, self._sent

    @property
    def rate_hz(self) -> float:
        """Pulses per second; 0 before the second one and after a stop. It falls in a silence."""
        with self._lock:
            silent_s = time.monotonic() - (self._last_processed_s or 0.0)
            return min(self._rate_hz, 1.0 / silent_s) if silent_s > SILENCE_S else self._rate_hz

    def as_json(self, lost: Mapping[str, int], unsent: Mapping[str, int]) -> dict[str, Any]:
        """Return the figures as clients get them; {} before the first start.

        Parameters
        ----------
        lost, unsent
            Numbers of lost pulses, and of results that could not be sent, by cause.
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
