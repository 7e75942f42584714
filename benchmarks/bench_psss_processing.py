"""Picture to spectrum and fit, one core: ``python -m benchmarks.bench_psss_processing``.

Pictures of 2560 x 2160 uint16 in a pool larger than the caches, with the background in place and
smoothing. Reference: the old service's steps in plain numpy and scipy (clipped difference, sum,
Savitzky-Golay, fit of every second point with at most 20 evaluations, offset not taken off at the
start). Floor: the same pictures and background read once by a bare loop of the same kind. All three
take turns on the same pictures.
"""

import os
import sys
import time
from collections.abc import Callable

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.optimize import curve_fit
from scipy.signal import savgol_filter

from benchmarks.options import argument_parser
from benchmarks.rows import report
from skywright.instruments.psss.processing import FitStatus, Settings, process

Picture = NDArray[np.uint16]
ROWS, COLUMNS, POOL, ROUNDS = 2160, 2560, 16, 7
AXIS = np.linspace(8970.0, 9030.0, COLUMNS)
ROI = (980, 1180)
GOALS = {"roi": 4000.0, "whole": 1500.0}


def draw_pictures(spiky: bool) -> tuple[list[Picture], Picture]:
    """Return pictures of pulses, and the background."""
    rng = np.random.default_rng(3)
    background = rng.integers(95, 105, (ROWS, COLUMNS), np.uint16)
    profile = np.exp(-0.5 * ((np.arange(ROWS) - 1080) / 60.0) ** 2)
    noise = rng.normal(0.0, 2.0, (ROWS, COLUMNS)).astype(np.float32)
    pictures = []
    for number in range(POOL):
        center, sigma = rng.uniform(8990, 9010), rng.uniform(3, 7)
        light = 60.0 * np.exp(-0.5 * ((AXIS - center) / sigma) ** 2)
        if spiky:
            # Spikes about 10 columns wide with exponentially distributed strengths.
            waves = rng.normal(size=(2, COLUMNS + 40))
            kernel = np.exp(-0.5 * (np.arange(-20, 21) / 4.0) ** 2)
            smooth = [np.convolve(wave, kernel, "valid") for wave in waves]
            light *= (smooth[0] ** 2 + smooth[1] ** 2) / (2.0 * (kernel**2).sum())
        signal = profile[:, None].astype(np.float32) * light[None].astype(np.float32)
        picture = background + np.roll(noise, 137 * number, axis=1) + signal
        pictures.append(np.clip(np.round(picture), 0, 65535).astype(np.uint16))
    return pictures, background


def gaussian(x: NDArray, offset: float, amplitude: float, center: float, sigma: float) -> NDArray:
    """Return a Gaussian on an offset."""
    return offset + amplitude * np.exp(-0.5 * ((x - center) / sigma) ** 2)


def jacobian(x: NDArray, offset: float, amplitude: float, center: float, sigma: float) -> NDArray:
    """Return its derivatives, (W, 4)."""
    u = (x - center) / sigma
    g = np.exp(-0.5 * u * u)
    both = amplitude * g * u / sigma
    return np.stack([np.ones_like(x), g, both, both * u], axis=1)


def reference(picture: Picture, background: Picture) -> tuple[float, float]:
    """Process a picture in the old way, with numpy and scipy."""
    spectrum = np.where(picture > background, picture - background, 0).sum(axis=0, dtype=np.uint32)
    y = savgol_filter(spectrum, 51, 3)[::2]
    x = AXIS[::2]
    offset, amplitude = y.min(), np.ptp(y)
    center = (x * y).sum() / y.sum()
    sigma = np.trapezoid(y - offset, x) / (amplitude * np.sqrt(2.0 * np.pi))
    start = (offset, amplitude, center, sigma)
    try:
        found, _ = curve_fit(gaussian, x, y, p0=start, jac=jacobian, maxfev=20)
    except RuntimeError:
        found = np.array(start)
    return float(found[2]), 2.355 * abs(float(found[3]))


@njit(cache=True, nogil=True)
def read_once(picture: Picture, background: Picture, sums: NDArray[np.uint32]) -> None:
    """Add up picture and background, and nothing else."""
    rows, columns = picture.shape
    for row in range(rows):
        for column in range(columns):
            sums[column] += np.uint32(picture[row, column] ^ background[row, column])


def seconds(work: Callable[[Picture], object], pictures: list[Picture]) -> float:
    """Return the median time of a picture over the pool."""
    times = []
    for picture in pictures:
        start = time.perf_counter()
        work(picture)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def measure(name: str, rows: tuple[int, int], pictures: list[Picture], background: Picture) -> None:
    """Print the row of one ROI."""
    first, stop = rows
    settings = Settings(roi=rows, background=background, axis=AXIS)
    sums = np.zeros(COLUMNS, np.uint32)
    found = [process(picture, settings) for picture in pictures]
    wrong = [each.status for each in found if each.status is not FitStatus.OK]
    if wrong:
        raise SystemExit(f"{len(wrong)} of {len(found)} pictures were not fitted: {wrong[0]!r}")
    ways: list[Callable[[Picture], object]] = [
        lambda picture: process(picture, settings),
        lambda picture: reference(picture[first:stop], background[first:stop]),
        lambda picture: read_once(picture[first:stop], background[first:stop], sums),
    ]
    for way in ways:
        way(pictures[0])
    rounds = np.array([[seconds(way, pictures) for way in ways] for _ in range(ROUNDS)])
    ours, old, floor = np.median(rounds, axis=0)
    report(
        f"psss_processing_{name}",
        1.0 / ours,
        "pictures/s",
        floor=1.0 / floor,
        reference=1.0 / old,
        goal=GOALS[name.split("_")[0]],
        floor_is="reading picture and background once",
        reference_is="numpy and scipy",
        times_reference=old / ours,
        ms=1e3 * ours,
        steps=float(np.mean([each.steps for each in found])),
    )


def main() -> int:
    """Print the rows; return 0."""
    argument_parser(__doc__).parse_args()
    # One core: neither way may use another.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for kind in ("smooth", "spiky"):
        pictures, background = draw_pictures(kind == "spiky")
        measure(f"roi_200_rows_{kind}", ROI, pictures, background)
        measure(f"whole_{kind}", (0, ROWS), pictures, background)
    return 0


if __name__ == "__main__":
    sys.exit(main())
