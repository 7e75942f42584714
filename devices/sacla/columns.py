"""Columns of the files that the IOC of shots records."""

from collections.abc import Sequence

from skywright.files.stream_columns import StreamColumn
from skywright.instruments.sacla import layouts


def shot_columns(regions: int, rings: Sequence[int]) -> tuple[StreamColumn, ...]:
    """Return the columns of the rows of shots.

    Parameters
    ----------
    regions
        Number of regions when the recording begins.
    rings
        Of the profile of each detector; empty: profiles are not recorded.
    """
    by_detector = {str(k): count for k, count in enumerate(rings)}
    columns = layouts.shot_columns(layouts.room_for(regions), by_detector)
    return tuple(StreamColumn.of(column) for column in (layouts.TAG, *columns))


def region_columns(regions: int, mask_bytes: int) -> tuple[StreamColumn, ...]:
    """Return the columns of the region sets; each set is a row.

    Parameters
    ----------
    regions
        Number of regions when the recording begins.
    mask_bytes
        Bytes of the mask of each; 0: masks are not recorded.
    """
    columns = layouts.region_columns(layouts.room_for(regions), mask_bytes)
    return tuple(StreamColumn.of(column, "set_") for column in (layouts.REGIONS_NUMBER, *columns))


def image_columns(shapes: Sequence[tuple[int, int]]) -> tuple[StreamColumn, ...]:
    """Return the columns of the running images of detectors with these shapes."""
    found = layouts.ImagesLayout({str(k): shape for k, shape in enumerate(shapes)})
    return tuple(StreamColumn.of(column, "image_") for column in (found.identity, *found.columns))


def frame_columns(shapes: Sequence[tuple[int, int]]) -> tuple[StreamColumn, ...]:
    """Return the columns of the frames of detectors with these shapes."""
    found = layouts.FramesLayout({str(k): shape for k, shape in enumerate(shapes)})
    return tuple(StreamColumn.of(column, "frame_") for column in (found.identity, *found.columns))
