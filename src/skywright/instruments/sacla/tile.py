"""One detector tile: how its pixels count, its regions of interest and its rings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.errors import ConfigError
from skywright.instruments.sacla import pixels
from skywright.instruments.sacla.regions import Region, cut_spans, pixel_spans

SCALES = (1e-9, 1e9)
"""Least and largest gain, energy per electron and energy of a photon that make sense."""


@dataclass(frozen=True)
class PixelRules:
    """How the signal of a pixel becomes energy and photons.

    Parameters
    ----------
    photon_ev
        Energy of one photon, eV.
    ev_per_electron
        Energy per electron-hole pair, eV.
    threshold_ev
        Pixels of less energy count as 0.
    radial_cx, radial_cy, radial_dr
        Center and bin width of the radial profile, pixels.
    """

    photon_ev: float
    ev_per_electron: float
    threshold_ev: float
    radial_cx: float
    radial_cy: float
    radial_dr: float


@dataclass(frozen=True, eq=False)
class Tile:
    """A detector: its geometry, gain and bad pixels.

    Parameters
    ----------
    detector
        Its id.
    gain
        Electrons per ADU.
    bad
        (rows, columns) bool.
    """

    detector: str
    gain: float
    bad: NDArray[np.bool_]


def check_scale(name: str, value: float) -> None:
    """Raise `ConfigError` if a gain or an energy makes no sense: it is not within `SCALES`, or NaN.

    The search for the least signal of a photon would not end.
    """
    least, most = SCALES
    if not least <= value <= most:
        raise ConfigError(f"{name} is {value:g}, expected {least:g} to {most:g}")


class TileRegions:
    """The regions of interest of one tile, ready to be summed.

    Parameters
    ----------
    tile, rules
        The detector, and how its pixels count.
    regions
        Those of this detector, in the order of the sums.

    Raises
    ------
    ConfigError
        If a region is of another detector, or its mask of another shape.
    """

    def __init__(self, tile: Tile, rules: PixelRules, regions: Sequence[Region]) -> None:
        for region in regions:
            if region.detector != tile.detector:
                raise ConfigError(f"ROI {region.name}: not on detector {tile.detector}")
        self.tile, self.rules, self.regions = tile, rules, tuple(regions)
        good = ~tile.bad
        masks = [region.pixels(tile.bad.shape) & good for region in regions]
        self.npixels = [int(mask.sum()) for mask in masks]
        # Short pieces, in order of memory: where regions overlap, the pixels are read once.
        self._spans = cut_spans(pixel_spans(masks), pixels.SPAN)
        self.least = pixels.least_signal(tile.gain, rules.ev_per_electron, rules.threshold_ev)
        self._levels = pixels.photon_levels(
            tile.gain, rules.ev_per_electron, rules.threshold_ev, rules.photon_ev
        )
        self.ev_per_adu = tile.gain * rules.ev_per_electron

    def measure(
        self, frames: NDArray[np.float32], chosen: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        """Measure the regions of images.

        Parameters
        ----------
        frames
            (n, pixels) ADU.
        chosen
            (m,) indices of the images to measure.

        Returns
        -------
        dict
            ``sum_ev`` (m, regions) eV, ``photons`` (m, regions), and ``photon_hist``
            (m, regions, 8), the pixels with 0 .. 6 and with 7 or more photons.
        """
        shape = (len(chosen), len(self.regions))
        sums, photons = np.empty(shape), np.empty(shape, np.int64)
        histograms = np.empty((*shape, pixels.HISTOGRAM_BINS), np.int64)
        ev = (float(self.tile.gain), float(self.rules.ev_per_electron), float(self.rules.photon_ev))
        pixels.measure_regions(
            frames, chosen, self._spans, self._levels, ev, sums, photons, histograms
        )
        return {"sum_ev": sums * self.ev_per_adu, "photons": photons, "photon_hist": histograms}


_FIRST = np.zeros(1, np.int64)
RINGS_MAX = 1_000_000


def count_rings(shape: tuple[int, int], cx: float, cy: float, width: float) -> int:
    """Return the number of rings from the center to the farthest pixel.

    Parameters
    ----------
    shape
        (rows, columns).
    cx, cy, width
        See `Rings`.

    Raises
    ------
    ConfigError
        If the width is not positive, or there are more than `RINGS_MAX`.
    """
    if not width > 0:
        raise ConfigError(f"radial_dr is {width:g}, expected > 0")
    rows, columns = shape
    radius = max(math.hypot(x - cx, y - cy) for x in (0, columns - 1) for y in (0, rows - 1))
    if not radius < RINGS_MAX * width:
        raise ConfigError(
            f"radial_cx = {cx:g}, radial_cy = {cy:g} and radial_dr = {width:g} give more than "
            f"{RINGS_MAX} rings"
        )
    return math.floor(radius / width) + 1


class Rings:
    """Rings around a center, over which images are averaged: the radial profile.

    Ring k holds the good pixels with floor(distance / width) = k.

    Parameters
    ----------
    bad
        (rows, columns) bool.
    cx, cy
        Center, pixels.
    width
        Of a ring, pixels.

    Raises
    ------
    ConfigError
        As of `count_rings`.
    """

    def __init__(self, bad: NDArray[np.bool_], cx: float, cy: float, width: float) -> None:
        count_rings(bad.shape, cx, cy, width)
        rows, columns = bad.shape
        radius = np.hypot((np.arange(columns) - cx)[None, :], (np.arange(rows) - cy)[:, None])
        labels = np.floor(radius / width).astype(np.int64).ravel()
        self.length = int(labels.max(initial=-1)) + 1
        good = ~bad.ravel()
        self.count = np.bincount(labels[good], minlength=self.length)
        self._divisor = np.where(self.count > 0, self.count, np.nan)
        # Bad pixels go to a ring of their own, which no profile shows. Short numbers: with the
        # pixels, they are all that is read from memory.
        kind = np.uint16 if self.length < 2**16 else np.uint32
        self._labels: NDArray[np.unsignedinteger[Any]] = np.where(good, labels, self.length).astype(
            kind
        )

    def profile(self, image: NDArray[Any]) -> NDArray[np.float64]:
        """Average (pixels,) over each ring; NaN where a ring has no good pixel."""
        none_is_less = image.dtype.type(-np.inf)
        return self.profiles(image[None], _FIRST, none_is_less)[0]

    def profiles(
        self, frames: NDArray[Any], chosen: NDArray[np.int64], least: np.floating[Any]
    ) -> NDArray[np.float64]:
        """Average images over each ring.

        Parameters
        ----------
        frames
            (n, pixels) ADU.
        chosen
            (m,) indices of images.
        least
            Smaller signals count as 0, ADU.

        Returns
        -------
        NDArray
            (m, rings) ADU; NaN where a ring has no good pixel.
        """
        total = np.empty((len(chosen), self.length + 1))
        pixels.sum_rings(frames, chosen, least, self._labels, total)
        means: NDArray[np.float64] = total[:, :-1] / self._divisor
        return means
