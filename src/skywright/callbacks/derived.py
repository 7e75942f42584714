"""A derived run: what an analysis finds, as documents and files beside the raw run's."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import event_model
import numpy as np
from numpy.typing import NDArray

from skywright import __version__
from skywright.analysis import Analysis, Batch, find_late, name_of
from skywright.callbacks.columns_file import ColumnsFile
from skywright.files.columns import Column

EVENT_PERIOD_S = 0.1
DATUM_PERIOD_S = 2.0
"""Documents tell of new rows this often; who needs them sooner follows the file."""

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
"""What a derived run takes over from its raw run's start document."""

IDENTITY = Column("/entry/identity", "<i8", attrs={"description": "number of the raw frame"})
FRAME_TIME = Column(
    "/entry/frame_time", "<f8", attrs={"units": "s", "description": "unix time of the raw frame"}
)
UPDATE_NUMBER = Column("/entry/update_number", "<i8", rows_per_chunk=64)

COUNTS = {
    "n_frames": "frames in the statistics",
    "n_dropped": "frames skipped because the analysis was behind",
    "n_missing": "frames announced that were not in their file",
    "n_late": "frames that came more than a block late, left out of the statistics",
    "last_identity": "number of the last frame measured, -1 before the first",
    "update_number": "number of this result, and its row in array results",
}

Emit = Callable[[str, Any], Any]


