"""The layout of columns files, for items of one or more rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.acquire.recorder import Layout
from skywright.files.columns import Column, ColumnWriter, DoesNotFitError


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
        return self.identity.nbytes + sum(block.nbytes for block in self.columns.values())

    def select(self, rows: slice | NDArray[np.bool_]) -> "Rows":
        """Return some of the rows."""
        return Rows(
            self.identity[rows], {path: block[rows] for path, block in self.columns.items()}
        )


@dataclass
class ColumnsLayout(Layout[Any, Rows]):
    """Writes `Rows` to a file of columns. Many rows at once cost one write for each column.

    To record other results, override `take` to return `Rows` or None.

    Parameters
    ----------
    name
        Name of the recorded items.
    columns, identity, groups, links
        As for `ColumnWriter`.
    """

    name: str
    columns: Sequence[Column]
    identity: Column
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)

    def take(self, result: Any) -> Rows | None:
        """Return the rows of a result; None when there are none."""
        rows: Rows = result
        return rows if len(rows) else None

    def nbytes(self, item: Rows) -> int:
        """Return the memory that rows hold."""
        return item.nbytes

    def rows(self, item: Rows) -> int:
        """Return the number of rows."""
        return len(item)

    def select(self, item: Rows, rows: slice) -> Rows:
        """Return some of the rows."""
        return item.select(rows)

    def open(self, path: Path, items: Sequence[Rows], last: bool) -> "ColumnsFile":
        """Create the file."""
        return ColumnsFile(ColumnWriter(path, self.columns, self.identity, self.groups, self.links))


class ColumnsFile:
    """An open file of columns; not thread-safe.

    Parameters
    ----------
    writer
        Writer of the file.
    """

    def __init__(self, writer: ColumnWriter) -> None:
        self.writer = writer

    def append(self, items: Sequence[Rows]) -> Mapping[str, int]:
        """Write rows; return the number of rows whose values do not fit their columns."""
        rows = items[0] if len(items) == 1 else _joined(items)
        try:
            self.writer.append(rows.identity, rows.columns)
        except DoesNotFitError as error:
            good = rows.select(error.fits)
            if len(good):
                self.writer.append(good.identity, good.columns)
            return {"does not fit": len(rows) - len(good)}
        return {}

    def flush(self) -> int:
        """Make all rows visible to readers; return their number."""
        return self.writer.flush()

    def close(self) -> None:
        """Flush and close; a second call does nothing."""
        self.writer.close()


def _joined(items: Sequence[Rows]) -> Rows:
    columns = {
        path: np.concatenate([item.columns[path] for item in items]) for path in items[0].columns
    }
    return Rows(np.concatenate([item.identity for item in items]), columns)
