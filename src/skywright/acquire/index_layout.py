"""The layout of recordings of files that another program writes: an index of their records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.acquire.recorder import Layout
from skywright.files.columns import Column, DoesNotFitError
from skywright.files.index import IndexWriter


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """Records of one file that another program writes.

    Parameters
    ----------
    file
        Absolute path.
    identity, offset, size
        (n,) integers: identity of each record, first byte and number of bytes.
    extra
        Values of the layout's further columns, (n, *shape), by path.
    """

    file: Path
    identity: NDArray[Any]
    offset: NDArray[Any]
    size: NDArray[Any]
    extra: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.identity)

    def select(self, rows: slice | NDArray[np.bool_]) -> "Records":
        """Return some of the records."""
        extra = {path: values[rows] for path, values in self.extra.items()}
        return Records(self.file, self.identity[rows], self.offset[rows], self.size[rows], extra)


@dataclass
class IndexLayout(Layout[Any, Records]):
    """Writes an index of records; their bytes stay where they are.

    To record other results, override `take` to return `Records` or None.

    Parameters
    ----------
    name
        Name of the recorded items in messages and causes of loss.
    identity
        Description of the identity of a record, for the file.
    extra
        Further columns.
    """

    name: str = "index"
    identity: str = "record"
    extra: Sequence[Column] = ()

    def take(self, result: Any) -> Records | None:
        """Return the records of a result; None when there are none."""
        records: Records = result
        return records if len(records) else None

    def nbytes(self, item: Records) -> int:
        """Return the memory that records hold."""
        arrays = (item.identity, item.offset, item.size, *item.extra.values())
        return sum(array.nbytes for array in arrays)

    def rows(self, item: Records) -> int:
        """Return the number of records."""
        return len(item)

    def select(self, item: Records, rows: slice) -> Records:
        """Return some of the records."""
        return item.select(rows)

    def open(self, path: Path, items: Sequence[Records], last: bool) -> "IndexFile":
        """Create the index, whether there are records yet or not."""
        return IndexFile(IndexWriter(path, self.identity, self.extra))


class IndexFile:
    """An open index; not thread-safe.

    Parameters
    ----------
    writer
        Writer of the index.
    """

    def __init__(self, writer: IndexWriter) -> None:
        self.writer = writer

    def append(self, items: Sequence[Records]) -> Mapping[str, int]:
        """Write records; return the number whose values do not fit their columns."""
        lost = 0
        for item in items:
            try:
                self._append(item)
            except DoesNotFitError as error:
                good = item.select(error.fits)
                lost += len(item) - len(good)
                if len(good):
                    self._append(good)
        return {"does not fit": lost} if lost else {}

    def _append(self, item: Records) -> None:
        self.writer.append(item.file, item.identity, item.offset, item.size, item.extra)

    def flush(self) -> int:
        """Make all records visible to readers; return their number."""
        return self.writer.flush()

    def close(self) -> None:
        """Flush and close; a second call does nothing."""
        self.writer.close()
