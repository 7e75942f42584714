"""The layout of columns files, for items of one or more rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from skywright.acquire.recorder import Layout, WriterFile
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


class ItemOfRows(Protocol):
    """One or more rows."""

    def __len__(self) -> int: ...

    @property
    def nbytes(self) -> int:
        """Size in memory, bytes."""

    def select(self, rows: slice | NDArray[np.bool_]) -> Self:
        """Return some of the rows."""


Item = TypeVar("Item", bound=ItemOfRows)


class RowsLayout(Layout[Any, Item]):
    """Base class of layouts whose items hold rows.

    To record other results, override `take` to return an item or None.
    """

    def take(self, result: Any) -> Item | None:
        """Return the rows of a result; None when there are none."""
        rows: Item = result
        return rows if len(rows) else None

    def nbytes(self, item: Item) -> int:
        """Return the memory that rows hold."""
        return item.nbytes

    def rows(self, item: Item) -> int:
        """Return the number of rows."""
        return len(item)

    def select(self, item: Item, rows: slice) -> Item:
        """Return some of the rows."""
        return item.select(rows)


def write_fitting(item: Item, write: Callable[[Item], None]) -> Mapping[str, int]:
    """Write the rows whose values fit their columns; return the number of the others."""
    try:
        write(item)
    except DoesNotFitError as error:
        good = item.select(error.fits)
        if len(good):
            write(good)
        return {"does not fit": len(item) - len(good)}
    return {}


@dataclass
class ColumnsLayout(RowsLayout[Rows]):
    """Writes `Rows` to a file of columns. Many rows at once cost one write for each column.

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

    def open(self, path: Path, items: Sequence[Rows], must_create: bool) -> "ColumnsFile":
        """Create the file."""
        return ColumnsFile(ColumnWriter(path, self.columns, self.identity, self.groups, self.links))


class ColumnsFile(WriterFile[ColumnWriter]):
    """An open file of columns; not thread-safe."""

    def append(self, items: Sequence[Rows]) -> Mapping[str, int]:
        """Write rows; return the number of rows whose values do not fit their columns."""
        rows = items[0] if len(items) == 1 else _joined(items)
        return write_fitting(rows, lambda some: self.writer.append(some.identity, some.columns))


def _joined(items: Sequence[Rows]) -> Rows:
    columns = {
        path: np.concatenate([item.columns[path] for item in items]) for path in items[0].columns
    }
    return Rows(np.concatenate([item.identity for item in items]), columns)
