"""The result of a live analysis as a device: a plan triggers it to wait for the present frame."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from ophyd.status import Status

from devices.guarded import ReasonStatusMixin
from skywright.callbacks.derived import COUNTS, data_key
from skywright.callbacks.reports import Progress, Reports
from skywright.callbacks.worker_supervisor import START_LIMIT_S
from skywright.errors import ConfigError, HardwareError

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
        arguments = status, uid, wanted, self.live.request_result(wanted)
        threading.Thread(target=self._wait, args=arguments, name=self.name, daemon=True).start()
        return status

    def _wait(self, status: Status, uid: str, wanted: int, number: int) -> None:
        """End a status with the result of the first `wanted` frames of a run, or with an error."""
        updates: SimpleQueue[Progress] = SimpleQueue()
        unsubscribe = self.live.subscribe(updates.put)
        try:
            self._reached = self._await_result(updates, uid, wanted, number)
        except Exception as error:  # a status that never ends would hold the plan
            status.set_exception(error)
        else:
            status.set_finished()
        finally:
            unsubscribe()

    def _await_result(
        self, updates: "SimpleQueue[Progress]", uid: str, wanted: int, number: int
    ) -> Progress:
        """Return the result; raise if it does not come, unless the worker is starting."""
        live, begun = self.live, time.monotonic()
        what = f"{self.name}: analysis {live.name}"
        progress, is_starting = live.progress(uid), live.is_starting
        updates.put(progress)  # it may be the result
        deadline, reached = begun + self.limit_s, progress.reached
        check_at = min(begun + self.timeout_s, deadline)
        if is_starting:
            logger.info("%s waits for the worker of %s to start", self.name, live.name)
        while True:
            try:
                progress = updates.get(timeout=max(check_at - time.monotonic(), 0.0))
            except Empty:
                before, reached = reached, live.progress(uid).reached
                now = time.monotonic()
                was_starting, is_starting = is_starting, live.is_starting
                if is_starting:
                    deadline = min(now + self.limit_s, begun + self.start_limit_s)
                elif was_starting:
                    deadline = now + self.limit_s
                if now >= deadline:
                    why = "; its worker is still starting" if is_starting else ""
                    waited = f"{now - begun:.0f} s{why}"
                    raise HardwareError(
                        f"{what} is at frame {reached} of {wanted} after {waited}"
                    ) from None
                # A worker that is starting cannot make progress
                if not (was_starting or is_starting or reached != before):
                    raise HardwareError(
                        f"{what} made no progress for {self.timeout_s:g} s; "
                        f"it is at frame {before} of {wanted}"
                    ) from None
                check_at = min(now + self.timeout_s, deadline)
                continue
            if progress.raw_uid != uid:
                continue
            is_answered = progress.done or progress.answered >= number
            if progress.error and is_answered:
                is_fault = progress.error_type == ConfigError.__name__
                kind = ConfigError if is_fault else HardwareError
                raise kind(f"{what} failed: {progress.error}")
            if progress.reached >= wanted and is_answered:
                return progress
            if progress.done:
                raise HardwareError(f"{what} ended at frame {progress.reached} of {wanted}")

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
