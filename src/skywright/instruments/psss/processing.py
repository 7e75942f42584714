"""One picture of the spectrometer camera to one spectrum, with its fit and direct figures.

The mathematics, its accuracy and what differs from the older services:
``docs/reference/psss_processing.md``.
"""

import math
import threading
from dataclasses import dataclass, field
from enum import IntEnum
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
    """What can be said of a spectrum's fit; the numbers are what files and PVs hold.

    Of several that apply, the first one that is not OK is given. Rank: the order of this list,
    except that `ONE_SPIKE` comes before `SATURATED`. Values come with `OK` and with those that say
    so; with the others the fit's figures are NaN.
    """

    OK = 0
    NO_IMAGE = 1
    """The pulse had no picture, or none of two dimensions and numbers. No spectrum."""
    BAD_PIXELS = 2
    """A pixel is not finite, so that columns of the spectrum are not. No figures."""
    NO_SIGNAL = 3
    """Nothing stands out of the noise. No figures of the fit."""
    NOT_CONVERGED = 4
    """The fit did not settle. Values: the last ones, not to be trusted."""
    OUT_OF_WINDOW = 5
    """Center within half a sigma of the axis' end or beyond, or wider than it. Values as fitted."""
    SATURATED = 6
    """Neighboring columns have saturated pixels. Values as fitted."""
    WRONG_ROI = 7
    """The ROI is not within the picture: the whole was taken. Values as fitted."""
    WRONG_BACKGROUND = 8
    """The background has another shape than the picture: none was taken off. Values as fitted."""
    NO_AXIS = 9
    """No axis, or one of another length than the picture is wide. Values in pixels."""
    ONE_SPIKE = 10
    """A single spike was fitted, or fits about as well as the whole does. Values as fitted."""

    @property
    def has_values(self) -> bool:
        """The fit's figures are finite."""
        return self not in (self.NO_IMAGE, self.BAD_PIXELS, self.NO_SIGNAL)

    @property
    def is_good(self) -> bool:
        """Whether the fit's figures go into means."""
        return self in (self.OK, self.NO_AXIS)


class AxisUnit(IntEnum):
    """What center, width and the like are in."""

    EV = 0
    PIXEL = 1


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """A spectrum, what was found in it, and what it was made with.

    Parameters
    ----------
    spectrum
        (W,) sums of the columns, not smoothed. uint32, as in the old service, for uint8 and uint16
        pictures, but int64 with a background that is signed or has whole numbers outside 0..65535;
        uint64 for wider unsigned ones, but int64 with a signed background; int64 for signed
        integers; float64 when the picture or a signed background has fractions. (0,) without
        picture.
    status
        See `FitStatus`.
    unit
        Unit of the axis and of what is measured along it.
    center, fwhm
        Of the fitted Gaussian; fwhm = 2.354820 sigma.
    center_error, fwhm_error
        Their standard uncertainties.
    offset, amplitude
        Of the fitted Gaussian, counts.
    com, std
        Center of mass and standard deviation of the spectrum that is fitted, its baseline taken
        off.
    quantile_width
        Range that holds the middle 76.1 % of the light: the FWHM if it were a Gaussian.
    relative_width
        1000 fwhm / |center|, per mille; NaN for an axis in pixels.
    intensity
        Sum of the spectrum, its baseline taken off, counts.
    chi2
        Reduced chi-squared of the fit against the noise of the columns; 1 when it leaves noise
        only, far above for the spikes of a SASE pulse.
    quality
        1 - (sum of squared residuals) / (sum of squared deviations from the mean), of what was
        fitted; 1 is perfect.
    saturated
        Columns with saturated pixels.
    steps
        Evaluations of the fit over the whole axis.
    weighted
        The fit went by the noise of each column.
    roi
        The rows that were summed, [ymin, ymax).
    background_name
        Of the background that was taken off; "" for none.
    axis
        (W,) the axis that was used, eV, or the pixel numbers.
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
    background_name: str = ""
    axis: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def brightness(self, pulse_energy_uj: float) -> float:
        """Return pulse energy over width, uJ/eV; NaN when the status has no values, or no axis."""
        known = self.unit is AxisUnit.EV and self.fwhm > 0.0
        return pulse_energy_uj / self.fwhm if known else math.nan


class Workspace(threading.local):
    """What a thread uses again from frame to frame; of one object each thread has its own."""

    def __init__(self) -> None:
        self._pixels = np.empty(0)

    def pixels(self, columns: int) -> NDArray[np.float64]:
        """Return the numbers of the columns, read-only."""
        if len(self._pixels) != columns:
            self._pixels = np.arange(float(columns))
            self._pixels.flags.writeable = False
        return self._pixels


def process(
    image: NDArray[Any] | None, settings: Settings, workspace: Workspace | None = None
) -> Spectrum:
    """Turn a picture into its spectrum and fit it. Never raises for what a picture holds.

    Runs in the calling thread alone, nearly all of the time without the interpreter's lock:
    process frames in parallel, each thread with a workspace of its own.

    Parameters
    ----------
    image
        (rows, columns), integers or floats of any size, byte order and strides; None for a pulse
        without picture. Read only.
    settings
        What to process with.
    workspace
        Of this thread; None makes a new one.

    Returns
    -------
    Spectrum
        New arrays, but for the axis; the workspace can be used at once for the next picture.
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
        sums, bright, settings, workspace,
        rows=rows,
        wrong_roi=settings.roi[1] > rows,
        wrong_background=not known_background,
        roi=(ymin, ymax),
        background_name=settings.background_name if background is not None else "",
    )  # fmt: skip


def process_spectrum(
    spectrum: NDArray[Any], rows: int, settings: Settings, workspace: Workspace | None = None
) -> Spectrum:
    """Analyze a stored spectrum again: the same figures, to the bit, as when it was taken.

    What only the picture shows is not seen again: saturation, a wrong ROI or background, last
    columns that are not finite.

    Parameters
    ----------
    spectrum
        (W,) sums of the columns; NaN at its end, which fills up narrower ones in files, is cut off.
    rows
        Of the picture it was made from, for the signal test.
    settings
        What to process with; ROI and background are not applied again.
    workspace
        Of this thread; None makes a new one.

    Returns
    -------
    Spectrum
        Its status is NO_IMAGE for a spectrum of NaN alone.
    """
    known = np.flatnonzero(~np.isnan(spectrum))
    if not len(known):
        return Spectrum(np.empty(0, np.uint32), FitStatus.NO_IMAGE)
    sums = spectrum[: known[-1] + 1]
    bright = np.zeros(len(sums), np.bool_)
    return _analyze(sums, bright, settings, workspace, rows=rows, roi=settings.roi)


def _analyze(
    sums: NDArray[Any],
    bright: NDArray[np.bool_],
    settings: Settings,
    workspace: Workspace | None,
    rows: int,
    wrong_roi: bool = False,
    wrong_background: bool = False,
    **made_with: Any,
) -> Spectrum:
    columns = len(sums)
    axis = settings.axis
    if axis is not None and len(axis) != columns:
        axis = None
    given = axis if axis is not None else (workspace or Workspace()).pixels(columns)
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
