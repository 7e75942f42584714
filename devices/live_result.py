"""The result of a live analysis as a device: a plan triggers it to wait for the present frame."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ophyd.status import Status

from devices.guarded import ReasonStatusMixin
from skywright.callbacks.derived import COUNTS, data_key
from skywright.callbacks.reports import Progress, Reports
from skywright.callbacks.worker_supervisor import START_LIMIT_S
from skywright.errors import ConfigError, HardwareError, SkywrightError

logger = logging.getLogger(__name__)

LIMIT_S = 60.0
"""Default of `LiveResult.limit_s`, s."""
STALL_TIMEOUT_S = 20.0
"""Default of `LiveResult.timeout_s`, s. On a computer that is ten times slower than usual, a batch
of frames takes 5 s and more."""
_MISSING: dict[str, Any] = {"f": float("nan"), "i": -1, "U": ""}
"""Value of a missing result, by kind of dtype. Booleans have none: they are read only when known.
Other kinds, such as unsigned integers, are refused."""


class StatusWithReason(ReasonStatusMixin, Status):
    """A status that, when it failed, shows why."""


class LiveResult:
    """Scalars of a live analysis, Triggerable and Readable.

    Parameters
    ----------
    live
        The analysis, of the first or of the second stage.
    name
        Device name; data keys are ``<name>_<result>``.
    present
        Returns the number of frames that the camera has taken in this run, where that is ahead of
        the documents (fly scans); by default the number of frames in the documents.
    timeout_s
        `trigger` fails if the analysis makes no progress for this time.
    limit_s
        `trigger` fails after this time, also if the analysis still makes progress: a decision that
        comes minutes late is useless. Both limits exclude the time in which the worker starts.
    start_limit_s
        `trigger` fails if the worker is still starting after this time.
    hinted
        Results to show in tables.

    Raises
    ------
    ConfigError
        If a scalar result has a dtype in which a missing value would look like a value.
    """

    parent = None

    def __init__(
        self,
        live: Reports,
        name: str = "live",
        *,
        present: Callable[[], int] | None = None,
        timeout_s: float = STALL_TIMEOUT_S,
        limit_s: float = LIMIT_S,
        start_limit_s: float = START_LIMIT_S,
        hinted: Sequence[str] = (),
    ) -> None:
        self.live = live
        self.name = name
        self._present = present
        self.timeout_s, self.limit_s, self.start_limit_s = timeout_s, limit_s, start_limit_s
        self._hinted = tuple(hinted)
        self._reached = Progress("")
        self._columns = [*COUNTS, *(c for c in live.analysis.results if not c.shape)]
        for column in self._columns:
            if np.dtype(column.dtype).kind not in (*_MISSING, "b"):
                raise ConfigError(
                    f"{name}: result {column.name} of analysis {live.name} is declared as "
                    f"{np.dtype(column.dtype)}, which has no value that means 'missing'; declare a "
                    "signed integer, a float, text or a boolean"
                )

    @property
    def hints(self) -> dict[str, list[str]]:
        """Fields that tables show."""
        return {"fields": [f"{self.name}_{key}" for key in self._hinted]}

    def trigger(self) -> Status:
        """Wait for the result that includes the present frame.

        Returns
        -------
        Status
            Fails with `HardwareError`, naming the analysis, when there is no run to wait for, when
            the analysis failed, or when it gets no further; with `ConfigError` when the analysis
            says that the configuration is at fault.
        """
        status = StatusWithReason(obj=self)
        uid = self.live.raw_uid
        wanted = max(self._present() if self._present else 0, self.live.announced)
        if uid is None or not self.live.is_running or wanted == 0:
            why = f"there is no frame to analyze with {self.live.name} yet"
            if self.live.is_running and self.live.unusable:
                why = f"analysis {self.live.name} failed: {self.live.unusable}"
            status.set_exception(HardwareError(f"{self.name}: {why}"))
            return status
        _Wait(self, status, uid, wanted).begin()
        return status

    def accept(self, progress: Progress) -> None:
        """Take over the result that `read` gives."""
        self._reached = progress

    def read(self) -> dict[str, Any]:
        """Return the scalars that the last `trigger` waited for; missing is NaN, "" or -1.

        Raises
        ------
        HardwareError
            Before the first `trigger`, if a result is a boolean.
        """
        missing = {c.name: _MISSING.get(np.dtype(c.dtype).kind) for c in self._columns}
        values = missing | dict(self._reached.result)
        found = {f"{self.name}_{c.name}": values[c.name] for c in self._columns}
        unknown = [key for key, value in found.items() if value is None]
        if unknown:
            raise HardwareError(
                f"{self.name}: there is no result yet, and {', '.join(unknown)} can only be true "
                f"or false: trigger {self.name} before it is read"
            )
        stamp = self._reached.time or time.time()
        return {key: {"value": value, "timestamp": stamp} for key, value in found.items()}

    def describe(self) -> dict[str, Any]:
        """Return types, units and descriptions of the scalars."""
        source = f"ANALYSIS:{self.live.name}"
        return {f"{self.name}_{each.name}": data_key(each, source) for each in self._columns}

    def read_configuration(self) -> dict[str, Any]:
        """Return which analysis it is."""
        stamp = time.time()
        values = {"analysis": self.live.name, "version": self.live.analysis.version}
        return {f"{self.name}_{key}": {"value": v, "timestamp": stamp} for key, v in values.items()}

    def describe_configuration(self) -> dict[str, Any]:
        """Return types of the configuration."""
        source = f"ANALYSIS:{self.live.name}"
        return {
            f"{self.name}_{key}": {"source": source, "dtype": "string", "shape": []}
            for key in ("analysis", "version")
        }


class _Wait:
    """One wait for one frame; ends its status once, by progress or by the clock."""

    def __init__(self, device: LiveResult, status: Status, uid: str, wanted: int) -> None:
        self._device, self._status = device, status
        self._uid, self._wanted = uid, wanted
        self._begun = time.monotonic()
        self._deadline = self._begun + device.limit_s
        self._lock = threading.Lock()
        self._over = False
        self._number = device.live.request_result(wanted)
        self._reached = device.live.progress(uid).reached
        self._is_starting = device.live.is_starting
        if self._is_starting:
            logger.info("%s waits for the worker of %s to start", device.name, device.live.name)
        self._unsubscribe: Callable[[], None] = lambda: None

    def begin(self) -> None:
        self._start_timer()
        self._unsubscribe = self._device.live.subscribe(self._on_progress)
        self._on_progress(self._device.live.progress(self._uid))
        if self._over:  # it may have ended before it knew how to unsubscribe
            self._unsubscribe()

    def _on_progress(self, progress: Progress) -> None:
        if progress.raw_uid != self._uid:
            return
        is_answered = progress.done or progress.answered >= self._number
        if progress.error and is_answered:
            kind = ConfigError if progress.error_type == ConfigError.__name__ else HardwareError
            self._end(f"failed: {progress.error}", kind)
        elif progress.reached >= self._wanted and is_answered:
            self._device.accept(progress)
            self._end(None)
        elif progress.done:
            self._end(f"ended at frame {progress.reached} of {self._wanted}")

    def _give_up(self) -> None:
        """End the wait, unless the analysis is starting or makes progress."""
        live = self._device.live
        before, self._reached = self._reached, live.progress(self._uid).reached
        now = time.monotonic()
        was_starting, self._is_starting = self._is_starting, live.is_starting
        why = "; its worker is still starting" if self._is_starting else ""
        if self._is_starting:
            latest = self._begun + self._device.start_limit_s
            self._deadline = min(now + self._device.limit_s, latest)
        elif was_starting:
            self._deadline = now + self._device.limit_s
        if now >= self._deadline:
            waited = f"{now - self._begun:.0f} s"
            self._end(f"is at frame {self._reached} of {self._wanted} after {waited}{why}")
        # A worker that is starting cannot make progress
        elif was_starting or self._is_starting or self._reached != before:
            self._start_timer()
        else:
            self._end(
                f"made no progress for {self._device.timeout_s:g} s; "
                f"it is at frame {before} of {self._wanted}"
            )

    def _start_timer(self) -> None:
        left_s = max(self._deadline - time.monotonic(), 0.0)
        with self._lock:
            if not self._over:
                self._timer = threading.Timer(min(self._device.timeout_s, left_s), self._give_up)
                self._timer.daemon = True
                self._timer.start()

    def _end(self, trouble: str | None, kind: type[SkywrightError] = HardwareError) -> None:
        with self._lock:
            if self._over:
                return
            self._over = True
        self._timer.cancel()
        self._unsubscribe()
        if trouble is None:
            self._status.set_finished()
        else:
            live = self._device.live
            self._status.set_exception(kind(f"{self._device.name}: analysis {live.name} {trouble}"))
