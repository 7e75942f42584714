"""Write a stored run, raw or derived, as NeXus/HDF5, CSV or Zarr."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tiled.client.container import Container

from skywright.errors import DataError, SkywrightError, is_disk_full
from skywright.processes.scratch import scratch
from skywright.store.export.contents import RunContents, read_contents
from skywright.store.export.csv import write_csv
from skywright.store.export.nexus import write_nexus
from skywright.store.export.replace import SCRATCH, refuse_foreign, replace
from skywright.store.export.zarr import write_zarr
from skywright.store.lookup import JournalListing

SUFFIXES = {"nexus": ".nxs", "csv": "", "zarr": ".zarr"}
FORMATS = tuple(SUFFIXES)


@dataclass(frozen=True)
class ExportReport:
    """What was written."""

    output: Path
    format: str
    uid: str
    status: str
    """As `skywright runs` shows it; what is stored of an unfinished run is exported."""
    files: tuple[Path, ...]
    notes: tuple[str, ...]
    """What a reader of the export must know: left out, copied instead of linked, not finished."""


def export_run(
    run: Container,
    output: Path,
    format: str,
    *,
    overwrite: bool = False,
    link: bool = False,
    listing: JournalListing | None = None,
) -> ExportReport:
    """Write `run` to `output`, all of it or nothing.

    Parameters
    ----------
    run
        tiled client of the run.
    output
        File (nexus) or directory (csv, zarr) to make.
    format
        One of `FORMATS`.
    overwrite
        Replace an earlier export. Files in its directory that it did not write stay.
    link
        NeXus only: refer to the frames' own files instead of copying them.
    listing
        The journals, for the status of the run.

    Raises
    ------
    DataError
        If the format is unknown or cannot link, `output` exists (with `overwrite`: and is no export
        of ours, or a file that stays is in the way), its directory does not, it cannot be written,
        or data of the run cannot be read.
    SkywrightError
        If the disk is full: then neither the run nor the arguments are at fault.
    """
    if format not in FORMATS:
        raise DataError(f"format {format!r}: expected one of {', '.join(FORMATS)}")
    if link and format != "nexus":
        raise DataError(f"{format} cannot link to other files; leave out --link or export nexus")
    if output.exists():
        if not overwrite:
            raise DataError(f"{output}: exists already; name another output or use --overwrite")
        refuse_foreign(output)
    if not output.parent.is_dir():
        raise DataError(f"{output}: there is no directory {output.parent}; create it first")
    contents = read_contents(run, listing)
    notes, files = _write(contents, output, format, link)
    return ExportReport(
        output=output,
        format=format,
        uid=contents.start["uid"],
        status=contents.status,
        files=files,
        notes=(*contents.notes, *notes),
    )


def _write(
    contents: RunContents, output: Path, format: str, link: bool
) -> tuple[list[str], tuple[Path, ...]]:
    """Write a temporary export, and move it to `output`; return the notes and the new files.

    The temporary export is on the disk of `output`, so that the move is a rename. If `output` is
    a directory that exists, it is inside it: that directory may be a mount point.
    """
    writers: dict[str, Callable[[RunContents, Path], list[str]]] = {
        "nexus": partial(write_nexus, link=link),
        "csv": write_csv,
        "zarr": write_zarr,
    }
    path = output.absolute()  # the parent of "." is "."
    place = path if path.is_dir() and format != "nexus" else path.parent
    try:
        with scratch(SCRATCH, place) as directory:
            part = directory / "part"
            notes = writers[format](contents, part)
            files = [output]
            if part.is_dir():
                files = [output / each.name for each in sorted(part.iterdir())]
            replace(part, output)
    except OSError as error:
        kind = SkywrightError if is_disk_full(error) else DataError
        raise kind(f"{output}: cannot be written: {error}") from error
    return notes, tuple(files)
