"""Base class of devices with areaDetector's cam1 and file plugin."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ophyd import Component as Cpt
from ophyd import EpicsSignal, EpicsSignalRO, Kind, Signal

from devices.file_stream import FileStream
from devices.file_stream_device import POLL_PERIOD_S, FileStreamDevice
from devices.guarded import CONNECT_S, Setting
from skywright.errors import HardwareError
from skywright.waiting import wait_until
from skywright.words import counted

SINGLE, MULTIPLE, CONTINUOUS = range(3)
"""Values of ``cam1:ImageMode``."""


class RecordingDevice(FileStreamDevice):
    """A device with areaDetector's ``cam1:`` whose IOC records.

    While it acquires, silence for longer than `silence_limit` is an error. It needs no heartbeat,
    so it works with areaDetector's own IOCs. Parameters: as for `FileStreamDevice`.
    """

    row_name = "frame"
    """Name of a row of the recording, for messages."""

    # None removes a component of the base class: areaDetector has no heartbeat
    heartbeat = None
    heartbeat_limit = None

    acquire = Cpt(EpicsSignal, "cam1:Acquire", kind=Kind.omitted, put_complete=True)
    acquiring = Cpt(EpicsSignalRO, "cam1:Acquire_RBV", kind=Kind.omitted, auto_monitor=True)
    image_mode = Cpt(Setting, "cam1:ImageMode", kind=Kind.omitted)
    width = Cpt(EpicsSignalRO, "cam1:ArraySizeX_RBV", kind=Kind.config)
    height = Cpt(EpicsSignalRO, "cam1:ArraySizeY_RBV", kind=Kind.config)

    silence_limit = Cpt(Signal, value=4.0, kind=Kind.config, metadata={"units": "s"})
    """Maximum time without a row during an acquisition, s; 0: no limit."""

    def __init__(self, prefix: str, *, assets: Path, name: str, **kwargs: Any) -> None:
        super().__init__(prefix, assets=assets, name=name, **kwargs)
        self._acquiring = False
        self._rows_at_start = 0
        self.acquiring.subscribe(self._on_acquiring, run=False)

    # ---- what the IOC posts (Channel Access threads)

    def _on_rows(self, stream: FileStream, rows: int) -> None:
        with self._changed:
            # A camera has no heartbeat. The rows of the main stream take its place: there is one
            # for each frame or pulse
            if stream is self._main_stream:
                self._restart_timeout()
            super()._on_rows(stream, rows)

    def _on_acquiring(self, value: int, **_: Any) -> None:
        with self._changed:
            self._acquiring = bool(value)
            self._changed.notify_all()

    # ---- staging

    def _stop_recording(self) -> None:
        """Stop acquiring, then end the recordings."""
        self._put(self.acquire, 0)
        super()._stop_recording()

    def _take_until_size_is_known(self, is_known: Callable[[], bool]) -> None:
        """Take pictures without recording them, until their size is known.

        One trigger is not always enough: a camera may run at a fraction of the machine's rate.
        """
        self._put(self.image_mode, CONTINUOUS)
        self._start_acquiring()
        # Also where silence has no limit, a plan must not wait here for ever
        limit_s = self.silence_limit.get() or CONNECT_S
        found = wait_until(is_known, limit_s, POLL_PERIOD_S)
        # The IOC gives the reason until it is stopped
        reason = "" if found else self._reason()
        self._put(self.acquire, 0)
        if not found:
            raise HardwareError(f"{self.name}: no picture at all; {reason}")

    def stop(self, *, success: bool = False) -> None:
        """Stop acquiring at once."""
        super().stop(success=success)
        if self.connected:
            with self._hardware_errors("cannot be stopped"):
                self.acquire.put(0, wait=False)

    # ---- acquiring

    def _start_acquiring(self) -> None:
        """Start the acquisition; return at once.

        The busy record completes only after all rows are written, so nothing waits for it here.
        """
        self._restart_timeout()
        self._rows_at_start = self._main_stream.rows
        with self._hardware_errors("cannot start"):
            self.acquire.put(1, wait=False)

    def finish_flying(self) -> None:
        """Stop acquiring; return when all rows that have come are visible in the file.

        Raises
        ------
        HardwareError
            As for `FileStreamDevice`, or if no row has come since the acquisition started, however
            short it was. A `silence_limit` of 0 allows that.
        """
        self._check_fault()
        self._flying = False
        # The IOC gives the reason until it is stopped
        reason = self._reason() if self._has_no_row() else ""
        self._put(self.acquire, 0)
        super().finish_flying()
        if self.silence_limit.get() and self._has_no_row():
            raise HardwareError(f"{self.name}: no {self.row_name} was recorded; {reason}")

    def _has_no_row(self) -> bool:
        """Return whether no row has come since the acquisition started."""
        return self._main_stream.rows == self._rows_at_start

    def _check_silence(self) -> None:
        # An acquisition that has ended lacks the rows that could not be stored, as on a full disk
        rows = self._main_stream.rows - self._rows_at_start
        ended = f"the IOC is not acquiring and has stored {counted(rows, self.row_name)}; "
        state = "" if self._acquiring else ended
        self._raise_after(self.silence_limit.get(), f"no {self.row_name} in the file", state)
