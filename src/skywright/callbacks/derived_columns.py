"""The file of a derived run's columns."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.files.columns import Column, ColumnWriter


class DerivedColumns:
    """A file of columns whose rows are kept in memory until they are written.

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
        self._rows: list[tuple[NDArray[np.int64], dict[str, NDArray[Any]]]] = []

    @property
    def all_columns(self) -> list[Column]:
        """The columns, the identity first."""
        return [self.identity, *self.columns]

    def append(self, identities: NDArray[np.int64], rows: Mapping[str, Any]) -> None:
        """Keep rows until `write`."""
        self._rows.append((identities, {c.path: rows[c.name] for c in self.columns}))

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
    def flushed(self) -> int:
        """Number of rows in the file."""
        return self._writer.flushed if self._writer is not None else 0

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
