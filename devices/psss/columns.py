"""The columns of the spectrometer's files in the documents, and the summary of a point."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from skywright.files import areadetector
from skywright.files.columns import ColumnReader
from skywright.files.stream_columns import StreamColumn

IN_DOCUMENTS = (
    *("spectrum", "pulse_id", "time", "center", "fwhm", "center_error", "fwhm_error", "com", "std"),
    *("quantile_width", "relative_width", "intensity", "amplitude", "offset", "chi2", "quality"),
    *("pulse_energy", "brightness", "status", "unit", "settings_number"),
)
"""Columns of a file of spectra that are in the stream documents."""


def spectra_columns(width: int) -> tuple[StreamColumn, ...]:
    """Return the columns of a file of spectra that have `width` pixels."""
    # Imported here, because it takes a second: a session that never stages the device saves it
    from skywright.instruments.psss import layouts

    columns = {each.name: each for each in (layouts.IDENTITY, *layouts.spectra_columns(width))}
    in_axis_unit = set(layouts.FIGURE_COLUMNS) - layouts.UNITS.keys()
    return tuple(
        StreamColumn.of(
            columns[name], units="eV, or px without axis" if name in in_axis_unit else None
        )
        for name in IN_DOCUMENTS
    )


def picture_columns(height: int, width: int, data_type: str) -> tuple[StreamColumn, ...]:
    """Return the columns of a file of pictures.

    The key is ``picture`` and not ``image``, so that the analyses of other cameras do not take it.
    `data_type` is as areaDetector writes it, ``UInt16``.
    """
    from skywright.instruments.psss import layouts

    dtype = np.dtype(data_type.lower()).str
    return (
        StreamColumn("picture", areadetector.IMAGE, dtype, (height, width), 1, "counts"),
        StreamColumn("pulse_id", areadetector.UNIQUE_ID, "<i8"),
        StreamColumn("settings_number", layouts.PICTURE_SETTINGS, "<i8"),
        StreamColumn("picture_height", areadetector.HEIGHT, "<i4", units="px"),
        StreamColumn("picture_width", areadetector.WIDTH, "<i4", units="px"),
        StreamColumn("time", areadetector.TIME_STAMP, "<f8", units="s"),
    )


def settings_columns(width: int) -> tuple[StreamColumn, ...]:
    """Return the columns of the settings beside a file of spectra that have `width` pixels.

    Their keys differ from those of a pulse's columns, so that no analysis confuses them. Only
    ``settings_number`` is in both.
    """
    from skywright.instruments.psss import layouts

    return (
        StreamColumn.of(layouts.SETTINGS_IDENTITY),
        *(StreamColumn.of(each, "settings_") for each in layouts.settings_columns(width)),
    )


def summarize_point(file: str, first: int, stop: int) -> dict[str, Any]:
    """Return the summary of rows `first` to `stop` - 1 of a file of spectra.

    Returns
    -------
    dict
        ``n_pulses``, ``n_good``, ``first_row``, ``first_pulse_id``, ``last_pulse_id``, and mean and
        sample standard deviation of center, fwhm and intensity (counts): ``mean_center``,
        ``center_scatter`` ... They are over the good fits in the unit of the last of them; NaN if
        there are too few.

    Raises
    ------
    DataError
        If the file cannot be read on this machine.
    """
    from skywright.instruments.psss import layouts
    from skywright.instruments.psss.analysis import GOOD

    with ColumnReader(Path(file), layouts.PULSE_ID) as reader:
        read: Callable[[str], Any] = lambda path: reader.read(path, first, stop)  # noqa: E731
        ids = read(layouts.PULSE_ID)
        status = read(layouts.STATUS)
        # OK means eV and NO_AXIS pixels, so good fits of one unit have one status
        good = np.isin(status, status[np.isin(status, GOOD)][-1:])
        values = {
            name: read(f"{layouts.FIT}/{name}")[good] for name in ("center", "fwhm", "intensity")
        }
    point: dict[str, Any] = {
        "n_pulses": len(ids),
        "n_good": int(good.sum()),
        "first_row": first,
        "first_pulse_id": int(ids[0]) if len(ids) else -1,
        "last_pulse_id": int(ids[-1]) if len(ids) else -1,
    }
    for name, each in values.items():
        point[f"mean_{name}"] = float(each.mean()) if len(each) else float("nan")
        point[f"{name}_scatter"] = float(each.std(ddof=1)) if len(each) > 1 else float("nan")
    return point
