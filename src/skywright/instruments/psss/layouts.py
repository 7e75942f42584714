"""Layouts of recordings: every pulse's spectrum with its fit, and the camera's pictures.

A file of spectra has a row for each pulse, also for one that could not be processed. The file
``NAME.settings.h5`` has the settings, a row for each settings number.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike

from skywright.acquire.image_layout import Image, ImageLayout
from skywright.acquire.layout import Layout
from skywright.files.areadetector import ATTRIBUTES
from skywright.files.beside import beside
from skywright.files.columns import Column, ColumnWriter
from skywright.files.file_writer import TwoFilesWriter
from skywright.instruments.psss.processing import AxisUnit, FitStatus
from skywright.instruments.psss.results import Result, picture_of
from skywright.instruments.psss.settings import CHOICES, NAME_BYTES_MAX

DATA, FIT, MADE = "/entry/data", "/entry/fit", "/entry/made_with"
PULSE_ID, SPECTRUM = f"{DATA}/pulse_id", f"{DATA}/spectrum"
TIME, TIME_NS = f"{DATA}/time", f"{DATA}/time_ns"
STATUS, UNIT = f"{FIT}/status", f"{FIT}/unit"
FIGURE_COLUMNS = (
    *("center", "fwhm", "center_error", "fwhm_error", "offset", "amplitude", "com", "std"),
    *("quantile_width", "relative_width", "intensity", "chi2", "quality"),
)
"""Fields of a `Spectrum` that are columns of floating-point numbers; NaN without a value."""
UNITS = {
    **dict.fromkeys(("offset", "amplitude", "intensity"), "counts"),
    "relative_width": "per mille",
    "chi2": "",
    "quality": "",
}
"""Units of the figures that are not in the axis' unit."""
SPECTRA_PER_CHUNK = 32
"""Number of spectra in a chunk. It is large, because a reader opens the file for each chunk. With
2560 columns a chunk has 0.66 MB, which fits the cache of the writer
(`skywright.files.columns.CACHE_BYTES`)."""

SETTINGS_NUMBER, AXIS = "/entry/settings_number", "/entry/axis"
BACKGROUND_NAME, BACKGROUND_DIGEST = "/entry/background_name", "/entry/background_digest"
ROI, SIGNAL_PER_ROW, SATURATION = "/entry/roi", "/entry/signal_per_row", "/entry/saturation"

PICTURE_SETTINGS = f"{ATTRIBUTES}/settings_number"
_SETTINGS_OF_PICTURE = Column(
    PICTURE_SETTINGS, "<i8", attrs={"description": "of the pulse's spectrum"}
)

_SCALARS = (
    Column(TIME, "<f8", attrs={"units": "s", "description": "Unix time"}),
    Column(TIME_NS, "<i8", attrs={"units": "ns", "description": "since 1970"}),
    Column(
        f"{DATA}/time_given",
        "|u1",
        attrs={"description": "1: the sender gave the time; 0: time when the processing began"},
    ),
    Column(f"{DATA}/width", "<i4", attrs={"units": "px", "description": "columns of the picture"}),
    Column(f"{DATA}/pulse_energy", "<f8", attrs={"units": "uJ", "description": "NaN: not known"}),
    Column(f"{DATA}/duration", "<f4", attrs={"units": "ms", "description": "of the processing"}),
    Column(STATUS, "|u1", attrs={"names": [code.name for code in FitStatus]}),
    Column(UNIT, "|u1", attrs={"names": [code.name for code in AxisUnit]}),
    Column(f"{FIT}/brightness", "<f8", attrs={"units": "uJ/eV", "description": "energy / fwhm"}),
    Column(f"{FIT}/saturated", "<i4", attrs={"description": "columns with saturated pixels"}),
    Column(f"{FIT}/steps", "<i4", attrs={"description": "evaluations of the fit"}),
    Column(f"{FIT}/weighted", "|u1", attrs={"description": "1: by the noise of each column"}),
    *(
        Column(f"{FIT}/{name}", "<f8", attrs={"units": UNITS.get(name, "as /entry/fit/unit says")})
        for name in FIGURE_COLUMNS
    ),
    Column(
        f"{MADE}/settings_number",
        "<i8",
        attrs={"description": "value of settings_number in NAME.settings.h5, not a row number"},
    ),
    Column(f"{MADE}/roi_ymin", "<i4", attrs={"units": "px", "description": "rows [ymin, ymax)"}),
    Column(f"{MADE}/roi_ymax", "<i4", attrs={"units": "px"}),
    Column(f"{MADE}/background_applied", "|u1"),
)
IDENTITY = Column(PULSE_ID, "<i8", attrs={"description": "of the machine's 100 Hz clock"})
SETTINGS_IDENTITY = Column(SETTINGS_NUMBER, "<i8", (), 16)
_GROUPS = {
    "/entry": {"NX_class": "NXentry", "default": "data"},
    DATA: {"NX_class": "NXdata", "signal": "spectrum"},
    FIT: {"NX_class": "NXcollection"},
    MADE: {"NX_class": "NXcollection"},
}


