"""The layout of recordings of files that another program writes: an index of their records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.acquire.columns_layout import RowsLayout
from skywright.acquire.recorder import WriterFile
from skywright.files.columns import Column
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

    @property
    def nbytes(self) -> int:
        """Size in memory, bytes."""
        arrays = (self.identity, self.offset, self.size, *self.extra.values())
        return sum(array.nbytes for array in arrays)

    def select(self, rows: slice | NDArray[np.bool_]) -> "Records":
        """Return some of the records."""
        extra = {path: values[rows] for path, values in self.extra.items()}
        return Records(self.file, self.identity[rows], self.offset[rows], self.size[rows], extra)


@dataclass
class IndexLayout(RowsLayout[Records]):
    """Writes an index of records; their bytes stay where they are.

    Parameters
    ----------
    name
        Name of what is recorded, in messages and causes of loss.
    identity
        Description of the identity of a record, for the file.
    extra
        Further columns.
    """

    name: str = "index"
    identity: str = "record"
    extra: Sequence[Column] = ()
    at_once: int = 1  # one `IndexWriter.append` takes the records of one file

    def open(self, path: Path, groups: Sequence[Records], must_create: bool) -> "IndexFile":
        """Create the index."""
        return IndexFile(IndexWriter(path, self.identity, self.extra))


class IndexFile(WriterFile[IndexWriter]):
    """An open index; not thread-safe."""

    def append(self, groups: Sequence[Records]) -> Mapping[str, int]:
        """Write records of one file."""
        (group,) = groups
        self.writer.append(group.file, group.identity, group.offset, group.size, group.extra)
        return {}