class DerivedRun:
    """Runs one analysis over one raw run and emits the derived run.

    The start document goes out at once. Per-frame columns are rows of ``columns.h5``, array
    results rows of ``arrays.h5``, in a directory of this run below `assets`.

    Parameters
    ----------
    analysis
        Fresh; it is used up.
    raw_start
        Start document of the raw run.
    emit
        Takes ``(name, document)``, e.g. a `Journal`.
    assets
        Root directory of assets.
    keys
        Data keys of the raw run that the inputs are read from.
    stream
        Of the raw run that has them.
    """

    def __init__(
        self,
        analysis: Analysis[Any],
        raw_start: Mapping[str, Any],
        emit: Emit,
        assets: Path,
        keys: Mapping[str, str] | None = None,
        *,
        stream: str = "primary",
    ) -> None:
        self.analysis = analysis
        self.rows = 0
        """Frames measured: rows that the columns file has, or will have with the next `tick`."""
        self.dropped = 0
        self.missing = 0
        self._emit = emit
        self._highest: int | None = None
        self._last = -1
        self._update_number = 0
        self._result_changed = False
        self._is_closed = False
        self._next_event = 0.0
        self._next_datum = 0.0
        metadata = _start_metadata(analysis, raw_start, keys or {}, stream)
        run = event_model.compose_run(metadata=metadata)
        self.uid = str(run.start_doc["uid"])
        self.raw_uid = str(raw_start["uid"])
        day = datetime.fromtimestamp(run.start_doc["time"]).astimezone()
        self.directory = assets.absolute() / f"{day:%Y/%m/%d}" / self.uid
        self.directory.mkdir(parents=True, exist_ok=True)
        self._run = run
        emit("start", run.start_doc)
        self._columns = ColumnsFile(
            self.directory / "columns.h5",
            [FRAME_TIME, *(_in_entry(c) for c in analysis.columns)],
            IDENTITY,
        )
        arrays = [replace(_in_entry(c), rows_per_chunk=1) for c in analysis.results if c.shape]
        self._arrays = ColumnsFile(self.directory / "arrays.h5", arrays, UPDATE_NUMBER)
        self._describe()

    @property
    def columns_path(self) -> Path:
        """File with the columns; ``/entry/identity`` is its identity."""
        return self._columns.path

    # Frames in ----------------------------------------------------------------------------------

    def add(self, batch: Batch) -> Mapping[str, NDArray[Any]]:
        """Analyze frames, in the order of their file; return their columns."""
        if not len(batch):
            return {name_of(c): np.empty((0, *c.shape), c.dtype) for c in self.analysis.columns}
        late, self._highest = find_late(batch.identities, self.analysis.block_size, self._highest)
        rows = self.analysis.update(batch, late)
        self._store(batch.identities, batch.times, rows)
        return rows

    def absorb(self, partial: Analysis[Any], done: Batch) -> None:
        """Take in whole blocks that a worker has analyzed (`skywright.analysis.blocks`)."""
        if not len(done):
            return
        self.analysis.merge(partial)
        self._highest = max(int(done.identities.max()), self._highest or 0)
        self._store(done.identities, done.times, done.data)

    def _store(
        self, identities: NDArray[np.int64], times: NDArray[np.float64], rows: Mapping[str, Any]
    ) -> None:
        size = self.analysis.block_size
        self.analysis.advance((int(self._highest or 0) // size - 1) * size)
        self._columns.append(identities, {"frame_time": times, **rows})
        self.rows += len(identities)
        self._last = int(identities[-1])
        self._result_changed = True
        self.tick()

    def tick(self) -> float | None:
        """Write and emit what is due; return in how many seconds to call again, None if never.

        Writing a row of many columns costs as much as measuring a picture, so rows gather a little.
        """
        now = time.monotonic()
        if self._result_changed and now >= self._next_event:
            self._columns.write()
            self._emit_result()
            self._result_changed = False
            self._next_event = now + EVENT_PERIOD_S
        if self._columns.rows_to_emit and now >= self._next_datum:
            self._emit_datums()
            self._next_datum = now + DATUM_PERIOD_S
        due = [self._next_event] if self._result_changed else []
        due += [self._next_datum] if self._columns.rows_to_emit else []
        return max(min(due) - now, 0.0) if due else None

    # Results out --------------------------------------------------------------------------------

    def scalars(self) -> dict[str, Any]:
        """Return the counts and the scalar results, as plain Python values."""
        result = self.analysis.result()
        return self._counts() | {k: v.item() for k, v in result.items() if not np.ndim(v)}

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
            Why it was no success.
        pictures
            File name to contents; kept in `directory` and named by the last result.
        keeps_result
            Whether the last result of a failed analysis is emitted as well: it tells what was seen.
        """
        if self._is_closed:
            return
        self._is_closed = True
        paths = [self.directory / name for name in pictures or {}]
        try:
            for path, contents in zip(paths, (pictures or {}).values(), strict=True):
                path.write_bytes(contents)
            self._columns.write()
            if exit_status != "fail" or keeps_result:
                self._emit_result("\n".join(map(str, paths)))
            self._emit_datums()
        except Exception as error:
            exit_status, reason = "fail", f"{type(error).__name__}: {error}"
            raise
        finally:
            stop = self._run.compose_stop(exit_status=exit_status, reason=reason)
            try:
                self._columns.close()
                self._arrays.close()
            finally:
                self._emit("stop", stop)

    def _counts(self) -> dict[str, Any]:
        return {
            "n_frames": self.analysis.members,
            "n_dropped": self.dropped,
            "n_missing": self.missing,
            "n_late": self.analysis.refused,
            "last_identity": self._last,
            "update_number": self._update_number,
        }

    def _emit_result(self, pictures: str = "") -> None:
        result = self.analysis.result()
        arrays = {name: value for name, value in result.items() if np.ndim(value)}
        if arrays:
            row = {name: value[np.newaxis] for name, value in arrays.items()}
            self._arrays.append(np.array([self._update_number]), row)
            self._arrays.write()
        data = self._counts() | {k: v.item() for k, v in result.items() if k not in arrays}
        data["pictures"] = pictures
        self._update_number += 1
        now = time.time()
        event = self._result.compose_event(data=data, timestamps=dict.fromkeys(data, now))
        self._emit("event", event)

    def _emit_datums(self) -> None:
        for file, descriptor in (
            (self._columns, self._members.descriptor_doc),
            (self._arrays, self._result.descriptor_doc),
        ):
            for name, doc in file.documents(self._run, descriptor):
                self._emit(name, doc)

    def _describe(self) -> None:
        source = f"ANALYSIS:{self.analysis.name}"
        per_frame = {
            name_of(c): _data_key(c, source, external=True) for c in self._columns.all_columns
        }
        self._members = self._run.compose_descriptor(
            name=self.analysis.stream,
            data_keys=per_frame,
            object_keys={self.analysis.name: list(per_frame)},
            configuration={},
            hints={},
        )
        self._emit("descriptor", self._members.descriptor_doc)
        keys: dict[str, Any] = {
            name: {
                "source": source,
                "dtype": "integer",
                "shape": [],
                "dtype_numpy": "<i8",
                "description": text,
            }
            for name, text in COUNTS.items()
        }
        for column in self.analysis.results:
            keys[name_of(column)] = _data_key(column, source, external=bool(column.shape))
        keys["pictures"] = {
            "source": source,
            "dtype": "string",
            "shape": [],
            "description": "files of annotated pictures, one path a line",
        }
        scalars = [name_of(c) for c in self.analysis.results if not c.shape]
        self._result = self._run.compose_descriptor(
            name="result",
            data_keys=keys,
            object_keys={self.analysis.name: list(keys)},
            configuration={},
            hints={self.analysis.name: {"fields": scalars}},
        )
        self._emit("descriptor", self._result.descriptor_doc)


def _in_entry(column: Column) -> Column:
    return replace(column, path=f"/entry/{name_of(column)}")


def _start_metadata(
    analysis: Analysis[Any], raw_start: Mapping[str, Any], keys: Mapping[str, str], stream: str
) -> dict[str, Any]:
    return {key: raw_start[key] for key in INHERITED if key in raw_start} | {
        "purpose": "analysis",
        "raw_uid": raw_start["uid"],
        "raw_scan_id": raw_start.get("scan_id", -1),
        "analysis": {
            "name": analysis.name,
            "version": analysis.version,
            "parameters": analysis.parameters,
            "inputs": dict(keys),
            "stream": stream,
        },
        "versions": {"skywright": __version__},
    }


_DTYPES = {"f": "number", "i": "integer", "u": "integer", "b": "boolean", "U": "string"}


def _data_key(column: Column, source: str, *, external: bool) -> dict[str, Any]:
    dtype = np.dtype(column.dtype)
    key: dict[str, Any] = {
        "source": source,
        "dtype": "array" if column.shape else _DTYPES.get(dtype.kind, "string"),
        "shape": list(column.shape),
    }
    if dtype.kind != "U":
        key["dtype_numpy"] = dtype.str
    for name in ("units", "description", "names"):
        if name in column.attrs:
            key[name] = column.attrs[name]
    if external:
        key["external"] = "STREAM:"
    return key