def spectra_columns(width: int) -> tuple[Column, ...]:
    """Return the columns of a file of spectra of this width, without the pulse id."""
    attrs = {"units": "counts", "description": "sums of the columns over the ROI's rows"}
    return Column(SPECTRUM, "<f8", (width,), SPECTRA_PER_CHUNK, attrs), *_SCALARS


class SpectraLayout(Layout[Result, Result, "SpectraFile"]):
    """A row for each pulse, with its spectrum and fit.

    Parameters
    ----------
    known_width
        Returns the width of the camera's last picture, 0 if there was none. It is the width of a
        file that must be created before its first picture.
    """

    name = "spectra"

    def __init__(self, known_width: Callable[[], int] = lambda: 0) -> None:
        self._known_width = known_width

    def row_group(self, result: Result) -> Result:
        """Return the result without its picture; it waits for the recorder's thread."""
        bare = replace(result.pulse, image=None, message=None, truth=None)
        return replace(result, pulse=bare)

    def nbytes(self, group: Result) -> int:
        """Return the memory that a row holds."""
        return group.spectrum.spectrum.nbytes + 4000

    def open(self, path: Path, groups: Sequence[Result], must_create: bool) -> "SpectraFile | None":
        """Create a file as wide as the first spectrum; return None if there is none yet.

        With `must_create` its width is then `known_width`, or 1.
        """
        widths = (len(each.spectrum.spectrum) for each in groups)
        width = next(filter(None, widths), 0)
        if not width and not must_create:
            return None
        return SpectraFile(path, width or self._known_width() or 1)

    def append(self, file: "SpectraFile", groups: Sequence[Result]) -> Mapping[str, int]:
        """Write rows; return the number of spectra that were too wide, by cause."""
        return file.append(groups)


class SpectraFile(TwoFilesWriter):
    """An open file of spectra of one width; not thread-safe.

    Parameters
    ----------
    path
        Path of the new file.
    width
        Number of values of a spectrum: the width of the pictures. A narrower spectrum is filled up
        with NaN. Of a wider one only the figures are stored.
    """

    def __init__(self, path: Path, width: int) -> None:
        self.width = width
        groups = {"/entry": {"NX_class": "NXentry"}}
        super().__init__(
            ColumnWriter(settings_path(path), settings_columns(width), SETTINGS_IDENTITY, groups),
            lambda: ColumnWriter(path, spectra_columns(width), IDENTITY, _GROUPS),
        )
        self._settings_written = -1

    def append(self, results: Sequence[Result]) -> Mapping[str, int]:
        """Write rows; return the number of spectra that were too wide, by cause."""
        lost: Counter[str] = Counter()
        if not results:
            return lost
        spectra = np.full((len(results), self.width), np.nan)
        for values, result in zip(spectra, results, strict=True):
            self._note_settings(result)
            spectrum = result.spectrum.spectrum
            if len(spectrum) <= self.width:
                values[: len(spectrum)] = spectrum
            else:
                lost["spectrum too wide"] += 1
        rows = [_scalars_of(result) for result in results]
        columns: dict[str, ArrayLike] = {path: [row[path] for row in rows] for path in rows[0]}
        self.writer.append(
            [result.pulse.pulse_id for result in results], {SPECTRUM: spectra, **columns}
        )
        return lost

    def _note_settings(self, result: Result) -> None:
        # Numbers only rise. After an error of a batch its results are appended again one by one
        if result.settings_number <= self._settings_written:
            return
        settings, axis = result.settings, np.full(self.width, np.nan)
        given = settings.axis
        if given is not None and len(given) <= self.width:  # shorter for a narrower picture
            axis[: len(given)] = given
        rows: dict[str, ArrayLike] = {
            f"/entry/{name}": get_args(literal).index(getattr(settings, name))
            for name, literal in CHOICES.items()
        }
        rows |= {
            AXIS: axis,
            ROI: settings.roi,
            BACKGROUND_NAME: np.bytes_(settings.background_name.encode()),
            BACKGROUND_DIGEST: np.bytes_(settings.background_digest.encode()),
            SIGNAL_PER_ROW: settings.signal_per_row,
            SATURATION: np.nan if settings.saturation is None else settings.saturation,
        }
        self.referred.append(result.settings_number, rows)
        self._settings_written = result.settings_number


