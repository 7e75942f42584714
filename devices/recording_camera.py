"""A camera with areaDetector's cam1 and HDF5 plugin, step and fly."""

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ophyd import Component as Cpt
from ophyd import EpicsSignal, EpicsSignalRO, Kind
from ophyd.status import DeviceStatus

from devices.file_stream import FilePlugin, FileStream, OneStream
from devices.guarded import Setting
from devices.recording import CONTINUOUS, SINGLE, RecordingDevice
from skywright.files.stream_columns import StreamColumn


class HdfPlugin(FilePlugin):
    """areaDetector's HDF5 plugin."""

    lazy_open = Cpt(EpicsSignal, "LazyOpen", kind=Kind.omitted, put_complete=True)
    swmr_mode = Cpt(EpicsSignal, "SWMRMode", kind=Kind.omitted, put_complete=True)

    def settings(self, assets: Path, name: str) -> tuple[tuple[Any, Any], ...]:
        """Return the puts of `FilePlugin`, after those that make the file at once, for readers."""
        return (self.lazy_open, 0), (self.swmr_mode, 1), *super().settings(assets, name)


class RecordingCamera(RecordingDevice, OneStream):
    """A camera behind areaDetector's PVs, whose pictures are rows of a file.

    ``cam1:`` is the camera, ``HDF1:`` the recording. One trigger takes one picture; as a flyer it
    takes pictures from kickoff to complete. Every picture of the recording is a row of one HDF5
    file, opened at stage. Counts come from the number of rows that are visible in the file. Do not
    use it in a baseline: a baseline triggers devices that the plan has not staged.

    A subclass overrides `columns`; its data keys are ``NAME_`` and the key of each column, all
    external (``STREAM:``). If its IOC makes the file with the first row, as with
    `iocs.recording.RecorderPlugin`, the subclass has ``file = Cpt(FilePlugin, "HDF1:")``.
    Parameters: as for `RecordingDevice`.
    """

    acquire_period = Cpt(Setting, "cam1:AcquirePeriod", kind=Kind.config)
    color_mode = Cpt(Setting, "cam1:ColorMode", kind=Kind.config, string=True)
    manufacturer = Cpt(EpicsSignalRO, "cam1:Manufacturer_RBV", kind=Kind.config, string=True)
    model = Cpt(EpicsSignalRO, "cam1:Model_RBV", kind=Kind.config, string=True)
    message = Cpt(EpicsSignalRO, "cam1:StatusMessage_RBV", kind=Kind.omitted, string=True)
    frames = Cpt(EpicsSignalRO, "cam1:ArrayCounter_RBV", kind=Kind.omitted, auto_monitor=True)

    file = Cpt(HdfPlugin, "HDF1:", kind=Kind.omitted)
    captured = Cpt(EpicsSignalRO, "HDF1:NumCaptured_RBV", kind=Kind.hinted, auto_monitor=True)
    lost = Cpt(EpicsSignalRO, "HDF1:DroppedArrays_RBV", kind=Kind.normal, auto_monitor=True)

    def __init__(self, prefix: str, *, assets: Path, name: str, **kwargs: Any) -> None:
        super().__init__(prefix, assets=assets, name=name, **kwargs)
        self.stream = FileStream(self, f"{name}_pictures", self.file, self._present_columns)
        self._follow(self.stream, self.captured)

    def columns(self, shape: tuple[int, ...]) -> Sequence[StreamColumn]:
        """Return the columns of the file; for subclasses.

        Parameters
        ----------
        shape
            Shape of a picture: (H, W), or (H, W, 3) in color.
        """
        raise NotImplementedError

    def _present_columns(self) -> Sequence[StreamColumn]:
        color = (3,) if self._read_signal(self.color_mode).startswith("RGB") else ()
        height, width = (int(self._read_signal(each)) for each in (self.height, self.width))
        return self.columns((height, width, *color))

    def _message_signals(self) -> tuple[EpicsSignalRO, ...]:
        return self.file.write_message, self.message

    # ---- staging

    def _open(self) -> None:
        if not self._read_signal(self.height):
            before = self._read_signal(self.frames)
            self._take_until_size_is_known(
                lambda: self._read_signal(self.frames) != before and self._read_signal(self.height)
            )
        self._record(self.stream, self.captured, f"{self.name}-{uuid.uuid4()}")

    # ---- step

    def trigger(self) -> DeviceStatus:
        """Take one picture; done when it is visible in the file.

        If a pause interrupts it, the RunEngine calls it again, and it takes one more picture. After
        `stop` it raises until the next `stage`.
        """
        # After a resume there can be one row more than events: the row of the trigger that the
        # pause cut off, and the row of the repeated trigger. Both get the same seq_num, and the
        # last one counts.
        self.stream.by_row = True
        return self.in_background(self._take_one)

    def _take_one(self) -> None:
        self._check_staged()
        self._put(self.image_mode, SINGLE)
        with self._changed:
            target = self.stream.rows + 1
        self._start_acquiring()
        self._wait(lambda: self.stream.rows >= target)

    # ---- fly

    def kickoff(self) -> DeviceStatus:
        """Start the acquisition; done when the camera acquires."""
        self.stream.by_row = False
        return self.in_background(self._start)

    def _start(self) -> None:
        self._check_staged()
        self._put(self.image_mode, CONTINUOUS)
        self._start_acquiring()
        self._wait(lambda: self._acquiring)
        self._flying = True

    def complete(self) -> DeviceStatus:
        """Stop taking pictures; done when all that have arrived are visible in the file."""
        return self.in_background(self.finish_flying)

    # ---- documents

    def describe(self) -> dict[str, Any]:
        """Describe one event of a step scan; each call begins new StreamResources."""
        return {**super().describe(), **self.describe_collect()}
