"""The AXIS video camera as an ophyd device, step and fly, over areaDetector's PVs."""

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bluesky.protocols import StreamAsset
from event_model import (
    ComposeStreamResourceBundle,
    StreamRange,
    compose_stream_resource,
)
from ophyd import Component as Cpt
from ophyd import EpicsSignal, EpicsSignalRO, Kind
from ophyd.areadetector.base import EpicsSignalWithRBV
from ophyd.status import DeviceStatus

from devices.guarded import CONNECT_S
from devices.recording import RecordedFile, RecordingDevice
from skywright.errors import HardwareError
from skywright.loop.capture import IDENTITY, IMAGE, TIME

SINGLE, CONTINUOUS = 0, 2
STREAM = 2
logger = logging.getLogger(__name__)


class AxisCamera(RecordingDevice):
    """A video camera behind areaDetector's PVs, whose pictures are files, not events.

    ``cam1:`` is the camera, ``HDF1:`` the recording. One trigger takes one picture; as a flyer it
    takes pictures from kickoff to complete. Every picture of the recording is a row of one HDF5
    file, opened at stage. Counts come from the number of rows that are visible in the file.

    Data keys, all external (``STREAM:``): ``NAME_image`` (H, W) uint8; ``NAME_frame_number``;
    ``NAME_frame_time``, unix s.

    Parameters
    ----------
    prefix
        Of the PVs, with its colon.
    assets
        Directory below which the IOC writes; a dated directory in it is made for each day.
    name
        Of the device.
    """

    acquire_period = Cpt(EpicsSignalWithRBV, "cam1:AcquirePeriod", kind=Kind.config)
    color_mode = Cpt(EpicsSignalWithRBV, "cam1:ColorMode", kind=Kind.config, string=True)
    manufacturer = Cpt(EpicsSignalRO, "cam1:Manufacturer_RBV", kind=Kind.config, string=True)
    model = Cpt(EpicsSignalRO, "cam1:Model_RBV", kind=Kind.config, string=True)
    message = Cpt(EpicsSignalRO, "cam1:StatusMessage_RBV", kind=Kind.omitted, string=True)
    frames = Cpt(EpicsSignalRO, "cam1:ArrayCounter_RBV", kind=Kind.omitted, auto_monitor=True)

    file_path = Cpt(EpicsSignal, "HDF1:FilePath", kind=Kind.omitted, string=True, put_complete=True)
    file_name = Cpt(EpicsSignal, "HDF1:FileName", kind=Kind.omitted, string=True, put_complete=True)
    file_template = Cpt(
        EpicsSignal, "HDF1:FileTemplate", kind=Kind.omitted, string=True, put_complete=True
    )
    create_directory = Cpt(
        EpicsSignal, "HDF1:CreateDirectory", kind=Kind.omitted, put_complete=True
    )
    file_write_mode = Cpt(EpicsSignal, "HDF1:FileWriteMode", kind=Kind.omitted, put_complete=True)
    num_capture = Cpt(EpicsSignal, "HDF1:NumCapture", kind=Kind.omitted, put_complete=True)
    lazy_open = Cpt(EpicsSignal, "HDF1:LazyOpen", kind=Kind.omitted, put_complete=True)
    swmr_mode = Cpt(EpicsSignal, "HDF1:SWMRMode", kind=Kind.omitted, put_complete=True)
    capture = Cpt(EpicsSignalWithRBV, "HDF1:Capture", kind=Kind.omitted)
    captured = Cpt(EpicsSignalRO, "HDF1:NumCaptured_RBV", kind=Kind.hinted, auto_monitor=True)
    full_file_name = Cpt(EpicsSignalRO, "HDF1:FullFileName_RBV", kind=Kind.omitted, string=True)
    write_message = Cpt(EpicsSignalRO, "HDF1:WriteMessage", kind=Kind.omitted, string=True)
    lost = Cpt(EpicsSignalRO, "HDF1:DroppedArrays_RBV", kind=Kind.normal, auto_monitor=True)

    def __init__(self, prefix: str, *, assets: Path, name: str = "axis", **kwargs: Any) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self.assets = Path(assets)
        self._step = True
        self._shape: tuple[int, ...] | None = None
        self._collected = 0
        self._bundles: list[ComposeStreamResourceBundle] = []
        self._recording = RecordedFile()
        self._follow(self._recording, self.captured)

    def _telling(self) -> tuple[EpicsSignalRO, ...]:
        return self.write_message, self.message

    # ---- staging

    def _open(self) -> None:
        self._put(self.capture, 0)
        if not self._get(self.height):
            self._prime()
        now = datetime.now()
        directory = self.assets / f"{now:%Y/%m/%d}"
        for signal, value in (
            (self.create_directory, -5),
            (self.file_path, f"{directory}/"),
            (self.file_name, f"{self.name}-{uuid.uuid4()}"),
            (self.file_template, "%s%s.h5"),
            (self.file_write_mode, STREAM),
            (self.num_capture, 0),
            (self.lazy_open, 0),
            (self.swmr_mode, 1),
        ):
            self._put(signal, value)
        self._recording.rows = self._collected = 0
        self._bundles = []
        self._put(self.capture, 1)
        self._recording.file = self._get(self.full_file_name)
        self._shape = self._picture_shape()

    def _prime(self) -> None:
        """Take one picture that is not recorded, to learn the size."""
        self._put(self.image_mode, SINGLE)
        before = self._get(self.frames)
        self._start_acquiring()
        deadline = time.monotonic() + (self.silence_limit.get() or CONNECT_S)
        news = threading.Event()
        token = self.frames.subscribe(lambda **_: news.set(), run=False)
        try:
            while self._get(self.frames) == before or not self._get(self.height):
                news.clear()
                if not news.wait(max(0.0, deadline - time.monotonic())):
                    self._put(self.acquire, 0)
                    raise HardwareError(f"{self.name}: no picture at all; {self._reason()}")
        finally:
            self.frames.unsubscribe(token)

    def unstage(self) -> list[Any]:
        """Stop, and close the file; does not fail when the IOC is gone."""
        self._recording.file = ""
        try:
            if self.connected:
                self._put(self.acquire, 0)
                self._put(self.capture, 0)
        except HardwareError as error:
            logger.warning("%s", error)
        self._watching, self._shape = False, None
        return super().unstage()

    # ---- step

    def trigger(self) -> DeviceStatus:
        """Take one picture; done when it is visible in the file.

        Called again before the first has ended, as after resume, it takes a further picture.
        """
        self._step = True
        return self._background(self._take_one)

    def _take_one(self) -> None:
        self._check_staged()
        self._put(self.image_mode, SINGLE)
        with self._news:
            target = self._recording.rows + 1
        self._start_acquiring()
        self._wait(lambda: self._recording.rows >= target)

    # ---- fly

    def kickoff(self) -> DeviceStatus:
        """Start to take pictures; done when the camera does."""
        self._step = False
        return self._background(self._start)

    def _start(self) -> None:
        self._check_staged()
        self._put(self.image_mode, CONTINUOUS)
        self._start_acquiring()
        self._wait(lambda: self._acquiring)
        self._watching = True

    def complete(self) -> DeviceStatus:
        """Stop taking pictures; done when all that have arrived are visible in the file."""
        return self._background(self._stop)

    def _stop(self) -> None:
        self._raise_fault()
        self._watching = False
        self._put(self.acquire, 0)
        self._catch_up(self._recording, self.captured)
        self._raise_fault()

    # ---- documents

    def describe(self) -> dict[str, Any]:
        """Describe one event of a step scan."""
        return {**super().describe(), **self.describe_collect()}

    def describe_collect(self) -> dict[str, Any]:
        """Describe one row of the file."""
        source = f"PV:{self.prefix}HDF1:FullFileName_RBV"
        keys = {
            f"{self.name}_image": (
                "array",
                list(self._shape or self._picture_shape()),
                "|u1",
                None,
            ),
            f"{self.name}_frame_number": ("integer", [], "<i8", None),
            f"{self.name}_frame_time": ("number", [], "<f8", "s"),
        }
        return {
            key: {
                "source": source,
                "dtype": dtype,
                "shape": shape,
                "dtype_numpy": dtype_numpy,
                "external": "STREAM:",
                **({"units": units} if units else {}),
            }
            for key, (dtype, shape, dtype_numpy, units) in keys.items()
        }

    def get_index(self) -> int:
        """Return the number of rows that are visible in the file."""
        return self._recording.rows

    def collect_asset_docs(self, index: int | None = None) -> Iterator[StreamAsset]:
        """Tell of the file, once, and of the rows that are new.

        Raises
        ------
        HardwareError
            If nothing is new and the IOC is gone, or flies and has sent no picture for
            `silence_limit`.
        """
        rows = self._recording.rows if index is None else min(index, self._recording.rows)
        if rows <= self._collected:
            self.raise_trouble()
            return
        if not self._bundles:
            self._bundles = [self._compose(*column) for column in self._columns()]
            for bundle in self._bundles:
                yield "stream_resource", bundle.stream_resource_doc
        # An event of a step scan is one row. After a resume there can be one row more, of the
        # trigger that the pause cut off: both get the same seq_num, and the last one counts.
        size = 1 if self._step else rows - self._collected
        for start in range(self._collected, rows, size):
            for bundle in self._bundles:
                yield (
                    "stream_datum",
                    bundle.compose_stream_datum(StreamRange(start=start, stop=start + size)),
                )
        self._collected = rows

    def _columns(self) -> tuple[tuple[str, str, list[int]], ...]:
        """Return data key, dataset and chunk of each column that documents tell of."""
        assert self._shape is not None
        return (
            (f"{self.name}_image", IMAGE, [1, *self._shape]),
            (f"{self.name}_frame_number", IDENTITY, [1024]),
            (f"{self.name}_frame_time", TIME, [1024]),
        )

    def _compose(self, key: str, dataset: str, chunk: list[int]) -> ComposeStreamResourceBundle:
        return compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{quote(self._recording.file)}",
            data_key=key,
            parameters={"dataset": dataset, "chunk_shape": chunk, "swmr": True},
        )

    def _picture_shape(self) -> tuple[int, ...]:
        color = (3,) if self._get(self.color_mode).startswith("RGB") else ()
        return int(self._get(self.height)), int(self._get(self.width)), *color