def settings_path(path: Path) -> Path:
    """Return the path of the file of settings that belongs to a file of spectra."""
    return beside(path, ".settings.h5")


def settings_columns(width: int) -> tuple[Column, ...]:
    """Return the columns of the settings of spectra of this width, without the settings number."""
    choices = (
        Column(f"/entry/{name}", "|u1", (), 16, {"names": list(get_args(literal))})
        for name, literal in CHOICES.items()
    )
    axis = {"units": "eV", "description": "NaN: no value; all NaN: pixels"}
    saturation = {"units": "counts", "description": "NaN: the dtype's greatest"}
    return (
        Column(AXIS, "<f8", (width,), 1, axis),
        Column(ROI, "<i4", (2,), 16, {"units": "px", "description": "(0, 0): the whole"}),
        Column(BACKGROUND_NAME, f"S{NAME_BYTES_MAX}", (), 16),
        Column(BACKGROUND_DIGEST, "S64", (), 16, {"description": "SHA-256; empty: none"}),
        Column(SIGNAL_PER_ROW, "<f8", (), 16, {"units": "counts"}),
        Column(SATURATION, "<f8", (), 16, saturation),
        *choices,
    )


def _scalars_of(result: Result) -> dict[str, Any]:
    """Return the values of the columns that have one number for each pulse."""
    found = result.spectrum
    return {
        TIME: result.time_ns / 1e9,
        TIME_NS: result.time_ns,
        f"{DATA}/time_given": result.pulse.time_ns is not None,
        f"{DATA}/width": len(found.spectrum),
        f"{DATA}/pulse_energy": result.energy_uj,
        f"{FIT}/brightness": result.brightness,
        f"{DATA}/duration": result.duration_ms,
        STATUS: int(found.status),
        UNIT: int(found.unit),
        f"{FIT}/saturated": found.saturated,
        f"{FIT}/steps": found.steps,
        f"{FIT}/weighted": found.weighted,
        f"{MADE}/settings_number": result.settings_number,
        f"{MADE}/roi_ymin": found.roi[0],
        f"{MADE}/roi_ymax": found.roi[1],
        f"{MADE}/background_applied": found.background_applied,
        **{f"{FIT}/{name}": getattr(found, name) for name in FIGURE_COLUMNS},
    }


class PictureLayout(ImageLayout):
    """The pictures as the source delivered them, in areaDetector's layout."""

    def __init__(self) -> None:
        super().__init__("pictures", "pulse id", (_SETTINGS_OF_PICTURE,))

    def row_group(self, result: Result) -> Image | None:
        """Return the picture of a result, if it has one."""
        image = picture_of(result)
        if image is None:
            return None
        extra = {PICTURE_SETTINGS: result.settings_number}
        return Image(result.pulse.pulse_id, result.time_ns, image, extra)
