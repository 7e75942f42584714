"""The columns of the spectrometer's files that documents tell of, and what a point says of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from devices.file_stream import StreamColumn
from skywright.files import areadetector
from skywright.files.columns import ColumnReader

FIGURES = (
    *("center", "fwhm", "center_error", "fwhm_error", "com", "std", "quantile_width"),
    *("relative_width", "intensity", "amplitude", "offset", "chi2", "quality"),
)
DTYPES = {
    **{"Int8": "|i1", "UInt8": "|u1", "Int16": "<i2", "UInt16": "<u2"},
    **{"Int32": "<i4", "UInt32": "<u4", "Float32": "<f4", "Float64": "<f8"},
}
"""numpy's names of areaDetector's types."""
POINT = {
    **{"mean_center": "of the fitted centers", "center_scatter": "standard deviation of them"},
    **{"mean_fwhm": "of the fitted widths", "fwhm_scatter": "standard deviation of them"},
    **{"mean_intensity": "of the intensities, counts", "intensity_scatter": "deviation of them"},
}
"""Scalars of a point of a step scan; NaN without a fit that settled."""


def spectra_columns(width: int) -> tuple[StreamColumn, ...]:
    """Return the columns of a file of spectra of `width` columns."""
    # Here, as it takes a second: a session that never stages the device does not wait for it.
    from skywright.instruments.psss import layouts

    in_axis_unit = "eV, or px without axis"
    figures = (
        StreamColumn(
            name, f"{layouts.FIT}/{name}", "<f8", units=layouts.UNITS.get(name, in_axis_unit)
        )
        for name in FIGURES
    )
    return (
        StreamColumn(
            "spectrum", layouts.SPECTRUM, "<f8", (width,), layouts.SPECTRA_PER_CHUNK, "counts"
        ),
        StreamColumn("pulse_id", layouts.PULSE_ID, "<i8"),
        StreamColumn("time", layouts.TIME, "<f8", units="s"),
        *figures,
        StreamColumn("pulse_energy", f"{layouts.DATA}/pulse_energy", "<f8", units="uJ"),
        StreamColumn("brightness", f"{layouts.FIT}/brightness", "<f8", units="uJ/eV"),
        StreamColumn("status", layouts.STATUS, "|u1"),
        StreamColumn("unit", layouts.UNIT, "|u1"),
        StreamColumn("settings_number", f"{layouts.MADE}/settings_number", "<i8"),
    )


def picture_columns(height: int, width: int, data_type: str) -> tuple[StreamColumn, ...]:
    """Return the columns of a file of pictures.

    The key is ``picture``, as analyses of other cameras look for ``image``.
    """
    from skywright.instruments.psss import layouts

    return (
        StreamColumn(
            "picture",
            areadetector.IMAGE,
            DTYPES.get(data_type, "<u2"),
            (height, width),
            1,
            "counts",
        ),
        StreamColumn("pulse_id", areadetector.UNIQUE_ID, "<i8"),
        StreamColumn("settings_number", layouts.PICTURE_SETTINGS, "<i8"),
        StreamColumn("time", areadetector.TIME_STAMP, "<f8", units="s"),
    )


def settings_columns(width: int) -> tuple[StreamColumn, ...]:
    """Return the columns of the settings beside a file of spectra of `width` columns.

    Their keys do not fit those of a pulse's columns, but for the number that is in both.
    """
    from skywright.instruments.psss import layouts
    from skywright.instruments.psss.settings import NAME_BYTES_MAX

    fields: dict[str, tuple[str, tuple[int, ...], int, str]] = {
        **{"axis": ("<f8", (width,), 1, "eV"), "roi": ("<i4", (2,), 16, "px")},
        "background_name": (f"|S{NAME_BYTES_MAX}", (), 16, ""),
        "background_digest": ("|S64", (), 16, ""),
        **dict.fromkeys(("signal_per_row", "saturation"), ("<f8", (), 16, "counts")),
        **dict.fromkeys(layouts.CHOICES, ("|u1", (), 16, "")),
    }
    return (
        StreamColumn("settings_number", layouts.SETTINGS_NUMBER, "<i8", (), 16),
        *(
            StreamColumn(f"settings_{name}", f"/entry/{name}", dtype, shape, rows, units)
            for name, (dtype, shape, rows, units) in fields.items()
        ),
    )


def summarize_point(file: str, first: int, stop: int) -> dict[str, Any]:
    """Return what rows of a file of spectra say together.

    Returns
    -------
    dict
        `POINT`, and n_pulses, n_good, first_row, first_pulse_id, last_pulse_id. Means and sample
        standard deviations are over the pulses whose fit settled.

    Raises
    ------
    DataError
        If the file cannot be read here.
    """
    from skywright.instruments.psss import layouts
    from skywright.instruments.psss.analysis import GOOD

    with ColumnReader(Path(file), layouts.PULSE_ID) as reader:
        read: Callable[[str], Any] = lambda path: reader.read(path, first, stop)  # noqa: E731
        ids = read(layouts.PULSE_ID)
        good = np.isin(read(layouts.STATUS), [int(status) for status in GOOD])
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
