"""File plugins for recordings of rows: areaDetector's PVs open files and count rows."""

from pathlib import Path
from typing import Any

from iocs.areadetector import (
    WRITE_MODES,
    WRITE_STREAM,
    YES_NO,
    HdfPlugin,
    choice,
    enum_readback,
    long_text,
    only,
)
from skywright.acquire.recorder import Recorder

DATA_TYPES = [
    *("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64"),
    *("Float32", "Float64"),
]
"""All data types, in areaDetector's order."""


class RowsPlugin(HdfPlugin):
    """A file plugin whose files have rows: shots, pulses or packets.

    It is its own `RecordingControl`: a subclass writes `start_capture` and `stop_capture`. It also
    calls `post_recording`.
    """

    data_type = enum_readback(DATA_TYPES, DATA_TYPES.index("UInt16"), name="DataType_RBV")
    file_name = long_text("rows", name="FileName")
    file_write_mode = choice(WRITE_MODES, WRITE_STREAM, only(WRITE_STREAM), name="FileWriteMode")
    # Its columns have the types and shapes of the first row
    lazy_open = choice(YES_NO, 1, only(1), name="LazyOpen")
    single_files: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.control = self

    def start_capture(self, path: Path, count: int, lazy: bool) -> str:
        """Start a recording; return an error message, empty if it succeeded."""
        raise NotImplementedError

    def stop_capture(self) -> None:
        """End the recording."""
        raise NotImplementedError


class RecorderPlugin(RowsPlugin):
    """A file plugin that starts and stops one recorder, which is set before the IOC serves."""

    recorder: Recorder[Any, Any]

    def start_capture(self, path: Path, count: int, lazy: bool) -> str:
        """Start a recording; its file is made with the first row."""
        return self.recorder.start(path, count)

    def stop_capture(self) -> None:
        """End the recording."""
        self.recorder.stop()

    async def post_state(self) -> None:
        """Post the state of the recording."""
        recorder = self.recorder
        # Read before the number of rows: when it is False, that number is final.
        capturing = recorder.path is not None
        await self.post_recording(
            recorder.rows_readable,
            sum(recorder.lost.values()),
            capturing,
            lambda: recorder.path is not None,
            recorder.error,
        )
