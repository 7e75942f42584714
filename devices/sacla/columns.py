"""Columns of the files that the IOC of shots records."""

from collections.abc import Sequence

from devices.file_stream import StreamColumn
from skywright.files.columns import Column
from skywright.instruments.sacla import layouts


def shot_columns() -> tuple[StreamColumn, ...]:
    """Return the columns of the rows of shots."""
    return (_plain("", layouts.TAG), *(_plain("", column) for column in layouts.SHOT_COLUMNS))


def region_columns() -> tuple[StreamColumn, ...]:
    """Return the columns of the region sets; each set is a row."""
    names = (layouts.REGIONS_NUMBER, *layouts.REGION_COLUMNS)
    return tuple(_plain("set_", column) for column in names)


def image_columns(shapes: Sequence[tuple[int, int]]) -> tuple[StreamColumn, ...]:
    """Return the columns of the running images of detectors with these shapes."""
    found = layouts.ImagesLayout({str(k): shape for k, shape in enumerate(shapes)})
    return tuple(_plain("image_", column) for column in (found.identity, *found.columns))


def frame_columns(shapes: Sequence[tuple[int, int]]) -> tuple[StreamColumn, ...]:
    """Return the columns of the frames of detectors with these shapes."""
    found = layouts.FramesLayout({str(k): shape for k, shape in enumerate(shapes)})
    return tuple(_plain("frame_", column) for column in (found.identity, *found.columns))


def _plain(prefix: str, column: Column) -> StreamColumn:
    return StreamColumn(
        prefix + column.path.rsplit("/", 1)[1],
        column.path,
        column.dtype,
        column.shape,
        column.rows_per_chunk,
        str(column.attrs.get("units", "")),
    )
