"""The beam position monitor as an ophyd device that flies."""

import threading
import time
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

from ophyd import Component as Cpt
from ophyd import EpicsSignal, EpicsSignalRO, Kind
from ophyd.areadetector.base import EpicsSignalWithRBV
from ophyd.status import DeviceStatus
from skywright.devices.file_stream import FileStream, OneStream
from skywright.devices.guarded import GuardedDevice
from skywright.devices.live_result import LiveResult

from skywright.errors import HardwareError
from skywright.files.stream_columns import StreamColumn
from skywright.session.context import SessionContext
from skywright_bpm.source import CURRENTS, NUMBER, TIME

SILENCE_S = 4.0
"""Longest time without a sample before a recording fails."""


class BeamPositionMonitor(OneStream, GuardedDevice):
    """The monitor behind the PVs of `skywright_bpm.ioc`.

    Data keys, all external (``STREAM:``): ``NAME_currents`` (4,), uA; ``NAME_sample_number``;
    ``NAME_sample_time``, unix s.

    Parameters
    ----------
    prefix
        Prefix of the PVs, with its colon.
    assets
        Directory below which the IOC writes; a dated directory in it is made for each day.
    name
        Name of the device.
    """

    record = Cpt(EpicsSignalWithRBV, "Record", kind=Kind.omitted)
    file = Cpt(EpicsSignal, "FullFileName", kind=Kind.omitted, string=True, put_complete=True)
    samples = Cpt(EpicsSignalRO, "Samples_RBV", kind=Kind.omitted, auto_monitor=True)
    lost = Cpt(EpicsSignalRO, "Lost_RBV", kind=Kind.normal)
    intensity = Cpt(EpicsSignalRO, "Intensity_RBV", kind=Kind.hinted)
    message = Cpt(EpicsSignalRO, "StatusMessage_RBV", kind=Kind.omitted, string=True)

    def __init__(self, prefix: str, *, assets: Path, name: str, **kwargs: Any) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self.assets = assets
        self.stream = FileStream(self, f"{name}_samples", self, _columns)  # type: ignore[arg-type]
        self._changed = threading.Condition()
        self._last_sample = time.monotonic()
        self._flying = False
        self.samples.subscribe(self._on_samples, run=False)

    def _on_samples(self, value: int, **_: Any) -> None:
        with self._changed:
            self.stream.rows = int(value)
            self._last_sample = time.monotonic()
            self._changed.notify_all()

    def stage(self) -> list[Any]:
        """Name the file of the next recording."""
        self.connect()
        staged = super().stage()
        path = f"{self.assets}/{datetime.now():%Y/%m/%d}/{self.name}-{uuid.uuid4()}.h5"
        self._put(self.record, 0)
        self._put(self.file, path)
        self.stream.begin(path)
        self.stream.rows = 0
        return staged

    def unstage(self) -> list[Any]:
        """Stop recording."""
        self.stream.end()
        self._flying = False
        if self.connected:
            self._put(self.record, 0)
        return super().unstage()

    def kickoff(self) -> DeviceStatus:
        """Start to record; done when the IOC does."""
        return self.in_background(self._start)

    def _start(self) -> None:
        self._put(self.record, 1)
        self._last_sample, self._flying = time.monotonic(), True

    def complete(self) -> DeviceStatus:
        """Stop; done when all samples are visible in the file."""
        return self.in_background(self._finish)

    def _finish(self) -> None:
        self._flying = False
        self._put(self.record, 0)
        rows = int(self._read_now(self.samples))
        with self._changed:
            if not self._changed.wait_for(lambda: self.stream.rows >= rows, SILENCE_S):
                raise HardwareError(f"{self.name}: {rows} samples are not announced")

    def _reason(self) -> str:
        return f"the IOC reports: {self.message.get()}" if self.connected else super()._reason()

    def raise_if_silent(self) -> None:
        """Raise `HardwareError` if samples should come and none does; `FileStream` calls it."""
        silence = time.monotonic() - self._last_sample
        if self._flying and (silence > SILENCE_S or not self.connected):
            raise HardwareError(f"{self.name}: no sample in the file for {silence:.1f} s")

    def check_size(self) -> None:
        """Do nothing: all samples have the same size; `FileStream` calls it."""


def _columns() -> tuple[StreamColumn, ...]:
    return (
        StreamColumn("currents", CURRENTS.path, CURRENTS.dtype, CURRENTS.shape, units="uA"),
        StreamColumn("sample_number", NUMBER.path, NUMBER.dtype),
        StreamColumn("sample_time", TIME.path, TIME.dtype, units="s"),
    )


def make_devices(context: SessionContext) -> dict[str, Any]:
    """Return ``bpm``, and with the live analysis ``bpm_position_now``, its result as a device."""
    prefix = context.settings.pv_prefix("bpm")
    found: dict[str, Any] = {"bpm": BeamPositionMonitor(prefix, assets=context.assets, name="bpm")}
    if "bpm_position" in context.live:
        found["bpm_position_now"] = LiveResult(context.live["bpm_position"], "bpm_position_now")
    return found
