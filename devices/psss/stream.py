"""Files of the spectrometer: those of pulses, pictures and settings."""

from pathlib import Path

from ophyd import Component as Cpt
from ophyd import EpicsSignalRO, Kind

from devices.file_stream import FilePlugin, FileStream
from skywright.errors import DataError
from skywright.files.columns import ColumnReader


class PsssFile(FilePlugin):
    """A file plugin of the spectrometer; `captured` counts the visible rows of its file."""

    captured = Cpt(EpicsSignalRO, "NumCaptured_RBV", kind=Kind.omitted, auto_monitor=True)
    data_type = Cpt(EpicsSignalRO, "DataType_RBV", kind=Kind.omitted, string=True)
    lost = Cpt(EpicsSignalRO, "DroppedArrays_RBV", kind=Kind.omitted, auto_monitor=True)


class SettingsStream(FileStream):
    """The settings with which the pulses of a file were processed, a row for each number."""

    def begin(self, file: str) -> None:
        """Begin the documents of the file of settings that belongs to a new file of spectra."""
        from skywright.instruments.psss import layouts

        self.rows = 0
        super().begin(str(layouts.settings_path(Path(file))))

    @property
    def source(self) -> str:
        """Where the rows come from, for descriptors: the file, whose name no PV has."""
        return "file of settings beside the file of spectra"

    def get_index(self) -> int:
        """Return the number of rows that are visible in the file; no PV has this number."""
        # No row of settings is announced before the first pulse is visible
        if self.file and self.device.pulses.rows:
            self.rows = max(self.rows, _count_settings(self.file))
        return self.rows


def _count_settings(file: str) -> int:
    """Return the number of complete rows of a file of settings; 0 if it is not there yet."""
    from skywright.instruments.psss import layouts

    try:
        with ColumnReader(Path(file), layouts.SETTINGS_NUMBER) as reader:
            return reader.count()
    except DataError:
        return 0
