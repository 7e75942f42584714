"""The beam position monitor as an ophyd device that flies."""

import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

from ophyd import Component as Cpt
from ophyd import EpicsSignal, EpicsSignalRO, Kind
from ophyd.areadetector.base import EpicsSignalWithRBV
from ophyd.status import DeviceStatus
from skywright.devices.file_stream import FileStream, OneStream
from skywright.devices.file_stream_device import FileStreamDevice
from skywright.devices.live_result import LiveResult

from skywright.files.stream_columns import StreamColumn
from skywright.session.context import SessionContext
from skywright_bpm.source import CURRENTS, NUMBER, TIME

SILENCE_S = 4.0
"""Longest time without a sample before a recording fails."""


class BeamPositionMonitor(FileStreamDevice, OneStream):
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

    row_name = "sample"

    # Samples come all the time, so they take the place of a heartbeat
    heartbeat = None
    heartbeat_limit = None

    record = Cpt(EpicsSignalWithRBV, "Record", kind=Kind.omitted)
    file = Cpt(EpicsSignal, "FullFileName", kind=Kind.omitted, string=True, put_complete=True)
    samples = Cpt(EpicsSignalRO, "Samples_RBV", kind=Kind.omitted, auto_monitor=True)
    lost = Cpt(EpicsSignalRO, "Lost_RBV", kind=Kind.normal)
    intensity = Cpt(EpicsSignalRO, "Intensity_RBV", kind=Kind.hinted)
    message = Cpt(EpicsSignalRO, "StatusMessage_RBV", kind=Kind.omitted, string=True)

    def __init__(self, prefix: str, *, assets: Path, name: str, **kwargs: Any) -> None:
        super().__init__(prefix, assets=assets, name=name, **kwargs)
        self.stream = FileStream(self, f"{name}_samples", self, _columns)
        self._follow(self.stream, self.samples)

    def _message_signals(self) -> tuple[EpicsSignalRO, ...]:
        return (self.message,)

    def _on_rows(self, stream: FileStream, rows: int) -> None:
        self._restart_timeout()
        super()._on_rows(stream, rows)

    def _check_silence(self) -> None:
        self._raise_after(SILENCE_S, "no sample in the file")

    def _open(self) -> None:
        """Start a recording, in a file of its own."""
        path = f"{self.assets}/{datetime.now():%Y/%m/%d}/{self.name}-{uuid.uuid4()}.h5"
        self._put(self.file, path)
        before = self._count_before(self.stream, self.samples)
        self._put(self.record, 1)
        self._await_new_count(self.stream, self.samples, before)
        self.stream.begin(path)

    def _stop_recording(self) -> None:
        self._put(self.record, 0)

    def kickoff(self) -> DeviceStatus:
        """Expect samples from now on."""
        return self.in_background(self.start_flying)

    def complete(self) -> DeviceStatus:
        """Stop; done when all samples are visible in the file."""
        return self.in_background(self.finish_flying)

    def finish_flying(self) -> None:
        """Stop the recording; return when all samples are visible in the file."""
        self._check_fault()
        self._stop_recording()
        super().finish_flying()


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
