"""The curve of a delay scan against the truth of the twin, and a picture of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from skywright.instruments.sacla.mean_images import thinned
from skywright.instruments.sacla.time_zero import TimeZero

Floats = NDArray[np.float64]
COARSE = 8
"""Pixels along a side of one in the picture."""
SHOTS_MIN = 5
"""Of each side in a bin whose error is believed."""


@dataclass(frozen=True, eq=False)
class Scan:
    """What the catalog holds of a delay scan with one region.

    Parameters
    ----------
    edges
        (bins + 1,) ps.
    on_n, off_n, off_mean, diff, diff_sem
        (bins,) of the derived run.
    delay, laser_on, i0, sums
        (shots,) of the accepted shots.
    images
        ``mean``, ``mean_on``, ``mean_off``: (rows, columns) eV.
    effect, width_ps
        The truth.
    """

    edges: Floats
    on_n: NDArray[np.int64]
    off_n: NDArray[np.int64]
    off_mean: Floats
    diff: Floats
    diff_sem: Floats
    delay: Floats
    laser_on: NDArray[np.bool_]
    i0: Floats
    sums: Floats
    images: Mapping[str, Floats]
    effect: float
    width_ps: float

    @property
    def level(self) -> float:
        """Mean of sum / I0 without laser over all bins, eV/V."""
        good = self.off_n > 0
        return float(np.average(self.off_mean[good], weights=self.off_n[good]))

    def truth(self) -> Floats:
        """Return (bins,) the mean true difference of the shots of each bin, by the level."""
        delay = self.delay[self.laser_on]
        response = self.effect * 0.5 * (1 + erf(delay / self.width_ps))  # as the twin makes it
        count, _ = np.histogram(delay, self.edges)
        total, _ = np.histogram(delay, self.edges, weights=response)
        return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def chi2_per_dof(scan: Scan) -> tuple[float, int]:
    """Compare a curve with the truth; nothing is fitted.

    Returns
    -------
    chi2, bins
        Mean square of (diff - truth) / error over the bins with enough shots, and their number.
    """
    good = (scan.on_n >= SHOTS_MIN) & (scan.off_n >= SHOTS_MIN) & (scan.diff_sem > 0)
    pull = (scan.diff / scan.level - scan.truth())[good] / (scan.diff_sem[good] / scan.level)
    return float((pull**2).mean()) if good.any() else float("nan"), int(good.sum())


def draw(scan: Scan, zero: TimeZero, path: Path) -> Path:
    """Draw a scan into the PNG `path`."""
    from matplotlib.figure import Figure

    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(13, 8), layout="constrained")
    centers = (scan.edges[1:] + scan.edges[:-1]) / 2
    figure.suptitle(
        f"delay scan: time zero {1e3 * zero.delay_ps:.0f} ± {1e3 * zero.delay_error_ps:.0f} fs, "
        f"{len(scan.delay)} shots"
    )
    grid = figure.add_gridspec(2, 3, width_ratios=(1.6, 1, 1))
    curve = figure.add_subplot(grid[0, 0])
    fine = np.linspace(scan.edges[0], scan.edges[-1], 400)
    rise = scan.effect * 0.5 * (1 + erf(fine / scan.width_ps))
    curve.plot(fine, 100 * rise, "-", color="0.6", label="truth")
    curve.errorbar(
        centers,
        100 * scan.diff / scan.level,
        100 * scan.diff_sem / scan.level,
        fmt="o",
        ms=4,
        label="measured",
    )
    curve.set(xlabel="delay (ps)", ylabel="laser on - off (%)", title="difference in the region")
    curve.set_xticks(centers[::3])
    curve.legend()
    against = figure.add_subplot(grid[1, 0])
    for is_on, name in ((True, "laser on"), (False, "laser off")):
        rows = scan.laser_on == is_on
        against.plot(scan.i0[rows], scan.sums[rows] / 1e6, ".", ms=3, label=name)
    against.set(xlabel="I0 (V)", ylabel="sum in the region (MeV)", title="region against I0")
    against.legend()
    on_off = scan.images["mean_on"] - scan.images["mean_off"]
    for column, (title, image, tints) in enumerate(
        (("mean image (eV)", scan.images["mean"], "viridis"), ("on - off (eV)", on_off, "coolwarm"))
    ):
        axes = figure.add_subplot(grid[:, column + 1])
        thin = thinned(image, COARSE)
        low, high = np.nanpercentile(thin, (1, 99))
        if column:
            low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
        extent = (-0.5, COARSE * thin.shape[1] - 0.5, COARSE * thin.shape[0] - 0.5, -0.5)
        shown = axes.imshow(thin, cmap=tints, vmin=low, vmax=high, extent=extent)
        axes.set(title=title, xlabel="column", ylabel="row")
        figure.colorbar(shown, ax=axes, shrink=0.6)
    figure.savefig(path, dpi=90)
    return path
