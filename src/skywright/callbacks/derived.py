"""A derived run: what an analysis finds, as documents and files beside the raw run's."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import event_model
import numpy as np
from numpy.typing import NDArray

from skywright import __version__
from skywright.analysis import Analysis, Batch, IdentityOrder, find_late
from skywright.analysis.inputs import concatenate
from skywright.callbacks.stream_documents import Emit, StreamDocuments
from skywright.files.columns import Column, ColumnWriter
from skywright.files.stream_columns import StreamColumn, value_key

DATUM_PERIOD_S = 2.0
"""Period of stream datums for new rows, s. A client that needs rows sooner reads the file."""

INHERITED = (
    "sample",
    "proposal",
    "project",
    "operator",
    "instrument",
    "beamline",
    "owner",
    "group",
    "data_groups",
    "tiled_access_tags",
)
"""Keys that a derived run copies from the start document of its raw run."""

IDENTITY = Column(
    "/entry/identity",
    "<i8",
    attrs={"description": "identity of the raw frame: its number, pulse id or tag"},
)
FRAME_TIME = Column(
    "/entry/frame_time", "<f8", attrs={"units": "s", "description": "unix time of the raw frame"}
)
UPDATE_NUMBER = Column("/entry/update_number", "<i8", rows_per_chunk=64)

RESULT = "result"
"""Name of the stream of scalar results; each event is one update."""

PICTURES = "pictures"
"""Data key of `RESULT`: the files of annotated pictures, one path per line."""

ARRAYS = "arrays"
"""Name of the stream of array results; each row is one update."""

COUNTS = tuple(
    Column(name, "<i8", attrs={"description": text})
    for name, text in {
        "n_frames": "frames in the statistics",
        "n_dropped": "frames skipped because the analysis was behind",
        "n_missing": "frames announced that were not in their file, or whose event did not come",
        "n_late": "frames left out of the statistics, because they came late or out of order",
        "last_identity": "identity of the last frame measured, -1 before the first",
        "update_number": "row in the stream ``arrays`` with the newest array results, -1: none yet",
    }.items()
)


class DerivedRun:
    """Runs one analysis over one stream of a raw run and emits the derived run.

    The start document goes out at once. Per-frame columns are rows of ``columns.h5``, array
    results rows of ``arrays.h5``, in a directory of this run below `assets`. Scalar results are
    events. `Analysis.scalar_period_s` and `Analysis.array_period_s` limit how often results
    are written.

    Parameters
    ----------
    analysis
        A new analysis without members; this run updates it.
    raw_start
        Start document of the raw run.
    emit
        Called with each ``(name, document)``, e.g. a `Journal`.
    assets
        Root directory of assets.
    inputs
        For a first-stage analysis: the full data key of each input. For a second-stage analysis:
        the uid of the first stage's derived run, by name of that analysis.
    stream
        Name of the raw run's stream that has the inputs.
    """

    def __init__(
        self,
        analysis: Analysis[Any],
        raw_start: Mapping[str, Any],
        emit: Emit,
        assets: Path,
        inputs: Mapping[str, str] | None = None,
        *,
        stream: str = "primary",
    ) -> None:
        self.analysis = analysis
        self.rows = 0
        """Frames measured: rows that the file of columns has, or will have after the next write."""
        self.dropped = 0
        self.missing = 0
        self._emit = emit
        self._order = IdentityOrder(analysis.block_size)
        self._last = -1
        self._updates = 0
        """Rows of array results."""
        self._scalars_changed = self._arrays_changed = False
        self._is_closed = False
        self._next_scalars = self._next_arrays = self._next_datum = 0.0
        metadata = _start_metadata(analysis, raw_start, inputs or {}, stream)
        run = event_model.compose_run(metadata=metadata)
        self.uid = str(run.start_doc["uid"])
        day = datetime.fromtimestamp(run.start_doc["time"]).astimezone()
        self.directory = assets.absolute() / f"{day:%Y/%m/%d}" / self.uid
        self.columns_path = self.directory / "columns.h5"
        """File with the columns; its identity column is ``/entry/identity``."""
        self._run = run
        emit("start", run.start_doc)
        try:
            self._make_files()
            self._describe()
        except Exception as error:
            emit("stop", run.compose_stop(exit_status="fail", reason=failure_reason(error)))
            raise

    def _make_files(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        columns = [FRAME_TIME, *(_in_entry(c) for c in self.analysis.columns)]
        self._columns = ColumnWriter(self.columns_path, columns, IDENTITY)
        self._waiting: list[Batch] = []
        """Rows that are not in the file of columns yet."""
        arrays = [replace(_in_entry(c), rows_per_chunk=1) for c in self.analysis.results if c.shape]
        path = self.directory / "arrays.h5"
        self._arrays = ColumnWriter(path, arrays, UPDATE_NUMBER) if arrays else None

    # Frames in ----------------------------------------------------------------------------------

    def add(self, batch: Batch) -> Mapping[str, NDArray[Any]]:
        """Analyze frames; write and emit what is due.

        Parameters
        ----------
        batch
            The next frames, in the order of their file.

        Returns
        -------
        dict
            The columns of the frames, (n, *shape) each, by name.

        Raises
        ------
        DataError
            If the analysis gives other columns than declared.
        OSError
            If rows cannot be written.
        """
        if not len(batch):
            return {c.name: np.empty((0, *c.shape), c.dtype) for c in self.analysis.columns}
        before = self._order.highest
        settings = self.analysis.settings_numbers(batch.data)
        places = self._order.place(batch.identities, settings)
        late, _ = find_late(places, self.analysis.block_size, before)
        rows = self.analysis.update(replace(batch, identities=places), late)
        self._store(batch.identities, batch.times, rows)
        return rows

    def absorb(self, partial: Analysis[Any], rows: Batch, shift: int = 0) -> None:
        """Add whole blocks that `analyze_part` has analyzed (`skywright.analysis.blocks`).

        Parameters
        ----------
        partial, rows
            Closed analysis of the blocks, and the columns of their members.
        shift
            Place minus identity of the members (`IdentityOrder`).
        """
        if not len(rows):
            return
        self.analysis.merge(partial)
        self._order.note_places(rows.identities + shift)
        self._store(rows.identities, rows.times, rows.data)

    def _store(
        self, identities: NDArray[np.int64], times: NDArray[np.float64], rows: Mapping[str, Any]
    ) -> None:
        size = self.analysis.block_size
        # The highest block and the one before it stay open, as in `find_late`
        self.analysis.advance((int(self._order.highest or 0) // size - 1) * size)
        self._waiting.append(Batch(identities, times, rows))
        self.rows += len(identities)
        self._last = int(identities[-1])
        self._scalars_changed, self._arrays_changed = True, self._arrays is not None
        self.tick()

    def tick(self) -> float | None:
        """Write and emit what is due; return after how many seconds to call again.

        None: nothing waits to be written.

        Writing a row of many columns takes as long as measuring a picture, so rows are written
        several at a time.
        """
        now = time.monotonic()
        arrays_due = self._arrays_changed and now >= self._next_arrays
        if arrays_due or (self._scalars_changed and now >= self._next_scalars):
            self._write_columns()
            self._emit_result(with_arrays=arrays_due)
            self._next_scalars = now + self.analysis.scalar_period_s
            if arrays_due:
                self._next_arrays = now + self.analysis.array_period_s
        if self._rows_to_emit and now >= self._next_datum:
            self._emit_datums()
            self._next_datum = now + DATUM_PERIOD_S
        due = [self._next_scalars] if self._scalars_changed else []
        due += [self._next_arrays] if self._arrays_changed else []
        due += [self._next_datum] if self._rows_to_emit else []
        return min(due) - now if due else None

    def _write_columns(self) -> None:
        """Write the rows that wait; readers can see them then."""
        rows, self._waiting = concatenate(self._waiting), []
        if len(rows):
            values = {f"/entry/{name}": column for name, column in rows.data.items()}
            self._columns.append(rows.identities, {FRAME_TIME.path: rows.times, **values})
            self._columns.flush()

    @property
    def _rows_to_emit(self) -> int:
        return sum(file.flushed - documents.emitted for file, documents in self._streams)

    # Results out --------------------------------------------------------------------------------

    def scalars(self) -> dict[str, Any]:
        """Return the counts and the scalar results, as plain Python values."""
        return self._counts() | scalar_values(self.analysis.result())

    def close(
        self,
        exit_status: Literal["success", "abort", "fail"] = "success",
        reason: str = "",
        pictures: Mapping[str, bytes] | None = None,
        keeps_result: bool = False,
    ) -> None:
        """Emit the last result and the stop document; close the files. A second call does nothing.

        Parameters
        ----------
        exit_status
            "success", "abort" or "fail".
        reason
            Reason, if `exit_status` is not "success".
        pictures
            Contents by file name; stored in `directory`. The last result has their paths.
        keeps_result
            True: emit the last result also if `exit_status` is "fail".

        Raises
        ------
        Exception
            If the last result cannot be computed or written. The stop document is emitted all the
            same, with the ``exit_status`` "fail".
        """
        if self._is_closed:
            return
        self._is_closed = True
        paths = [self.directory / name for name in pictures or {}]
        try:
            for path, contents in zip(paths, (pictures or {}).values(), strict=True):
                path.write_bytes(contents)
            self._write_columns()
            if exit_status != "fail" or keeps_result:
                has_new = self._arrays_changed or not self._updates
                self._emit_result("\n".join(map(str, paths)), with_arrays=has_new)
            self._emit_datums()
        except Exception as error:
            exit_status, reason = "fail", failure_reason(error)
            raise
        finally:
            try:
                with ExitStack() as files:
                    if self._arrays is not None:
                        files.callback(self._arrays.close)
                    self._columns.close()
            except Exception as error:
                if exit_status != "fail":  # else the first error is the reason
                    exit_status, reason = "fail", failure_reason(error)
                raise
            finally:
                self._emit("stop", self._run.compose_stop(exit_status=exit_status, reason=reason))

    def fail(self, error: Exception) -> None:
        """Close the run, with an error as the reason."""
        self.close("fail", failure_reason(error))

    def _counts(self) -> dict[str, Any]:
        return {
            "n_frames": self.analysis.members,
            "n_dropped": self.dropped,
            "n_missing": self.missing,
            "n_late": self.analysis.refused,
            "last_identity": self._last,
            "update_number": self._updates - 1,
        }

    def _emit_result(self, pictures: str = "", *, with_arrays: bool) -> None:
        result = self.analysis.result()
        if with_arrays and self._arrays is not None:
            row = {f"/entry/{name}": value for name, value in result.items() if np.ndim(value)}
            self._arrays.append(self._updates, row)
            self._arrays.flush()
            self._updates += 1
            self._arrays_changed = False
        data = self._counts() | scalar_values(result) | {PICTURES: pictures}
        self._scalars_changed = False
        now = time.time()
        event = self._result_bundle.compose_event(data=data, timestamps=dict.fromkeys(data, now))
        self._emit("event", event)

    def _emit_datums(self) -> None:
        for file, documents in self._streams:
            documents.emit_rows(file.flushed)

    def _describe(self) -> None:
        source = f"ANALYSIS:{self.analysis.name}"
        self._streams = [self._describe_file(self.analysis.stream, self._columns)]
        scalars = [column for column in self.analysis.results if not column.shape]
        keys = {c.name: data_key(c, source) for c in (*COUNTS, *scalars)}
        keys[PICTURES] = {
            "source": source,
            "dtype": "string",
            "shape": [],
            "description": "files of annotated pictures, one path per line",
        }
        self._result_bundle = self._run.compose_descriptor(
            name=RESULT,
            data_keys=keys,
            object_keys={self.analysis.name: list(keys)},
            configuration={},
            hints={self.analysis.name: {"fields": [c.name for c in scalars]}},
        )
        self._emit("descriptor", self._result_bundle.descriptor_doc)
        if self._arrays is not None:
            self._streams.append(self._describe_file(ARRAYS, self._arrays))

    def _describe_file(
        self, stream: str, file: ColumnWriter
    ) -> tuple[ColumnWriter, StreamDocuments]:
        """Describe the stream of the rows of a file."""
        name, source = self.analysis.name, f"ANALYSIS:{self.analysis.name}"
        described = [file.identity, *file.columns.values()]
        columns = {c.name: StreamColumn.of(c) for c in described}
        keys = {c.name: data_key(c, source) | {"external": "STREAM:"} for c in described}
        return file, StreamDocuments(self._run, self._emit, stream, name, file.path, columns, keys)


def scalar_values(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scalars of the result of an analysis, as plain Python values."""
    return {name: value.item() for name, value in result.items() if not np.ndim(value)}


def failure_reason(error: Exception) -> str:
    """Return the reason of a derived run that has failed: class and text of the error."""
    return f"{type(error).__name__}: {error}"


def _in_entry(column: Column) -> Column:
    return replace(column, path=f"/entry/{column.name}")


def _start_metadata(
    analysis: Analysis[Any], raw_start: Mapping[str, Any], inputs: Mapping[str, str], stream: str
) -> dict[str, Any]:
    return {key: raw_start[key] for key in INHERITED if key in raw_start} | {
        "purpose": "analysis",
        "raw_uid": raw_start["uid"],
        "raw_scan_id": raw_start.get("scan_id", -1),
        "analysis": {
            "name": analysis.name,
            "version": analysis.version,
            "parameters": dict(analysis.recorded_parameters),
            "inputs": dict(inputs),
            "stream": stream,
        },
        "versions": {"skywright": __version__},
    }


def data_key(column: Column, source: str) -> dict[str, Any]:
    """Return the data key of a column, for a descriptor."""
    names = ("units", "description", "names")
    about = {name: value for name, value in column.attrs.items() if name in names}
    return value_key(source, column.dtype, column.shape) | about
