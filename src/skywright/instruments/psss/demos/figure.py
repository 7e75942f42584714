"""The picture of the spectrometer's demo: waterfall, one pulse, mean spectrum, centers."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from skywright.instruments.psss.demos.spectra import Acquired

SPECTRA_MAX = 300
"""Number of pulses in the waterfall."""
FWHM_PER_SIGMA = 2.3548200450309493
DATA, FIT, TRUTH = "#9aa5b1", "#d1495b", "#1d3557"


def draw(found: "Acquired", path: Path) -> Path:
    """Draw what was acquired into a PNG file, and return its path."""
    from matplotlib.figure import Figure

    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(12.5, 8.2), dpi=110, layout="constrained")
    (waterfall, pulse), (mean, centers) = figure.subplots(
        2, 2, gridspec_kw={"height_ratios": [1.15, 1.0]}
    )
    _waterfall(figure, waterfall, found)
    _one_pulse(pulse, found)
    _mean(mean, found)
    _centers(centers, found)
    figure.suptitle(
        f"Single-shot spectrometer, {len(found.pulse_ids):,} pulses at 100 Hz, read from the "
        "catalog",
        fontsize=13,
    )
    figure.savefig(path)
    return path


def _waterfall(figure: Any, axes: Any, found: "Acquired") -> None:
    spectra = found.spectra[:SPECTRA_MAX] / 1e3
    energies = found.axis_ev
    top = float(np.percentile(spectra, 99.7))
    image = axes.imshow(
        spectra,
        aspect="auto",
        origin="lower",
        cmap="magma",
        vmin=0.0,
        vmax=top,
        extent=(energies[0], energies[-1], 0, len(spectra)),
        interpolation="antialiased",
    )
    shown = found.good[:SPECTRA_MAX]
    rows = np.arange(len(spectra))[shown] + 0.5
    axes.plot(
        found.center[:SPECTRA_MAX][shown], rows, ".", ms=2.2, color="#4cc9f0", label="fitted center"
    )
    axes.set(
        xlim=(energies[0], energies[-1]),
        ylim=(0, len(spectra)),
        xlabel="photon energy (eV)",
        ylabel="pulse",
        title=f"the first {len(spectra)} pulses",
    )
    axes.legend(loc="upper right", fontsize=8, markerscale=3)
    figure.colorbar(image, ax=axes, label="1000 counts per column", pad=0.01)


def _one_pulse(axes: Any, found: "Acquired") -> None:
    """Show the pulse whose center is nearest to the mean of all."""
    middle = np.nanmean(np.where(found.good, found.center, np.nan))
    index = int(np.nanargmin(np.where(found.good, abs(found.center - middle), np.nan)))
    energies = found.axis_ev
    fit = found.offset[index] + _gaussian(
        energies, found.amplitude[index], found.center[index], found.fwhm[index]
    )
    axes.plot(energies, found.spectra[index] / 1e3, lw=0.6, color=DATA, label="spectrum")
    axes.plot(energies, fit / 1e3, lw=1.8, color=FIT, label="fit")
    axes.axvline(found.true_center[index], ls="--", lw=1.2, color=TRUTH, label="true center")
    axes.set(
        xlim=(energies[0], energies[-1]),
        xlabel="photon energy (eV)",
        ylabel="1000 counts per column",
        title=f"one pulse, id {found.pulse_ids[index]}",
    )
    _note(
        axes,
        f"center {found.center[index]:.2f} eV (true {found.true_center[index]:.2f})\n"
        f"width {found.fwhm[index]:.2f} eV (true {found.true_fwhm[index]:.2f})",
    )
    axes.legend(loc="upper right", fontsize=8)


def _mean(axes: Any, found: "Acquired") -> None:
    energies = found.axis_ev
    spectrum = found.mean_spectrum / 1e3
    center, fwhm = found.mean["mean_center"], found.mean["mean_fwhm"]
    shape = _gaussian(energies, 1.0, center, fwhm)
    # The height is not among the results: it follows, with the offset, from a linear fit.
    design = np.stack([shape, np.ones_like(shape)], axis=1)
    (height, offset), *_ = np.linalg.lstsq(design, spectrum, rcond=None)
    axes.fill_between(energies, spectrum, color=DATA, alpha=0.45, lw=0, label="mean spectrum")
    axes.plot(energies, spectrum, lw=0.7, color="#6b7785")
    axes.plot(energies, offset + height * shape, lw=1.8, color=FIT, label="fit")
    true_width = np.hypot(found.true_fwhm.mean(), FWHM_PER_SIGMA * found.true_center.std())
    truth = _gaussian(energies, height, found.true_center.mean(), true_width)
    axes.plot(energies, offset + truth, lw=1.2, ls="--", color=TRUTH, label="truth (its height)")
    axes.set(
        xlim=(energies[0], energies[-1]),
        ylim=(min(0.0, float(spectrum.min())), 1.12 * float(spectrum.max())),
        xlabel="photon energy (eV)",
        ylabel="1000 counts per column",
        title="mean of all pulses",
    )
    _note(
        axes,
        f"center {center:.2f} eV (true {found.true_center.mean():.2f})\n"
        f"width {fwhm:.2f} eV (true {true_width:.2f})\n"
        f"{found.mean['spike_count_mean']:.0f} spikes a pulse\n"
        f"pulses >= {found.mean['pulse_length_g2']:.0f} fs by g2\n"
        f"(true {found.true_length_fs:.0f}, chirped)",
    )
    axes.legend(loc="upper right", fontsize=8)


def _centers(axes: Any, found: "Acquired") -> None:
    good = found.good
    true, fitted = found.true_center[good], found.center[good]
    low, high = float(min(true.min(), fitted.min())), float(max(true.max(), fitted.max()))
    axes.plot([low, high], [low, high], color=TRUTH, lw=1.2, ls="--", label="fitted = true")
    axes.plot(true, fitted, ".", ms=3.5, color=FIT, alpha=0.45, label="a pulse")
    difference = fitted - true
    axes.set(
        xlabel="true center of the envelope (eV)",
        ylabel="fitted center (eV)",
        title="each pulse: fitted against true center",
        xlim=(low, high),
        ylim=(low, high),
    )
    _note(
        axes,
        f"mean difference {difference.mean():+.3f} eV\n"
        f"scatter {difference.std():.2f} eV: the spikes of one pulse",
    )
    axes.legend(loc="lower right", fontsize=8)


def _note(axes: Any, text: str) -> None:
    axes.text(0.02, 0.97, text, transform=axes.transAxes, va="top", fontsize=8.5)


def _gaussian(
    energies: NDArray[np.float64], height: float, center: float, fwhm: float
) -> NDArray[np.float64]:
    away = (energies - center) / (fwhm / FWHM_PER_SIGMA)
    return np.asarray(height * np.exp(-0.5 * away**2), np.float64)
