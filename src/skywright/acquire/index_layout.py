"""The layout of recordings of files that another program writes: an index of their records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skywright.acquire.columns_layout import Rows, RowsLayout
from skywright.files.columns import Column
from skywright.files.index import IndexWriter


@dataclass(frozen=True, slots=True, eq=False)
class Records(Rows):
    """Records of one file that another program writes.

    Its `columns` are offset and size of each record in the file, and the layout's further columns,
    by path.

    Parameters
    ----------
    file
        Absolute path.
    """

    file: Path


@dataclass
class IndexLayout(RowsLayout[Records, IndexWriter]):
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
    at_once = 1  # one `IndexWriter.append` takes the records of one file

    def open(self, path: Path, groups: Sequence[Records], must_create: bool) -> IndexWriter:
        """Create the index."""
        return IndexWriter(path, self.identity, self.extra)

    def append(self, file: IndexWriter, groups: Sequence[Records]) -> Mapping[str, int]:
        """Write records of one file."""
        (group,) = groups
        file.append(group.file, group.identity, group.columns)
        return {}
