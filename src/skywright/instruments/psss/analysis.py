"""The spectra of a run: fit and spikes of each pulse, and statistics of all pulses.

`SpectrumStatistics` starts from stored spectra, `PictureSpectra` from stored pictures, of which it
makes the spectra first; all further steps are the same.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skywright.analysis import Analysis, ArrayInput, Batch
from skywright.arguments import check_keys
from skywright.errors import ConfigError, DataError
from skywright.files.columns import Column
from skywright.instruments.psss import processing, statistics
from skywright.instruments.psss.processing import (
    AxisUnit,
    FitStatus,
    Settings,
    Spectrum,
    process,
    process_spectrum,
)
from skywright.instruments.psss.settings import axis_of
from skywright.instruments.psss.statistics import (
    LAGS,
    above_baseline,
    autocorrelation,
    correlation_width,
    find_spikes,
    pulse_length_fs,
    second_order_correlation,
)
from skywright.instruments.psss.stored_settings import StoredSettings, with_background

COUNTS = {"units": "counts"}
NAN = float("nan")
PULSE_FIGURES = (
    *("center", "fwhm", "center_error", "fwhm_error", "com", "std", "quantile_width"),
    *("relative_width", "intensity", "chi2", "quality"),
)
MEANS = ("center", "fwhm", "com", "std", "quantile_width", "intensity")
"""Figures whose mean and scatter are results, over the pulses with a `GOOD` status."""
GOOD = tuple(status for status in FitStatus if status.is_good)
ONLY_IN_PICTURES = (FitStatus.SATURATED, FitStatus.WRONG_ROI, FitStatus.WRONG_BACKGROUND)
"""Statuses that cannot be found from a stored spectrum; those of the live processing are kept."""


class Moments(NamedTuple):
    """Number of pulses, and mean and sum of squared deviations of their values."""

    n: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    def with_next(self, other: "Moments") -> "Moments":
        """Return the moments of these and other pulses together (Chan, Golub, LeVeque 1979)."""
        n = self.n + other.n
        if not other.n:
            return self
        if not self.n:
            return other
        step = other.mean - self.mean
        mean = self.mean + step * (other.n / n)
        squares = self.squares + other.squares + step * step * (self.n * other.n / n)
        return Moments(n, mean, squares)

    @property
    def scatter(self) -> NDArray[np.float64]:
        """Sample standard deviations; NaN for fewer than two pulses."""
        return np.sqrt(self.squares / (self.n - 1)) if self.n > 1 else self.squares * NAN


class Pulses(NamedTuple):
    """Statistic of the pulses of a block, or of all blocks so far."""

    statuses: NDArray[np.int64]
    """Number of pulses with each status."""
    figures: tuple[Moments, Moments]
    """Moments of the figures `MEANS`: of the good pulses in pixels, and of those in eV."""
    spectra: Moments
    """Moments of the spectra above their baselines."""
    correlation: NDArray[np.float64]
    """(LAGS,) sum of the autocorrelations of these spectra."""
    spikes: tuple[Moments, Moments]
    """Moments of number and width of the spikes: of the pulses in pixels, and of those in eV.
    Pulses without a width of their spikes are left out."""
    settings_number: int
    """Greatest settings number of the pulses; -1: not known."""


class SpectrumStatistics(Analysis[Pulses]):
    """Fits each stored spectrum again, finds its spikes, and computes statistics of the run.

    `skywright.instruments.psss.configured` reads the parameters for a run from the configuration of
    its spectrometer, where they have the names of the signals of `devices.psss`.

    Parameters
    ----------
    columns
        Width of the pictures, and so of their spectra.
    rows
        Height of the pictures, for the signal test.
    axis
        Photon energy, eV, as a polynomial of the column number: [first, step, ...]. None: the
        figures are in pixels.
    resolution_ev
        FWHM of the spectrometer's response, for the pulse length.
    settings
        File with the settings of each number, beside the file of the spectra. Each pulse is
        processed with the settings of the time when it was taken, the mean spectrum with the
        newest ones. Means of figures and spikes include only the pulses whose unit is that of
        the newest settings. That unit is pixels, too, if the axis of these settings fits no
        spectrum of the run. Empty: all pulses have the same settings.
    **given
        smoothing, fit, weighting, signal_per_row, saturation, as in
        `skywright.instruments.psss.settings.Settings`. They and the axis replace those of the file.

    Raises
    ------
    ConfigError
        If the value of a parameter is not allowed.
    """

    name = "psss_spectra"
    stream = "pulses"
    version = "6"
    inputs: ClassVar[Sequence[str]] = ("spectrum",)
    arrays: ClassVar[Mapping[str, ArrayInput]] = {"spectrum": ArrayInput(1)}
    optional: ClassVar[Sequence[str]] = ("settings_number", "pulse_energy", "status")
    identity = "pulse_id"
    time = "time"
    block_size = 100
    without_effect: ClassVar[Sequence[str]] = (
        *("roi", "background", "background_name", "background_mode"),
    )
    """Fields of `Settings` that have no effect on a spectrum that is already summed."""
    columns = (
        Column("status", "|u1", attrs={"names": [status.name for status in FitStatus]}),
        *(
            Column(name, "<f8", attrs={"units": "eV, or px without axis"})
            for name in PULSE_FIGURES[:7]
        ),
        Column("relative_width", "<f8", attrs={"units": "per mille"}),
        Column("brightness", "<f8", attrs={"units": "uJ/eV", "description": "energy / fwhm"}),
        Column("intensity", "<f8", attrs=COUNTS),
        Column("chi2", "<f8", attrs={"units": "", "description": "reduced"}),
        Column("quality", "<f8", attrs={"units": "", "description": "1 is perfect"}),
        Column("spike_count", "<i4", attrs={"description": "-1: no spectrum, or bad pixels"}),
        Column("spike_width", "<f8", attrs={"units": "eV, or px without axis"}),
    )

    def __init__(
        self,
        columns: int = 2560,
        rows: int = 2160,
        axis: Sequence[float] | None = None,
        resolution_ev: float = 0.0,
        settings: str = "",
        **given: Any,
    ) -> None:
        check_keys(given, SpectrumStatistics, Settings)
        for name in self.without_effect:
            if name in given:
                raise ConfigError(
                    f"{name}: has no effect on stored spectra; psss_pictures makes new ones"
                )
        background = given.pop("background", "")
        kept = {"columns": columns, "rows": rows, "resolution_ev": resolution_ev, **given}
        kept |= {"settings": settings} if settings else {}
        kept |= {"background": background} if background else {}
        super().__init__(**kept, **({} if axis is None else {"axis": [float(c) for c in axis]}))
        if int(columns) != columns or columns < 1 or not rows >= 0 or not resolution_ev >= 0:
            raise ConfigError(
                f"columns {columns}, rows {rows}, resolution_ev {resolution_ev}: expected a "
                "number of columns, and nothing below 0"
            )
        if axis is not None:
            given["axis"] = axis_of(axis, int(columns))
        self.settings = with_background(Settings(**given), background)
        self._stored = StoredSettings(settings, background, given) if settings else None
        self.results = _results(int(columns))  # type: ignore[misc]  # their width is known here

    @property
    def _picture_width(self) -> int:
        """The parameter ``columns``. The attribute `columns` has the columns of the output."""
        return int(self.parameters["columns"])

    def settings_of(self, number: int) -> Settings:
        """Return the settings with which a pulse of this settings number is processed."""
        if self._stored is None or number < 0:
            return self.settings
        return self._stored[number]

    def warm_up(self) -> None:
        """Compile the processing and the statistics of spikes."""
        processing.warm_up()
        statistics.warm_up()

    def spectrum_of(self, member: NDArray[Any], settings: Settings) -> Spectrum:
        """Process one input."""
        return process_spectrum(member, self.parameters["rows"], settings)

    def measure(self, batch: Batch) -> Mapping[str, NDArray[Any]]:
        """Fit each spectrum, and find its spikes."""
        width, n = self._picture_width, len(batch)
        energies = batch.data.get("pulse_energy")
        live = batch.data.get("status", np.zeros(n))
        sizes = (batch.data.get("picture_height"), batch.data.get("picture_width"))
        found: dict[str, NDArray[Any]] = {
            **{column.path: np.full(n, NAN) for column in self.columns},
            "status": np.zeros(n, np.uint8),
            "spike_count": np.full(n, -1, np.int32),
            "light": np.full((n, width), NAN),
            "correlation": np.zeros((n, LAGS)),
            "settings_number": batch.data.get("settings_number", np.full(n, -1)),
            "in_ev": np.zeros(n, bool),
        }
        for row, member in enumerate(batch[self.inputs[0]]):
            if member.shape[-1] != width:
                raise DataError(
                    f"{self.inputs[0]}: {member.shape[-1]} columns, expected {width}; set the "
                    "parameter columns"
                )
            if sizes[0] is not None and sizes[1] is not None:  # zeros fill up smaller pictures
                member = member[: int(sizes[0][row]), : int(sizes[1][row])]
            settings = self.settings_of(int(found["settings_number"][row]))
            spectrum = self.spectrum_of(member, settings)
            keeps_live = spectrum.status.is_good and live[row] in ONLY_IN_PICTURES
            found["status"][row] = live[row] if keeps_live else spectrum.status
            found["in_ev"][row] = spectrum.unit is AxisUnit.EV
            if spectrum.status in (FitStatus.NO_IMAGE, FitStatus.BAD_PIXELS):
                continue
            for name in PULSE_FIGURES:
                found[name][row] = getattr(spectrum, name)
            if energies is not None:
                found["brightness"][row] = spectrum.brightness(float(energies[row]))
            counts = spectrum.spectrum.astype(np.float64)
            spikes = find_spikes(counts)
            found["spike_count"][row] = spikes.count
            found["spike_width"][row] = spikes.width * _pitch(spectrum.axis)
            if len(counts) == width:  # narrower ones have no place in a mean
                found["light"][row] = above_baseline(counts)
                found["correlation"][row] = autocorrelation(counts)
        return found

    def statistic(self, members: Batch) -> Pulses:
        """Sum up a block."""
        status = members["status"]
        good = np.isin(status, GOOD)
        wide = ~np.isnan(members["spike_width"])
        known = ~np.isnan(members["light"][:, 0])
        numbers = members["settings_number"]
        figures = np.stack([members[name] for name in MEANS], axis=1)
        spikes = np.stack([members["spike_count"], members["spike_width"]], axis=1, dtype=float)
        return Pulses(
            statuses=np.bincount(status, minlength=len(FitStatus)),
            figures=_by_unit(figures[good], members["in_ev"][good]),
            spectra=_moments(members["light"][known]),
            correlation=members["correlation"][known].sum(axis=0),
            spikes=_by_unit(spikes[wide], members["in_ev"][wide]),
            settings_number=int(numbers.max()) if len(numbers) else -1,
        )

    def fold(self, prefix: Pulses | None, statistic: Pulses) -> Pulses:
        """Add the next block."""
        if prefix is None:
            return statistic
        a, b = prefix, statistic
        return Pulses(
            a.statuses + b.statuses,
            (a.figures[0].with_next(b.figures[0]), a.figures[1].with_next(b.figures[1])),
            a.spectra.with_next(b.spectra),
            a.correlation + b.correlation,
            (a.spikes[0].with_next(b.spikes[0]), a.spikes[1].with_next(b.spikes[1])),
            max(a.settings_number, b.settings_number),
        )

    def summarize(self, state: Pulses | None) -> Mapping[str, Any]:
        """Compute means, g2 and pulse lengths from the sums; NaN where they are not known."""
        if state is None:
            nothing = Batch(np.empty(0, np.int64), np.empty(0), {self.inputs[0]: np.empty(0)})
            state = self.statistic(replace(nothing, data=self.measure(nothing)))
        settings = self.settings_of(state.settings_number)
        has_ev = any(in_ev.n for _, in_ev in (state.figures, state.spikes))
        unit = settings.axis is not None and has_ev
        figures = state.figures[unit]
        mean_spectrum, n = state.spectra.mean, state.spectra.n
        g2 = np.full(LAGS, NAN)
        if n:
            g2 = second_order_correlation(mean_spectrum, state.correlation / n)
        # 0 rows: the threshold per row is for the noise of one spectrum, and a mean has less
        fit = process_spectrum(mean_spectrum, 0, settings)
        g2_width = correlation_width(g2) * _pitch(fit.axis) if n > 1 else NAN
        spike_count, spike_width = state.spikes[unit].mean
        return {
            "n_pulses": int(state.statuses.sum()),
            "n_good": figures.n,
            "n_status": state.statuses,
            **dict(zip([f"{name}_mean" for name in MEANS], figures.mean, strict=True)),
            **dict(zip([f"{name}_scatter" for name in MEANS], figures.scatter, strict=True)),
            "mean_spectrum": mean_spectrum,
            "spectrum_scatter": state.spectra.scatter,
            "mean_status": fit.status.name,
            "mean_center": fit.center,
            "mean_fwhm": fit.fwhm,
            "spike_count_mean": spike_count,
            "spike_width_mean": spike_width,
            "g2": g2,
            "g2_width": g2_width,
            "pulse_length_spikes": self._length(spike_width, unit, of_correlation=False),
            "pulse_length_g2": self._length(g2_width, fit.unit is AxisUnit.EV, of_correlation=True),
        }

    def _length(self, width: float, in_ev: bool, of_correlation: bool) -> float:
        if not in_ev:
            return NAN
        resolution = float(self.parameters["resolution_ev"])
        found = pulse_length_fs(float(width), resolution, of_correlation)
        return found if math.isfinite(found) else NAN


class PictureSpectra(SpectrumStatistics):
    """Fits and statistics as `SpectrumStatistics`, from stored pictures.

    The names of the inputs are those of areaDetector's data keys. For the stream ``pictures`` of a
    spectrometer give the data key of each (``--key``, see ``docs/how-to/acquire-spectra.md``). If
    that of the identity is not given, a picture's identity is its sequence number.

    Parameters
    ----------
    roi
        Rows [ymin, ymax) that are summed; (0, 0): all rows.
    background
        HDF5 file with a background at ``/entry/data/data``, or the directory of a service's
        history, in which the background of each pulse is found by its digest. Empty: none is
        subtracted.
    **parameters
        `background_mode`, and the parameters of `SpectrumStatistics`.
    """

    name = "psss_pictures"
    stream = "pictures"
    inputs: ClassVar[Sequence[str]] = ("image",)
    arrays: ClassVar[Mapping[str, ArrayInput]] = {"image": ArrayInput(2)}
    optional: ClassVar[Sequence[str]] = (
        *("settings_number", "pulse_energy", "picture_height", "picture_width"),
    )
    time = "frame_time"
    without_effect = ()

    def spectrum_of(self, member: NDArray[Any], settings: Settings) -> Spectrum:
        """Process a picture, (rows, columns) of any numeric dtype."""
        return process(member, settings)


def _pitch(axis: NDArray[np.float64]) -> float:
    """Return the width of a column in the middle of the axis; 1 if it has one value at most."""
    if len(axis) < 2:
        return 1.0
    middle = max(len(axis) // 2, 1)
    return abs(float(axis[middle] - axis[middle - 1]))


def _results(width: int) -> tuple[Column, ...]:
    units = {"units": "eV, or px without axis"}
    length = {"units": "fs", "description": "FWHM; NaN without axis or spikes"}
    per_figure = [
        Column(f"{name}_{kind}", "<f8", attrs=COUNTS if name == "intensity" else units)
        for kind in ("mean", "scatter")
        for name in MEANS
    ]
    names = [status.name for status in FitStatus]
    return (
        Column("n_pulses", "<i8", attrs={"description": "pulses seen"}),
        Column(
            "n_good", "<i8", attrs={"description": "with a good fit (OK, NO_AXIS), newest unit"}
        ),
        Column("n_status", "<i8", (len(names),), attrs={"names": names}),
        *per_figure,
        Column("mean_spectrum", "<f8", (width,), attrs=COUNTS),
        Column("spectrum_scatter", "<f8", (width,), attrs=COUNTS),
        Column("mean_status", "<U16", attrs={"description": "of the mean spectrum's fit"}),
        Column("mean_center", "<f8", attrs={**units, "description": "fit of the mean spectrum"}),
        Column("mean_fwhm", "<f8", attrs={**units, "description": "fit of the mean spectrum"}),
        Column("spike_count_mean", "<f8", attrs={"units": ""}),
        Column("spike_width_mean", "<f8", attrs=units),
        Column("g2", "<f8", (LAGS,), attrs={"description": "by columns; lag 0 holds the noise"}),
        Column("g2_width", "<f8", attrs={**units, "description": "FWHM of g2 - 1"}),
        Column("pulse_length_spikes", "<f8", attrs=length),
        Column("pulse_length_g2", "<f8", attrs=length),
    )


def _moments(rows: NDArray[np.float64]) -> Moments:
    if not len(rows):
        nothing = np.full(rows.shape[1], NAN)
        return Moments(0, nothing, nothing)
    mean = rows.mean(axis=0)
    return Moments(len(rows), mean, ((rows - mean) ** 2).sum(axis=0))


def _by_unit(rows: NDArray[np.float64], in_ev: NDArray[np.bool_]) -> tuple[Moments, Moments]:
    return _moments(rows[~in_ev]), _moments(rows[in_ev])
