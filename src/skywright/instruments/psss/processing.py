"""Makes a spectrum of a picture of the spectrometer camera, with its figures, fitted or direct.

Those that need no fit are center of mass, standard deviation and quantile width.

The mathematics, the accuracy and the differences from the older services are in
``docs/reference/psss_processing.md``.
"""

import math
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.psss import kernels
from skywright.instruments.psss.fit import AUTO, NOISE, UNIFORM
from skywright.instruments.psss.fit_chain import FIGURE_NAMES, N_FIGURES, analyze
from skywright.instruments.psss.fit_chain import FWHM as FWHM_PER_SIGMA
from skywright.instruments.psss.settings import Settings
from skywright.instruments.psss.smoothing import filter_of


class FitStatus(IntEnum):
    """Status of a spectrum's fit. Files and PVs hold the numbers.

    If several apply, the first in this order is given; `ONE_SPIKE` counts before `SATURATED`. The
    figures of the fit are NaN for `NO_IMAGE`, `BAD_PIXELS` and `NO_SIGNAL`. Otherwise they are
    those of the fit.
    """

    OK = 0
    NO_IMAGE = 1
    """The pulse had no picture, or it was no two-dimensional array of numbers. No spectrum."""
    BAD_PIXELS = 2
    """A column of the spectrum is not finite, because a pixel is not. No figures at all."""
    NO_SIGNAL = 3
    """The spectrum has fewer than 8 columns or is not above `Settings.signal_per_row`, or the
    fitted amplitude is not significant."""
    NOT_CONVERGED = 4
    """The fit did not converge. The figures are the last ones and must not be trusted."""
    OUT_OF_WINDOW = 5
    """The center is beyond an end of the axis or within half a sigma of it, or the FWHM is larger
    than the axis."""
    SATURATED = 6
    """Neighboring columns have saturated pixels."""
    WRONG_ROI = 7
    """The ROI is not within the picture: all rows were summed."""
    WRONG_BACKGROUND = 8
    """The background has another shape than the picture: none was subtracted."""
    NO_AXIS = 9
    """There is no axis, or its length is not the picture's width. The figures are in pixels."""
    ONE_SPIKE = 10
    """A single spike was fitted, or a fit of it is about as good as that of the whole spectrum."""

    @property
    def has_values(self) -> bool:
        """Whether the fit's figures are not NaN."""
        return self not in (self.NO_IMAGE, self.BAD_PIXELS, self.NO_SIGNAL)

    @property
    def is_good(self) -> bool:
        """Whether means include the fit's figures."""
        return self in (self.OK, self.NO_AXIS)


class AxisUnit(IntEnum):
    """Unit of the axis. Figures along the axis, such as center and FWHM, have the same unit."""

    EV = 0
    PIXEL = 1


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """A spectrum, its figures, and the settings that were used.

    Parameters
    ----------
    spectrum
        Sums of the columns, (W,), not smoothed; (0,) without picture. They are uint32, as in the
        old service, for a uint16 picture without background or with a clipped one of 0..65535.
        `kernels.column_sums` has the dtypes of the other cases.
    status
        See `FitStatus`.
    unit
        Unit of the axis and of what is measured along it.
    center, fwhm
        Center and width of the fitted Gaussian; fwhm = 2.354820 sigma.
    center_error, fwhm_error
        Their standard uncertainties.
    offset, amplitude
        Offset and height of the fitted Gaussian, counts.
    com, std
        Center of mass and standard deviation of the spectrum that is fitted, above its baseline.
    quantile_width
        Width of the range with the middle 76.1 % of the light; of a Gaussian it is the FWHM.
    relative_width
        1000 fwhm / |center|, per mille; NaN for an axis in pixels.
    intensity
        Sum of the spectrum above its baseline, counts.
    chi2
        Reduced chi-squared of the fit against the noise of the columns: 1 if the residuals are
        noise only, far above 1 for the spikes of a SASE pulse.
    quality
        1 - (sum of squared residuals) / (sum of squared deviations from the mean) of the fitted
        spectrum; 1 is perfect.
    saturated
        Number of columns with saturated pixels.
    steps
        Number of evaluations of the fit over the whole axis.
    weighted
        Whether the columns were weighted by their noise.
    roi
        Rows that were summed, [ymin, ymax).
    background_applied, background_name
        Whether a background was subtracted, and its name; empty if none was.
    axis
        Axis that was used, (W,) eV, or the numbers of the columns.
    """

    spectrum: NDArray[Any]
    status: FitStatus
    unit: AxisUnit = AxisUnit.PIXEL
    center: float = np.nan
    fwhm: float = np.nan
    center_error: float = np.nan
    fwhm_error: float = np.nan
    offset: float = np.nan
    amplitude: float = np.nan
    com: float = np.nan
    std: float = np.nan
    quantile_width: float = np.nan
    relative_width: float = np.nan
    intensity: float = np.nan
    chi2: float = np.nan
    quality: float = np.nan
    saturated: int = 0
    steps: int = 0
    weighted: bool = False
    roi: tuple[int, int] = (0, 0)
    background_applied: bool = False
    background_name: str = ""
    axis: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def brightness(self, pulse_energy_uj: float) -> float:
        """Return pulse energy over width, uJ/eV; NaN if the width is not known or in pixels."""
        known = self.unit is AxisUnit.EV and self.fwhm > 0.0
        return pulse_energy_uj / self.fwhm if known else math.nan


