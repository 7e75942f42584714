"""The file of a derived run's columns, and the stream documents of its rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from skywright.analysis import name_of
from skywright.files.columns import Column, ColumnWriter


class DerivedColumns:
    """A file of columns and its stream documents.

    Parameters
    ----------
    path
        Path of the new file; without columns no file is made.
    columns, identity
        As for `ColumnWriter`; the last part of each path is the data key.
    """

    def __init__(self, path: Path, columns: list[Column], identity: Column) -> None:
        self.path = path
        self.columns = columns
        self.identity = identity
        self._writer = ColumnWriter(path, columns, identity) if columns else None
        self._rows_emitted = 0
        self._rows: list[tuple[NDArray[np.int64], dict[str, NDArray[Any]]]] = []
        self._resources: list[Any] = []

    @property
    def all_columns(self) -> list[Column]:
        """The columns, the identity first."""
        return [self.identity, *self.columns]

    def append(self, identities: NDArray[np.int64], rows: Mapping[str, Any]) -> None:
        """Keep rows until `write`."""
        self._rows.append((identities, {c.path: rows[name_of(c)] for c in self.columns}))

    def write(self) -> None:
        """Write the kept rows; readers can see them then."""
        if self._writer is not None and self._rows:
            identities = np.concatenate([numbers for numbers, _ in self._rows])
            rows = {
                path: np.concatenate([each[path] for _, each in self._rows])
                for path in self._rows[0][1]
            }
            self._rows = []
            self._writer.append(identities, rows)
            self._writer.flush()

    @property
    def rows_to_emit(self) -> int:
        """Number of rows in the file that are in no document yet."""
        return self._writer.flushed - self._rows_emitted if self._writer is not None else 0

    def documents(self, run: Any, descriptor: Any) -> list[tuple[str, Any]]:
        """Return the documents of the rows since the last call."""
        rows = self._rows_emitted + self.rows_to_emit
        if rows == self._rows_emitted:
            return []
        docs: list[tuple[str, Any]] = []
        if not self._resources:
            self._resources = [
                run.compose_stream_resource(
                    mimetype="application/x-hdf5",
                    uri=f"file://localhost{quote(str(self.path))}",
                    data_key=name_of(c),
                    parameters={
                        "dataset": c.path,
                        "chunk_shape": [c.rows_per_chunk, *c.shape],
                        "swmr": True,
                    },
                )
                for c in self.all_columns
            ]
            docs += [("stream_resource", each.stream_resource_doc) for each in self._resources]
        for each in self._resources:
            datum = each.compose_stream_datum(
                indices={"start": self._rows_emitted, "stop": rows},
                seq_nums={"start": self._rows_emitted + 1, "stop": rows + 1},
                descriptor=descriptor,
            )
            docs.append(("stream_datum", datum))
        self._rows_emitted = rows
        return docs

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
