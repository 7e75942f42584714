"""File plugins for recordings of rows: areaDetector's PVs open files and count rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from caproto.server import PVGroup, SubGroup

from iocs.areadetector import WRITE_STREAM, Hdf, choice, enum_readback, long_text, put_text
from skywright.acquire.recorder import Recorder

DATA_TYPES = [
    *("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64"),
    *("Float32", "Float64"),
]
"""In areaDetector's order."""


async def _only_stream(obj: Any, instance: Any, value: Any) -> None:
    if value != WRITE_STREAM:
        raise ValueError("only Stream: all rows are recorded into one file")
    await obj.readback.write(value)


class StreamHdf(Hdf):
    """The PVs of a recording of any rows."""

    data_type = enum_readback(DATA_TYPES, DATA_TYPES.index("UInt16"), name="DataType_RBV")
    file_name = long_text("rows", put=put_text, name="FileName")
    file_write_mode = choice(
        ["Single", "Capture", "Stream"], WRITE_STREAM, _only_stream, name="FileWriteMode"
    )


class RecordingIOC(Protocol):
    """What a recording needs from the IOC, such as `iocs.owner.OwnerGroup`."""

    async def in_thread(self, function: Any, *args: Any) -> Any:
        """Run a blocking function outside the event loop."""

    async def wait_until_posted(self) -> None:
        """Wait until the present state of the owner is posted."""


class FilesPart(PVGroup):
    """A file plugin over files of rows.

    A subclass writes `start_capture` and `stop_capture`, and calls `post_recording`. `ioc` is set
    before the IOC serves.
    """

    plugin = SubGroup(StreamHdf, prefix="")
    single_files: Any = None
    ioc: RecordingIOC

    @property
    def recording(self) -> "FilesPart":
        """The object that starts and stops a recording for the plugin: this one."""
        return self

    def start_capture(self, path: Path, count: int, lazy: bool) -> str:
        """Start a recording; return an error message, empty if it succeeded."""
        raise NotImplementedError

    def stop_capture(self) -> None:
        """End the recording."""
        raise NotImplementedError

    async def in_thread(self, function: Any, *args: Any) -> Any:
        """Run a blocking function outside the event loop."""
        return await self.ioc.in_thread(function, *args)

    async def wait_until_posted(self) -> None:
        """Wait until the present state of the owner is posted."""
        await self.ioc.wait_until_posted()

    async def post_recording(
        self, rows: int, lost: int, capturing: bool, is_open: Callable[[], bool], error: str
    ) -> None:
        """Post the state of the recording; see `Hdf.post_recording`."""
        await self.plugin.post_recording(rows, lost, capturing, is_open, error)


class Recording(FilesPart):
    """A file plugin over one recorder; `attach` comes before the IOC serves."""

    recorder: Recorder[Any, Any]

    def attach(self, ioc: RecordingIOC, recorder: Recorder[Any, Any]) -> None:
        """Set the IOC and the recorder."""
        self.ioc, self.recorder = ioc, recorder

    def start_capture(self, path: Path, count: int, lazy: bool) -> str:
        """Start a recording; its file is made with the first row."""
        return self.recorder.start(path, count)

    def stop_capture(self) -> None:
        """End the recording."""
        self.recorder.stop()

    async def post_state(self) -> None:
        """Post the state of the recording."""
        recorder = self.recorder
        capturing = recorder.path is not None  # before its rows: when it is over, all are counted
        await self.post_recording(
            recorder.rows_readable,
            sum(recorder.lost().values()),
            capturing,
            lambda: recorder.path is not None,
            recorder.error,
        )