def process(image: NDArray[Any] | None, settings: Settings) -> Spectrum:
    """Turn a picture into its spectrum and fit it. No content of a picture raises an error.

    It runs in the calling thread alone, nearly all of the time without the interpreter's lock. So
    several threads can process pictures in parallel.

    Parameters
    ----------
    image
        Picture, (rows, columns), integers or floats of any size, byte order and strides; None for a
        pulse without picture. It is not changed.
    settings
        Settings of the processing.

    Returns
    -------
    Spectrum
        Its arrays are new, except for the axis.
    """
    if image is None or image.ndim != 2 or not image.size or image.dtype.kind not in "buif":
        return Spectrum(np.empty(0, np.uint32), FitStatus.NO_IMAGE)
    rows = image.shape[0]
    ymin, ymax = settings.roi if 0 < settings.roi[1] <= rows else (0, rows)
    background = settings.background_used
    known_background = background is None or background.shape == image.shape
    if background is not None:
        background = background[ymin:ymax] if known_background else None
    sums, peaks = kernels.column_sums(
        image[ymin:ymax], background, _MODES[settings.background_mode]
    )
    bright = peaks >= _saturation(settings, image.dtype)
    return _analyze(
        sums, bright, settings,
        rows=rows,
        wrong_roi=settings.roi[1] > rows,
        wrong_background=not known_background,
        roi=(ymin, ymax),
        background_applied=background is not None,
        background_name=settings.background_name if background is not None else "",
    )  # fmt: skip


def process_spectrum(spectrum: NDArray[Any], rows: int, settings: Settings) -> Spectrum:
    """Analyze a stored spectrum again; with the same settings the figures are the same bits.

    What only the picture shows is not found again: saturation, a wrong ROI or background, and last
    columns that are not finite.

    Parameters
    ----------
    spectrum
        Sums of the columns, (W,). NaN at the end, which fills up narrower spectra in files, is cut
        off.
    rows
        Height of the picture from which it was made, for the signal test.
    settings
        Settings of the processing; ROI and background are not applied again.

    Returns
    -------
    Spectrum
        Its status is `NO_IMAGE` if all values are NaN.
    """
    known = np.flatnonzero(~np.isnan(spectrum))
    if not len(known):
        return Spectrum(np.empty(0, np.uint32), FitStatus.NO_IMAGE)
    sums = spectrum[: known[-1] + 1]
    bright = np.zeros(len(sums), np.bool_)
    return _analyze(sums, bright, settings, rows=rows, roi=settings.roi)


def _analyze(
    sums: NDArray[Any],
    bright: NDArray[np.bool_],
    settings: Settings,
    rows: int,
    wrong_roi: bool = False,
    wrong_background: bool = False,
    **made_with: Any,
) -> Spectrum:
    columns = len(sums)
    axis = settings.axis
    if axis is not None and len(axis) != columns:
        axis = None
    given = axis if axis is not None else _pixels(columns)
    # Settings that were unpickled have a writable axis, for which numba would compile once more
    given = kernels.frozen(given)
    figures = np.full(N_FIGURES, np.nan)
    code = analyze(
        given, sums.astype(np.float64), bright, *filter_of(columns),
        settings.smoothing == "savgol", settings.fit == "robust", _WEIGHTINGS[settings.weighting],
        settings.signal_per_row * rows, figures,
    )  # fmt: skip
    status = FitStatus(code)
    if status is FitStatus.OK:
        if wrong_roi:
            status = FitStatus.WRONG_ROI
        elif wrong_background:
            status = FitStatus.WRONG_BACKGROUND
        elif axis is None:
            status = FitStatus.NO_AXIS
    return _spectrum(
        figures,
        spectrum=sums,
        status=status,
        unit=AxisUnit.PIXEL if axis is None else AxisUnit.EV,
        axis=given,
        saturated=int(np.count_nonzero(bright)),
        **made_with,
    )


@lru_cache(maxsize=8)
def _pixels(columns: int) -> NDArray[np.float64]:
    """Return the numbers of the columns; all spectra of one width share them."""
    return kernels.frozen(np.arange(float(columns)))


def warm_up() -> None:
    """Compile every kernel, or load it from its cache, so that no pulse waits for it."""
    kernels.warm()
    pixels = np.full((4, 64), 100, np.uint16)
    pixels[:, 20:40] += 50
    axis = np.linspace(8990.0, 9010.0, 64)
    process(pixels, Settings(axis=axis))
    process(pixels, Settings(fit="robust", smoothing="none"))


def _spectrum(figures: NDArray[np.float64], unit: AxisUnit, **others: Any) -> Spectrum:
    found = dict(zip(FIGURE_NAMES, figures.tolist(), strict=True))
    sigma, sigma_error = found.pop("sigma"), found.pop("sigma_error")
    steps, weighted = found.pop("steps"), found.pop("weighted")
    del found["amplitude_error"]
    fwhm = FWHM_PER_SIGMA * sigma
    relative = math.nan
    if unit is AxisUnit.EV:
        relative = 1000.0 * fwhm / abs(found["center"]) if found["center"] else math.inf
    return Spectrum(
        unit=unit,
        fwhm=fwhm,
        fwhm_error=FWHM_PER_SIGMA * sigma_error,
        relative_width=relative,
        steps=0 if math.isnan(steps) else int(steps),
        weighted=weighted == 1.0,
        **found,
        **others,
    )


def _saturation(settings: Settings, dtype: np.dtype[Any]) -> float | int:
    level: float | int
    if settings.saturation is not None:
        level = settings.saturation
    elif dtype.kind in "ui":
        level = int(np.iinfo(dtype).max)
    else:
        return math.inf
    # `kernels.column_sums` returns half of the peaks of uint64
    return int(level) >> 1 if dtype.kind == "u" and dtype.itemsize == 8 else level


_MODES = {"clipped": kernels.CLIPPED, "signed": kernels.SIGNED, "none": kernels.PLAIN}
_WEIGHTINGS = {"uniform": UNIFORM, "noise": NOISE, "auto": AUTO}
