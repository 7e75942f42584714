"""The base classes of the writers of images, indices and spectra."""

from collections.abc import Callable

from skywright.closing import Closing
from skywright.files.columns import ColumnWriter


class FileWriter(Closing):
    """Writes a file by a `ColumnWriter`; not thread-safe. A subclass adds `append`.

    Parameters
    ----------
    writer
        Writes the columns of the file.
    """

    def __init__(self, writer: ColumnWriter) -> None:
        self.writer = writer

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
        return self.writer.flush()

    def close(self) -> None:
        """Flush and close; a second call does nothing.

        Raises
        ------
        OSError
            If the disk is full or fails.
        """
        self.writer.close()


class TwoFilesWriter(FileWriter):
    """Also writes a second file, to which the rows of the first one refer.

    Parameters
    ----------
    referred
        Writer of the second file. It is closed and its file removed if `make_writer` raises.
    make_writer
        Creates the first file and returns its writer.
    """

    def __init__(self, referred: ColumnWriter, make_writer: Callable[[], ColumnWriter]) -> None:
        self.referred = referred
        try:
            super().__init__(make_writer())
        except BaseException:
            referred.close()
            referred.path.unlink()
            raise

    def flush(self) -> int:
        """Make all rows visible to readers, those of `referred` first.

        Raises
        ------
        OSError
            If the disk is full or fails.
        """
        self.referred.flush()
        return super().flush()

    def close(self) -> None:
        """Flush and close both files.

        After an error of the second one, the first one is closed without a flush: its rows may
        refer to rows that are not there.

        Raises
        ------
        OSError
            If the disk is full or fails.
        """
        try:
            self.referred.close()
        except BaseException:
            self.writer.close(flush=False)
            raise
        super().close()
