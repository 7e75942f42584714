"""File plugin PVs, and the stream documents of the files that they open."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from bluesky.protocols import Status, StreamAsset
from event_model import ComposeStreamResourceBundle, StreamRange, compose_stream_resource
from ophyd import Component as Cpt
from ophyd import Device, EpicsSignal, EpicsSignalRO, Kind

from devices.guarded import Setting
from skywright.errors import ConfigError
from skywright.files.stream_columns import StreamColumn

STREAM_MODE = 2


class FilePlugin(Device):
    """The PVs by which a client opens and closes the file of an areaDetector plugin.

    Attributes
    ----------
    requested_rows
        Number of rows after which the next recording ends by itself; 0: no limit.
    """

    requested_rows = 0

    file_path = Cpt(EpicsSignal, "FilePath", kind=Kind.omitted, string=True, put_complete=True)
    file_name = Cpt(EpicsSignal, "FileName", kind=Kind.omitted, string=True, put_complete=True)
    file_template = Cpt(
        EpicsSignal, "FileTemplate", kind=Kind.omitted, string=True, put_complete=True
    )
    create_directory = Cpt(EpicsSignal, "CreateDirectory", kind=Kind.omitted, put_complete=True)
    file_write_mode = Cpt(EpicsSignal, "FileWriteMode", kind=Kind.omitted, put_complete=True)
    num_capture = Cpt(EpicsSignal, "NumCapture", kind=Kind.omitted, put_complete=True)
    capture = Cpt(Setting, "Capture", kind=Kind.omitted)
    full_file_name = Cpt(EpicsSignalRO, "FullFileName_RBV", kind=Kind.omitted, string=True)
    write_message = Cpt(EpicsSignalRO, "WriteMessage", kind=Kind.omitted, string=True)

    def settings(self, assets: Path, name: str) -> tuple[tuple[Any, Any], ...]:
        """Return the puts, in order, that precede the one of `capture`.

        Parameters
        ----------
        assets
            Directory; a dated directory below it is made for each day.
        name
            Name of the file, without its ending.

        Raises
        ------
        ConfigError
            If the path has characters beyond ASCII: clients and IOCs encode them differently.
        """
        if not str(assets).isascii():
            raise ConfigError(f"{assets}: IOCs need a path of ASCII characters (store.directory)")
        return (
            (self.create_directory, -5),  # negative: how many levels of directories it may create
            (self.file_path, f"{assets}/{datetime.now():%Y/%m/%d}/"),
            (self.file_name, name),
            (self.file_template, "%s%s.h5"),
            (self.file_write_mode, STREAM_MODE),
            (self.num_capture, self.requested_rows),
        )


class FileStream:
    """The rows of one recording as a stream of a run.

    It implements bluesky's protocols `Collectable` and `WritesStreamAssets`.

    Parameters
    ----------
    device
        Device of the stream: it is asked whether its IOC is alive (`raise_if_silent`), what its
        configuration is, and whether a changed size of the images is an error (`check_size`).
        `FileStreamDevice` and `OneStream` have `raise_if_silent` and `check_size`.
    name
        Name of this object, for bluesky, for example ``axis_pictures``.
    plugin
        PVs of the file plugin; None if a subclass overrides `source`.
    columns
        Function that returns the columns with the present image shape.
    hinted
        Keys for tables and plots.
    files
        Returns the files of the recording in order, each with the number of rows in those before;
        None: there is one file.

    Attributes
    ----------
    by_row
        Emit one StreamDatum per row, as a step scan needs.
    has_more
        Whether rows of a further file were visible at the last `collect_asset_docs`: the RunEngine
        takes the rows of one file at a time.
    """

    parent = None

    def __init__(
        self,
        device: Any,
        name: str,
        plugin: Any,
        columns: Callable[[], Sequence[StreamColumn]],
        hinted: Sequence[str] = (),
        files: Callable[[], Sequence[tuple[str, int]]] | None = None,
    ) -> None:
        self._files = files or (lambda: [(self.file, 0)])
        self._hinted = tuple(hinted)
        self.device = device
        self.name = name
        self.plugin = plugin
        self.file = ""
        """First file of the present recording; empty while there is none."""
        self.rows = 0
        """Number of rows of the recording, in all its files, that readers can see."""
        self.by_row = False
        self._present_columns = columns
        self._file_columns: Sequence[StreamColumn] = ()
        """Columns of the present recording, read when it began; empty while there is none."""
        self.has_more = False
        self._rows_emitted = 0
        self._bundles: dict[str, list[ComposeStreamResourceBundle]] = {}

    @property
    def hints(self) -> dict[str, Any]:
        """Fields that displays of the rows show first."""
        return {"fields": [f"{self.device.name}_{key}" for key in self._hinted]}

    def begin(self, file: str) -> None:
        """Begin a recording whose first file is `file`; its documents follow on request."""
        self.file, self._rows_emitted, self._bundles, self.has_more = file, 0, {}, False
        self._file_columns = self._present_columns()

    def end(self) -> None:
        """End the recording; `begin` begins the next one, in another file."""
        self.file, self._file_columns = "", ()

    @property
    def source(self) -> str:
        """Where the rows come from, for descriptors."""
        return f"PV:{self.plugin.prefix}FullFileName_RBV"

    def describe_collect(self) -> dict[str, Any]:
        """Describe one row of the file.

        Each run needs its own StreamResource. The RunEngine calls this for each stream; it does not
        tell a device that a run begins. So each call begins a new StreamResource.
        """
        self._bundles = {}
        return {
            self.key_of(column): column.describe(self.source)
            for column in self._file_columns or self._present_columns()
        }

    def key_of(self, column: StreamColumn) -> str:
        """Return the data key of a column."""
        return f"{self.device.name}_{column.key}"

    def read_configuration(self) -> dict[str, Any]:
        """Read the configuration of the device."""
        return dict(self.device.read_configuration())

    def describe_configuration(self) -> dict[str, Any]:
        """Describe the configuration of the device."""
        return dict(self.device.describe_configuration())

    def get_index(self) -> int:
        """Return the number of rows of the recording, in all its files, that readers can see."""
        return self.rows

    def collect_asset_docs(self, index: int | None = None) -> Iterator[StreamAsset]:
        """Yield the StreamResources of a file, once per run, and StreamDatums of its new rows.

        If there is no new row, check that the IOC is alive.

        Raises
        ------
        HardwareError
            If there is no new row and the IOC is gone or silent, or if `check_size` of the device
            refuses a size.
        """
        rows = self.get_index()
        rows = rows if index is None else min(index, rows)
        if rows <= self._rows_emitted:
            self.has_more = False
            self.device.raise_if_silent()
            return
        file, start, stop = self.segments(self._rows_emitted, rows)[0]
        if file not in self._bundles:
            self.device.check_size()
            self._bundles[file] = [
                compose_stream_resource(**column.resource(file, self.key_of(column)))
                for column in self._file_columns
            ]
            for bundle in self._bundles[file]:
                yield "stream_resource", bundle.stream_resource_doc
        size = 1 if self.by_row else stop - start
        for row in range(start, stop, size):
            for bundle in self._bundles[file]:
                # The RunEngine fills in `seq_nums`.
                yield (
                    "stream_datum",
                    bundle.compose_stream_datum(StreamRange(start=row, stop=row + size)),
                )
        self._rows_emitted += stop - start
        self.has_more = self._rows_emitted < rows

    def segments(self, start: int, stop: int) -> list[tuple[str, int, int]]:
        """Return where rows of the recording are: file, first row, and the row after the last."""
        files = self._files()
        ends = [first for _, first in files[1:]] + [stop]
        return [
            (file, max(start, first) - first, min(stop, end) - first)
            for (file, first), end in zip(files, ends, strict=True)
            if max(start, first) < min(stop, end)
        ]


class OneStream:
    """Base class of flyers with one stream, the attribute `stream`.

    If `FileStreamDevice` is a base class too, list this class last: `raise_if_silent` and
    `check_size` of that class must be used.
    """

    stream: FileStream

    def describe_collect(self) -> dict[str, Any]:
        """Describe one row of the file."""
        return self.stream.describe_collect()

    def get_index(self) -> int:
        """Return the number of rows that are visible in the file."""
        return self.stream.get_index()

    def collect_asset_docs(self, index: int | None = None) -> Iterator[StreamAsset]:
        """Yield the documents of new rows, see `FileStream.collect_asset_docs`."""
        return self.stream.collect_asset_docs(index)

    def raise_if_silent(self) -> None:
        """Do nothing; a device whose rows may stop overrides it, and raises `HardwareError`."""

    def check_size(self) -> None:
        """Do nothing; a device whose rows may change their size overrides it, and raises."""


class FlyerStream(FileStream):
    """A stream that is also the flyer of its device: rows come between kickoff and complete.

    Parameters: as for `FileStream`. The device also has the methods `prepare_rows`, `start_flying`
    and `finish_flying`, which run on a thread (`GuardedDevice.in_background`).
    """

    def prepare(self, rows: int) -> Status:
        """Set the number of rows; `prepare_rows` of the device defines when it takes effect.

        Parameters
        ----------
        rows
            Number of rows that `complete` waits for; 0: rows come until `complete`.
        """
        return self.device.in_background(lambda: self.device.prepare_rows(rows))

    def kickoff(self) -> Status:
        """Start; done when rows can come."""
        return self.device.in_background(self.device.start_flying)

    def complete(self) -> Status:
        """Finish; done when all rows are visible in the file."""
        return self.device.in_background(self.device.finish_flying)
