"""Where the frames of a run are in its files and events, and how to read them."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.analysis import Analysis, Batch, join_by_identity
from skywright.analysis.inputs import concatenate
from skywright.closing import Closing
from skywright.files.readers import HDF5, Reader, open_reader
from skywright.files.segments import Segment, append, supersede

with contextlib.suppress(ImportError):  # filters of compressed frames, where they are installed
    import hdf5plugin  # noqa: F401

OPEN_FILES = 8
"""Maximum number of files that a `FrameReader` keeps open."""
BATCH_BYTES = 16 * 2**20
"""Maximum size of one read, bytes; one frame is read even if it is larger."""


@dataclass(frozen=True)
class FileRows(Segment):
    """A range of rows of one column of a file.

    Parameters
    ----------
    path, dataset
        The file, and the column in it.
    start, stop
        First row, and the row after the last one.
    sequence
        Sequence number (of the event stream) of the first row.
    mimetype
        Mimetype of the file; `skywright.files.readers` has its reader.
    """

    path: str
    dataset: str
    start: int
    stop: int
    sequence: int
    mimetype: str = HDF5


class KeyRows:
    """The rows of one data key in order, over any number of files: a list of segments."""

    def __init__(self) -> None:
        self.segments: list[FileRows] = []
        self.count = 0

    def add(self, segment: FileRows) -> None:
        """Append rows; a segment that continues the last one becomes part of it."""
        self.count += segment.count
        append(self.segments, segment)

    def drop_superseded(self) -> None:
        """Keep the last rows of each sequence number: a resumed run may have taken frames again.

        The catalog keeps the same rows: `skywright.store.journal_contents.ExternalRows`.
        """
        rows, self.segments = self.segments, []
        for new in rows:
            if self.segments and new.sequence < self.segments[-1].end:
                self.segments = supersede(self.segments, new)
            else:
                self.segments.append(new)
        self.count = sum(segment.count for segment in self.segments)

    def part(self, start: int, stop: int) -> "KeyRows":
        """Return the rows at positions `start` to `stop`."""
        part = KeyRows()
        for segment in self.locate(start, stop):
            part.add(segment)
        return part

    def locate(self, start: int, stop: int) -> Iterator[FileRows]:
        """Yield the rows at positions `start` to `stop`, as segments."""
        first = 0
        for segment in self.segments:
            low, high = max(start - first, 0), min(stop - first, segment.count)
            if low < high:
                first_number = segment.sequence  # `Segment.part` counts by sequence numbers
                yield segment.part(first_number + low, first_number + high)
            first += segment.count


@dataclass
class FrameTable:
    """Where the inputs of an analysis are, by frame position (0 = first frame of the stream).

    Parameters
    ----------
    in_files
        Rows of the inputs that are in files, by name of the input (``image``, not the data key).
    values
        Values of the inputs that are in events, by name of the input and sequence number.
    identity, time
        Columns with the identity and the time of the frames; without them the sequence number is
        the identity, and the time is unknown.
    sequence_offset
        Sequence number of the first frame minus 1; used only if no column is in a file.
    """

    in_files: dict[str, KeyRows] = field(default_factory=dict)
    values: dict[str, dict[int, Any]] = field(default_factory=dict)
    identity: KeyRows | None = None
    time: KeyRows | None = None
    sequence_offset: int = 0
    _last_forgotten: int = field(default=0, init=False)
    """Highest sequence number that `forget` was called for; `announced` counts it without its
    values."""

    @property
    def all_in_files(self) -> list[KeyRows]:
        """The rows of the inputs, the identity and the time, as far as they are in files."""
        others = (self.identity, self.time)
        return [*self.in_files.values(), *(key_rows for key_rows in others if key_rows is not None)]

    def announced(self) -> int:
        """Return the number of frames in the documents received so far."""
        if in_files := self.all_in_files:
            return min(rows.count for rows in in_files)
        newest = [max(values, default=0) for values in self.values.values()]
        last = max([*newest, self._last_forgotten])
        return max(last - self.sequence_offset, 0)

    def values_known_until(self, start: int) -> int:
        """Return the position up to which the frames from `start` on have all event values.

        In a step scan the stream datum of a frame comes before its event. If nothing is missing,
        this is `announced()`.
        """
        stop = self.announced()
        if not self.values:
            return stop
        numbers = enumerate(self.sequence(start, stop), start)
        return next((position for position, n in numbers if not self.has_values(n)), stop)

    def has_values(self, number: int) -> bool:
        """Return whether the frame with a sequence number has all event values."""
        return all(number in values for values in self.values.values())

    def sequence(self, start: int, stop: int) -> list[int]:
        """Return the sequence numbers of the frames at positions `start` to `stop`."""
        if not self.all_in_files:
            return list(range(self.sequence_offset + start + 1, self.sequence_offset + stop + 1))
        key_rows = self.all_in_files[0]
        return [number for s in key_rows.locate(start, stop) for number in range(s.sequence, s.end)]

    def forget(self, stop: int) -> None:
        """Drop the event values of the frames before position `stop`.

        Values are kept if a frame from `stop` on has the same sequence number because it was taken
        again.
        """
        if self.values and stop:
            last = self.sequence(stop - 1, stop)[0]
            self._last_forgotten = max(self._last_forgotten, last)
            left = self.all_in_files[0].locate(stop, self.announced()) if self.all_in_files else ()
            end = min([last + 1, *(segment.sequence for segment in left)])
            for values in self.values.values():
                for number in [n for n in values if n < end]:
                    del values[number]

    def part(self, start: int, stop: int) -> "FrameTable":
        """Return a table of the frames at positions `start` to `stop` only."""
        numbers = set(self.sequence(start, stop))
        return FrameTable(
            in_files={name: rows.part(start, stop) for name, rows in self.in_files.items()},
            values={
                name: {n: value for n, value in values.items() if n in numbers}
                for name, values in self.values.items()
            },
            identity=None if self.identity is None else self.identity.part(start, stop),
            time=None if self.time is None else self.time.part(start, stop),
            sequence_offset=self.sequence_offset + start,
        )


def frames_per_read(frame_bytes: float) -> int:
    """Return how many frames of `frame_bytes` bytes to read at once, at least 1."""
    return max(1, int(BATCH_BYTES / max(frame_bytes, 1.0)))


class FrameReader(Closing):
    """Reads frames of a `FrameTable`; keeps a few files open.

    Parameters
    ----------
    table
        Where the frames are; it may grow during the reading.
    """

    def __init__(self, table: FrameTable) -> None:
        self.table = table
        self._readers: dict[tuple[str, str, str], Reader] = {}

    def readable(self, start: int, stop: int) -> int:
        """Return the position up to which frames from `start` on are complete in their files.

        Raises
        ------
        DataError
            If a file cannot be opened.
        """
        for key_rows in self.table.all_in_files:
            position = start
            for segment in key_rows.locate(start, stop):
                rows = self._reader(segment).count()
                if rows < segment.stop:
                    stop = position + max(rows - segment.start, 0)
                    break
                position += segment.count
        return max(start, stop)

    def read(self, start: int, stop: int) -> Batch:
        """Read frames.

        Parameters
        ----------
        start, stop
            Positions; all must be announced.

        Returns
        -------
        Batch
            Fewer than requested if frames are not in their file or lack the value of an event.

        Raises
        ------
        DataError
            If a file cannot be read.
        """
        table = self.table
        stop = self.readable(start, stop)
        identities = self.identities(start, stop)
        times = np.full(stop - start, np.nan)
        if table.time is not None:
            times = self._rows(table.time, start, stop).astype(np.float64)
        data = {
            name: self._rows(key_rows, start, stop) for name, key_rows in table.in_files.items()
        }
        # `_rows` may return fewer rows of one column than of another
        count = min(map(len, (identities, times, *data.values())))
        numbers = table.sequence(start, start + count)
        kept = [i for i, number in enumerate(numbers) if table.has_values(number)]
        if len(kept) < stop - start:
            data = {name: rows[kept] for name, rows in data.items()}
        for name, values in table.values.items():
            data[name] = np.asarray([values[numbers[i]] for i in kept])
        return Batch(identities[kept], times[kept], data)

    def pick(self, positions: range) -> Batch:
        """Read the frames at these positions, in this order; like `read`, it may return fewer."""
        if positions.step == 1:
            return self.read(positions.start, positions.stop)
        frames = (self.read(position, position + 1) for position in positions)
        return concatenate([frame for frame in frames if len(frame)])

    def identities(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the identities of the frames at positions `start` to `stop`, (n,) int64.

        Raises
        ------
        DataError
            If a file cannot be read.
        """
        if self.table.identity is None:
            return np.asarray(self.table.sequence(start, stop), np.int64)
        return self._rows(self.table.identity, start, stop).astype(np.int64)

    def column(self, name: str, stop: int) -> NDArray[Any] | None:
        """Return the column of an input, (stop, *shape); None if the stream does not have it.

        Frames without an event have the smallest int64.

        Raises
        ------
        DataError
            If a file cannot be read.
        """
        table = self.table
        if name in table.values:
            values, absent = table.values[name], np.iinfo(np.int64).min
            return np.asarray([values.get(n, absent) for n in table.sequence(0, stop)])
        key_rows = table.in_files.get(name)
        return None if key_rows is None else self._rows(key_rows, 0, stop)

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield the frames at positions `start` to `stop`, about `BATCH_BYTES` at a time."""
        count = 1
        while start < stop:
            batch = self.read(start, min(start + count, stop))
            yield batch
            start += count
            if len(batch):
                count = frames_per_read(batch.nbytes / len(batch))

    def close(self) -> None:
        """Close the files."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def _rows(self, key_rows: KeyRows, start: int, stop: int) -> NDArray[Any]:
        """Read the rows at positions `start` to `stop`.

        The newest rows of a file are missing if another reader of this process has it open.
        """
        pieces = []
        for segment in key_rows.locate(start, stop):
            rows = self._reader(segment).read(segment.dataset, segment.start, segment.stop)
            pieces.append(rows)
            if len(rows) < segment.count:
                break  # the rows of the next file would take the places of the missing ones
        if not pieces:
            return np.empty(0)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _reader(self, segment: FileRows) -> Reader:
        """Return the (cached) reader of a file.

        The identity column, if the file has one, gives the number of complete rows.
        """
        counted = segment.dataset
        if self.table.identity is not None:
            in_file = [s.dataset for s in self.table.identity.segments if s.path == segment.path]
            counted = in_file[0] if in_file else counted
        key = (segment.mimetype, segment.path, counted)
        if key not in self._readers:
            while len(self._readers) >= OPEN_FILES:
                self._readers.pop(next(iter(self._readers))).close()
            self._readers[key] = open_reader(segment.mimetype, Path(segment.path), counted)
        return self._readers[key]


def frames_to_draw(analysis: Analysis[Any], reader: FrameReader, count: int) -> Batch | None:
    """Read `analysis.pictures` frames, evenly spaced in the first `count`.

    Returns
    -------
    Batch or None
        None if there is none to draw.

    Raises
    ------
    DataError
        If frames cannot be read.
    """
    wanted = min(analysis.pictures, count)
    positions = sorted({round(i * (count - 1) / max(wanted - 1, 1)) for i in range(wanted)})
    frames = [batch for p in positions if len(batch := reader.read(p, p + 1))]
    return join_by_identity(frames) if frames else None
