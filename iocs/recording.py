"""File plugins for recordings of rows: areaDetector's PVs open files and count rows."""

from pathlib import Path
from typing import Any

from iocs.areadetector import YES_NO, HdfPlugin, choice, enum_readback, long_text, only
from skywright.acquire.recorder import Recorder

DATA_TYPES = [
    *("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64"),
    *("Float32", "Float64"),
]
"""All data types, in areaDetector's order."""


class RowsPlugin(HdfPlugin):
    """A file plugin whose files have rows: shots, pulses or packets."""

    data_type = enum_readback(DATA_TYPES, DATA_TYPES.index("UInt16"), name="DataType_RBV")
    file_name = long_text("rows", name="FileName")
    # Its columns have the types and shapes of the first row
    lazy_open = choice(YES_NO, 1, only(1), name="LazyOpen")


class RecorderPlugin(RowsPlugin):
    """A file plugin that starts and stops one recorder, which is set before the IOC serves."""

    recorder: Recorder[Any, Any]

    def start_capture(self, path: Path, count: int, lazy: bool) -> str:
        """Start a recording; its file is made with the first row."""
        return self.recorder.start(path, count)

    def stop_capture(self) -> None:
        """End the recording."""
        self.recorder.stop()

    @property
    def is_capturing(self) -> bool:
        """Whether a recording is open."""
        return self.recorder.path is not None

    async def post_state(self) -> None:
        """Post the state of the recording."""
        recorder = self.recorder
        # Read before the number of rows: when it is False, that number is final.
        capturing = self.is_capturing
        lost = sum(recorder.lost.values())
        await self.post_recording(recorder.rows_readable, lost, capturing, recorder.error)
