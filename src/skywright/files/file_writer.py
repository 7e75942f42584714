"""The base class of the writers of images, indices and spectra."""

from skywright.closing import Closing
from skywright.files.columns import ColumnWriter


class FileWriter(Closing):
    """Writes a file by a `ColumnWriter`; not thread-safe. A subclass adds `append`.

    Parameters
    ----------
    writer
        Writes the columns of the file.
    referred
        Writer of a second file, to which the rows of the first one refer.
    """

    def __init__(self, writer: ColumnWriter, referred: ColumnWriter | None = None) -> None:
        self.writer = writer
        self._referred = referred

    @property
    def appended(self) -> int:
        """Number of rows in the file, visible or not."""
        return self.writer.appended

    def flush(self) -> int:
        """Make all rows visible to readers; return their number.

        Raises
        ------
        OSError
            If the disk is full or fails.
        """
        if self._referred is not None:
            self._referred.flush()  # before the rows that refer to it
        return self.writer.flush()

    def close(self) -> None:
        """Flush and close; a second call does nothing.

        Raises
        ------
        OSError
            If the disk is full or fails.
        """
        try:
            if self._referred is not None:
                self._referred.close()
        finally:
            self.writer.close()
