"""The layout of files of columns, for row groups of one or more rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from skywright.acquire.layout import Layout, WriterT
from skywright.files.columns import Column, ColumnWriter


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows of a file of columns.

    Parameters
    ----------
    identity
        (n,) integers.
    columns
        For each column its values, (n, *shape), by the column's path.
    """

    identity: NDArray[Any]
    columns: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.identity)

    @property
    def nbytes(self) -> int:
        """Size in memory, bytes."""
        return self.identity.nbytes + sum(values.nbytes for values in self.columns.values())

    def select(self, rows: slice | NDArray[np.bool_]) -> Self:
        """Return some of the rows."""
        columns = {path: values[rows] for path, values in self.columns.items()}
        return replace(self, identity=self.identity[rows], columns=columns)


RowsT = TypeVar("RowsT", bound=Rows)


class RowsLayout(Layout[Any, RowsT, WriterT]):
    """Base class of layouts whose row groups may have several rows.

    To record other results, override `row_group` to return a row group or None.
    """

    def row_group(self, result: Any) -> RowsT | None:
        """Return the rows of a result; None when there are none."""
        rows: RowsT = result
        return rows if len(rows) else None

    def nbytes(self, group: RowsT) -> int:
        """Return the memory that rows hold."""
        return group.nbytes

    def rows(self, group: RowsT) -> int:
        """Return the number of rows."""
        return len(group)

    def select(self, group: RowsT, rows: slice | NDArray[np.bool_]) -> RowsT:
        """Return some of the rows."""
        return group.select(rows)


@dataclass
class ColumnsLayout(RowsLayout[Rows, ColumnWriter]):
    """Writes `Rows` to a file of columns. Rows appended together cost one write for each column.

    Parameters
    ----------
    name
        Name of what is recorded.
    columns, identity
        As for `ColumnWriter`.
    """

    name: str
    columns: Sequence[Column]
    identity: Column

    def open(self, path: Path, groups: Sequence[Rows], must_create: bool) -> ColumnWriter:
        """Create the file."""
        return ColumnWriter(path, self.columns, self.identity)

    def append(self, file: ColumnWriter, groups: Sequence[Rows]) -> Mapping[str, int]:
        """Write rows."""
        rows = groups[0] if len(groups) == 1 else _joined(groups)
        file.append(rows.identity, rows.columns)
        return {}


def _joined(groups: Sequence[Rows]) -> Rows:
    paths = {path for group in groups for path in group.columns}
    columns = {path: np.concatenate([group.columns[path] for group in groups]) for path in paths}
    return Rows(np.concatenate([group.identity for group in groups]), columns)
