"""The spectrometer as areaDetector's camera and file plugins see it: acquisitions, recordings."""

from pathlib import Path
from typing import Any

from caproto import AlarmSeverity, ChannelType
from caproto.server import PVGroup, SubGroup

from iocs.areadetector import (
    WRITE_STREAM,
    Cam,
    Hdf,
    choice,
    long_text,
    only,
    put_text,
    said,
    shown,
)
from iocs.common import post
from skywright.psss.processor import Processor
from skywright.psss.results import Acquisition
from skywright.recorder import Recorder

DATA_TYPES = ["Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Float32", "Float64"]


class Pulses:
    """What `iocs.areadetector.Cam` asks of a camera: here an image is a pulse.

    Parameters
    ----------
    processor
        The owner.
    """

    def __init__(self, processor: Processor) -> None:
        self.processor = processor

    @property
    def source(self) -> "Pulses":
        """Who is asked for a period."""
        return self

    def set_period(self, seconds: float) -> float:
        """Return 0: the machine alone sets the period."""
        return 0.0

    def set_color(self, color: bool) -> bool:
        """Return False: pictures are grey."""
        return False

    def acquire(self, wanted: int) -> Acquisition:
        """Take so many pulses, 0 until stopped."""
        return self.processor.acquire(wanted)

    def stop(self) -> Acquisition | None:
        """End the acquisition under way."""
        return self.processor.stop_acquisition()


class PsssCam(Cam):
    """The camera; NumImages counts pulses."""

    manufacturer = said("skywright", ChannelType.STRING, name="Manufacturer_RBV")
    data_type = choice(
        DATA_TYPES,
        DATA_TYPES.index("UInt16"),
        put=only(*range(len(DATA_TYPES))),
        setpoint_kw={"record": "mbbo"},
        readback_kw={"record": "mbbi"},
        name="DataType",
    )


async def _only_stream(obj: Any, instance: Any, value: Any) -> None:
    if value != WRITE_STREAM:
        raise ValueError("only Stream: pulses are recorded into one file")
    await obj.readback.write(value)


class PsssHdf(Hdf):
    """A recording: of pictures, or of every pulse's spectrum and fit."""

    data_type = shown(DATA_TYPES, DATA_TYPES.index("UInt16"), name="DataType_RBV")
    file_name = long_text("psss", put=put_text, name="FileName")
    file_write_mode = choice(
        ["Single", "Capture", "Stream"], WRITE_STREAM, _only_stream, name="FileWriteMode"
    )


class Recording(PVGroup):
    """A file plugin over a recorder of its own."""

    plugin = SubGroup(PsssHdf, prefix="")

    recorder: Recorder[Any, Any]
    ioc: Any

    @property
    def camera(self) -> "Recording":
        """Whom the plugin asks."""
        return self

    single_path: Any = None

    def start_capture(self, path: Path, count: int, lazy: bool) -> str:
        """Start a recording; the file is made with the first pulse."""
        return self.recorder.start(path, count)

    def stop_capture(self) -> None:
        """End the recording."""
        self.recorder.stop()

    async def in_thread(self, function: Any, *args: Any) -> Any:
        """Run what may block beside the event loop."""
        return await self.ioc.in_thread(function, *args)

    async def posted(self) -> None:
        """Wait until all that the owner knows now is posted."""
        await self.ioc.posted()

    async def fail_to_write(self, message: str) -> None:
        """Say that a recording cannot be written."""
        await post(self.plugin.write_message, message[:1000], AlarmSeverity.MAJOR_ALARM)
        await post(self.plugin.write_status, 1, AlarmSeverity.MAJOR_ALARM)
