"""Base class of devices whose IOC appends rows to a file.

The IOC posts the number of rows; the device turns that number into documents. During a recording,
a decreasing row count, a stopped heartbeat or a lost connection raises a HardwareError in the plan.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ophyd import Component as Cpt
from ophyd import EpicsSignalRO, Kind, Signal

from devices.file_stream import FileStream
from devices.guarded import PUT_S, GuardedDevice
from skywright.errors import HardwareError
from skywright.waiting import pause

logger = logging.getLogger(__name__)

MONITOR_TIMEOUT_S = 1.0
"""Timeout for a monitor to deliver the value that a get returned, s."""
POLL_PERIOD_S = 0.02


class FileStreamDevice(GuardedDevice):
    """A device whose IOC appends rows to a file; it emits stream documents of these rows.

    A missing row is no error while the heartbeat changes: a telescope may be idle.
    The device is not for a baseline: a baseline triggers its devices also where the plan does not
    stage them, and a trigger before `stage` raises.
    A subclass must (1) call `_follow` in its constructor for each stream whose rows a PV counts,
    (2) open its files in `_open`, by `_record`, and (3) return the signals of messages in
    `_message_signals`. It may override `_stop_recording` and `check_size`.

    Parameters
    ----------
    prefix
        Prefix of the PVs, with its colon.
    assets
        Directory below which the IOC writes; a dated directory in it is made for each day.
    name
        Name of the device.
    """

    row_name = "row"
    """Name of a row of the recording, for messages."""

    heartbeat = Cpt(EpicsSignalRO, "HEARTBEAT", kind=Kind.omitted, auto_monitor=True)
    heartbeat_limit = Cpt(Signal, value=10.0, kind=Kind.config, metadata={"units": "s"})
    """Maximum time without a heartbeat, s; 0: no limit."""

    def __init__(self, prefix: str, *, assets: Path, name: str, **kwargs: Any) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self.assets = Path(assets)
        self._changed = threading.Condition()
        self._silent_since = time.monotonic()
        """Start of the timeout for silence (monotonic clock, s): the last heartbeat, or the last
        restart of the timeout."""
        self._fault: HardwareError | None = None
        self._abort = self._flying = False
        self._followed: list[tuple[FileStream, EpicsSignalRO]] = []
        if self.heartbeat is not None:
            self.heartbeat.subscribe(lambda **_: self._restart_timeout(), run=False)

    def _follow(self, stream: FileStream, captured: EpicsSignalRO) -> None:
        """Copy the row count of the IOC, `captured`, to `stream.rows` at each monitor."""
        first = not self._followed
        self._followed.append((stream, captured))
        captured.subscribe(lambda value, **_: self._on_rows(stream, int(value)), run=False)
        if first:
            captured.subscribe(self._on_connection, event_type=captured.SUB_META, run=False)

    def _open(self) -> None:
        """Open the files of the recording; `_record` opens one."""
        raise NotImplementedError

    def check_size(self) -> None:
        """Do nothing; a device whose rows may change their size overrides it, and raises."""

    # ---- what the IOC posts (Channel Access threads)

    def _on_rows(self, stream: FileStream, rows: int) -> None:
        with self._changed:
            self._store_row_count(stream, rows)
            self._changed.notify_all()

    def _store_row_count(self, stream: FileStream, rows: int) -> None:
        """Store the row count; set a fault instead if it decreased while a file is open."""
        if stream.file and rows < stream.rows:
            self._set_fault("its row count decreased, the IOC was restarted")
        else:
            stream.rows = rows

    def _restart_timeout(self) -> None:
        """Restart the timeout for silence."""
        with self._changed:
            self._silent_since = time.monotonic()
            self._changed.notify_all()

    def _on_connection(self, connected: bool = True, **_: Any) -> None:
        with self._changed:
            if not connected:
                self._set_fault("it does not answer")
            self._changed.notify_all()

    def _set_fault(self, reason: str) -> None:
        """Note that the IOC is lost, if it records; the first reason is kept."""
        recorded = next((stream for stream, _ in self._followed if stream.file), None)
        if recorded is not None and self._fault is None:
            self._fault = HardwareError(
                f"{self.name}: lost the IOC at {self.prefix} during a recording ({reason}); "
                "restart the IOC and repeat the plan. "
                f"The recording that begins with {recorded.file} has {recorded.rows} "
                f"{self.row_name}s"
            )

    # ---- staging

    def stage(self) -> list[Any]:
        """Open a recording in a file of its own.

        Raises
        ------
        HardwareError
            If the IOC does not answer, or cannot write.
        """
        self.connect()
        staged = super().stage()
        try:
            self._abort, self._fault, self._flying = False, None, False
            self._stop_recording()
            self._open()
        except BaseException:
            self.unstage()  # closes the files that were opened before the failure
            raise
        return staged

    def unstage(self) -> list[Any]:
        """Stop, and close the files; does not fail when the IOC is gone."""
        self._flying = False
        for stream, _ in self._followed:
            stream.end()
        try:
            if self.connected:
                self._stop_recording()
        except HardwareError as error:
            logger.warning("%s", error)
        return super().unstage()

    def _record(
        self,
        stream: FileStream,
        captured: EpicsSignalRO,
        name: str,
        beside: Sequence[tuple[FileStream, EpicsSignalRO]] = (),
    ) -> None:
        """Open a file, and begin the recording of `stream` in it.

        Parameters
        ----------
        stream
            Stream of the rows of the file.
        captured
            Signal that counts its rows.
        name
            Name of the file, without suffix.
        beside
            Streams of other files that the IOC opens at the same time, each with the signal that
            counts its rows; the caller begins their recordings.

        Raises
        ------
        ConfigError
            If the path has characters beyond ASCII.
        HardwareError
            If the IOC cannot open the file, or does not answer in time.
        """
        for signal, value in stream.plugin.settings(self.assets, name):
            self._put(signal, value)
        # The monitor may still deliver the row count of the previous file.
        counted = [(stream, captured), *beside]
        before = [self._count_before(*each) for each in counted]
        self._put(stream.plugin.capture, 1)
        for each, count in zip(counted, before, strict=True):
            self._await_new_count(*each, count)
        stream.begin(self._read_now(stream.plugin.full_file_name))

    def _count_before(self, stream: FileStream, captured: EpicsSignalRO) -> int:
        """Return the row count of the previous file, when the monitor agrees with the IOC.

        After `MONITOR_TIMEOUT_S` it is returned all the same.
        """
        deadline = time.monotonic() + MONITOR_TIMEOUT_S
        while True:
            rows = int(self._read_now(captured))
            if stream.rows == rows or time.monotonic() > deadline:
                # A count that decreased, as after a restart, was not stored
                stream.rows = min(stream.rows, rows)
                return rows
            pause(POLL_PERIOD_S)

    def _await_new_count(self, stream: FileStream, captured: EpicsSignalRO, before: int) -> None:
        """Wait until the row count is one of the new file.

        The previous file is closed, so a count other than `before` belongs to the new file. The IOC
        posts the count of the new file before ``Capture_RBV`` becomes 1, for which the put of
        `capture` has waited. So if it still answers with `before` after `MONITOR_TIMEOUT_S`, the
        new file has as many rows already.
        """
        started = time.monotonic()
        while before and stream.rows == before:
            waited = time.monotonic() - started
            if (
                waited > MONITOR_TIMEOUT_S
                and int(self._read_now(captured)) == before == stream.rows
            ):
                return
            if waited > PUT_S:
                raise HardwareError(
                    f"{self.name}: {captured.pvname} still has the row count {before} of the "
                    f"previous file; {self._reason()}"
                )
            pause(POLL_PERIOD_S)

    def _stop_recording(self) -> None:
        """End the recordings of this device, or of an earlier client."""
        for plugin in dict.fromkeys(stream.plugin for stream, _ in self._followed):
            self._put(plugin.capture, 0)

    def stop(self, *, success: bool = False) -> None:
        """Abort all waits of this device, then stop it."""
        with self._changed:
            self._abort = True
            self._changed.notify_all()
        super().stop(success=success)

    # ---- flying, from kickoff to complete

    def start_flying(self) -> None:
        """Expect rows from now on.

        Raises
        ------
        HardwareError
            If the device is not staged.
        """
        self._check_staged()
        self._restart_timeout()
        self._flying = True

    def finish_flying(self) -> None:
        """Wait until the `rows` of each stream have reached the present row count of the IOC.

        Raises
        ------
        HardwareError
            If the IOC is silent or was restarted, or the device was stopped.
        """
        self._check_fault()
        self._flying = False
        for stream, captured in self._followed:
            if stream.file:
                self._wait_for_rows(stream, captured)
        self._check_fault()

    # ---- waiting, always with a limit

    def _wait(self, reached: Callable[[], bool]) -> None:
        with self._changed:
            while not reached():
                self._check_fault()
                if self._abort:
                    raise HardwareError(f"{self.name}: stopped")
                self._check_silence()
                self._changed.wait(0.2)

    def _wait_for_rows(self, stream: FileStream, captured: EpicsSignalRO) -> None:
        """Wait until the monitor has the present row count of the IOC."""
        rows = int(self._read_now(captured))
        self._restart_timeout()
        self._wait(lambda: stream.rows >= rows)

    def raise_if_silent(self) -> None:
        """Raise if the IOC was lost, or if rows are expected and it is silent.

        Raises
        ------
        HardwareError
            If the IOC was lost during the recording, or its heartbeat has stopped.
        """
        self._check_fault()
        if self._expects_rows():
            self._check_silence()

    def _expects_rows(self) -> bool:
        """Return whether rows are expected now."""
        return self._flying

    def _check_fault(self) -> None:
        """Raise if the IOC was lost during the recording."""
        if self._fault is not None:
            raise self._fault

    def _check_silence(self) -> None:
        """Raise if the IOC has been silent for longer than the limit."""
        self._raise_after(self.heartbeat_limit.get(), f"no heartbeat of the IOC at {self.prefix}")

    def _raise_after(self, limit_s: float, what: str, state: str = "") -> None:
        """Raise if the silence is longer than a limit, s; 0: no limit. `state` explains it."""
        silence = time.monotonic() - self._silent_since
        if limit_s and silence > limit_s:
            raise HardwareError(f"{self.name}: {what} for {silence:.1f} s; {state}{self._reason()}")

    @property
    def _main_stream(self) -> FileStream:
        """The stream that was followed first: its rows count for the device."""
        return self._followed[0][0]

    def _check_staged(self) -> None:
        if not self._main_stream.file:
            raise HardwareError(
                f"{self.name}: not staged; stage it before it takes {self.row_name}s"
            )
