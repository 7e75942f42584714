"""The interface of layouts, by which results become rows of a file, and of their writers.

`Layout.append` writes row groups with the writer that `Layout.open` or `Layout.open_early` has
made, such as `skywright.files.areadetector.ImageWriter`, which writes columns to HDF5 by
`ColumnWriter`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

GROUPS_PER_WRITE = 64
"""Maximum number of row groups that are written together."""

Result = TypeVar("Result", contravariant=True)
"""What the owner gives to the recorder."""
RowGroup = TypeVar("RowGroup")
"""What `Layout.row_group` returns: the rows that one result gives."""


class Writer(Protocol):
    """The open file of a recording, not thread-safe; each class has an `append` of its own."""

    @property
    def appended(self) -> int:
        """Number of rows in the file, visible or not."""

    def flush(self) -> int:
        """Make all rows visible to readers; return their number."""

    def close(self) -> None:
        """Flush and close; a second call does nothing."""


WriterT = TypeVar("WriterT", bound=Writer)


class Layout(ABC, Generic[Result, RowGroup, WriterT]):
    """Defines how results become rows of a file. A row group is the rows of one result.

    Attributes
    ----------
    name
        Name of the rows in messages and in causes of loss, for example ``spectra``.
    at_once
        Maximum number of row groups of one `append`.
    """

    name: str
    at_once: int = GROUPS_PER_WRITE

    @abstractmethod
    def row_group(self, result: Result) -> RowGroup | None:
        """Return the rows to be written for a result; None: nothing."""

    @abstractmethod
    def nbytes(self, group: RowGroup) -> int:
        """Return the memory that a row group holds."""

    @abstractmethod
    def open(self, path: Path, groups: Sequence[RowGroup], must_create: bool) -> WriterT | None:
        """Create the file; return None to wait for a row group that gives its shape.

        `must_create` is True if a caller waits for these rows, or if the recording ends. Then
        `open` may return None only if `groups` has no row for the file. After None, `open` is
        called again with these row groups and the next ones.
        """

    def open_early(self, path: Path) -> WriterT | None:
        """Create the file before the first row group; return None if that needs a row group."""
        return None

    @abstractmethod
    def append(self, file: WriterT, groups: Sequence[RowGroup]) -> Mapping[str, int]:
        """Write row groups, or raise and write none; return what is lost, by cause.

        If only a part of a row is lost, the row is in the file and the loss is counted.
        """

    def describe(self, group: RowGroup) -> str:
        """Return a short description of a row group, for error messages."""
        return self.name

    def rows(self, group: RowGroup) -> int:
        """Return the number of rows of a row group."""
        return 1

    def select(self, group: RowGroup, rows: slice | NDArray[np.bool_]) -> RowGroup:
        """Return some of the rows of a row group; called only if it has more than one row."""
        raise NotImplementedError(
            f"{type(self).__name__}: a row group of several rows needs `select`"
        )
