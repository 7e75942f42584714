"""A recorded file as a source, at the pace of its arrival times or as fast as it is taken."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from skywright.instruments.sacla.join import Record
from skywright.instruments.sacla.replay_file import ReplayFile
from skywright.instruments.sacla.sources.arrival import TimedSource
from skywright.instruments.sacla.stored_frame import StoredFrame


class ReplaySource(TimedSource):
    """Yields the records of a replay file once.

    Parameters
    ----------
    path
        Of the file.
    speed
        Factor on the recorded pace; 0: as fast as the records are taken.
    more_values
        As for `ReplayFile`.
    shots
        Only the first N shots of the file are shots; None: all.

    Raises
    ------
    DataError
        If the file cannot be read.
    """

    def __init__(
        self,
        path: Path,
        speed: float = 0.0,
        more_values: Sequence[str] = (),
        shots: int | None = None,
    ) -> None:
        super().__init__("replay", speed)
        self._file = ReplayFile(path, more_values)
        self._file.log_cameras()
        self.info = self._file.info
        if shots is not None:
            self.info = replace(self.info, grid=self.info.grid.cut(shots))
        self._records = self._file.timed_records()
        try:
            # It reads all records: if that failed later, the source would seem to have ended.
            self._held = next(self._records, None)
        except BaseException:
            self._file.close()
            raise

    def next(self, timeout_s: float) -> Record[StoredFrame | float] | None:
        """Return the next record, when it is due."""
        if self._held is None:
            self._held = next(self._records)
        arrival, record = self._held
        if not self.is_due(arrival, timeout_s):
            return None
        self._held = None
        if record.channel in self.info.tiles:
            frame = StoredFrame(self._file, record.channel, int(record.payload))
            return Record(record.channel, record.tag, record.run, frame)
        return Record(record.channel, record.tag, record.run, float(record.payload))

    def close(self) -> None:
        """Stop, and close the file."""
        super().close()
        self._file.close()
