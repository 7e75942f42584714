"""Centering fit of a rotation: error, honesty and time. ``python -m benchmarks.bench_loop_fit``.

Series are drawn here: a tip up to 0.5 mm off the axis, 90 frames over 180 deg at 6.7 um/px, tips
with errors of 1 px that last over 2 frames, a tenth of them elsewhere; widths with errors of 2 px.
The floor of the errors is plain least squares told which tips are right.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.options import argument_parser
from benchmarks.rows import report
from skywright.instruments.loop.calibration import ZoomCalibration, now
from skywright.instruments.loop.detection import Detection
from skywright.instruments.loop.geometry import View, observe
from skywright.instruments.loop.series import (
    Series,
    fit_series,
    from_detections,
    keep_outermost,
)

SERIES, REPEATS = 400, 5
VIEW = View()
AXIS_PX = 236.0
CALIBRATION = {
    "zoom": 0.0,
    "um_per_px_x": VIEW.um_per_px_x,
    "um_per_px_y": VIEW.um_per_px_y,
    "axis_px": AXIS_PX,
    "axis_sigma_px": 0.5,
    "scale_residual_px": 0.2,
    "axis_residual_px": 0.2,
}


@dataclass(frozen=True)
class Case:
    """A series and its truth: place (3,) um, face-on angle (deg), which tips are right (n,)."""

    series: Series
    place_um: np.ndarray
    face_deg: float
    right: np.ndarray


def draw(
    rng: np.random.Generator, noise_px: float, wrong: float, lost: float, in_run: bool = False
) -> Case:
    """Draw a series; `wrong` and `lost` are parts of its frames, wrong ones may be in one run."""
    phi = np.arange(90) * 2.0 + rng.uniform(0, 360)
    radius, angle = rng.uniform(0, 500), rng.uniform(0, 2 * np.pi)
    place = np.array([rng.uniform(-300, 300), radius * np.cos(angle), radius * np.sin(angle)])
    tips = observe(place, phi, VIEW, AXIS_PX)
    noise = rng.normal(0, noise_px, (91, 2))
    tips += (noise[1:] + noise[:-1]) / np.sqrt(2)
    other = rng.random(90) < wrong
    tips[other] += rng.uniform(-100, 100, (other.sum(), 2))
    if in_run:
        # Of a neck, ice, a reflection: all off by the same.
        start = rng.integers(0, 55)
        other[start : start + 36] = True
        tips[start : start + 36] += rng.uniform(-80, 80, 2)
    face, wide, thin = rng.uniform(0, 180), rng.uniform(20, 60), rng.uniform(4, 8)
    turn = np.radians(phi - face)
    width = np.hypot(wide * np.cos(turn), thin * np.sin(turn)) + rng.normal(0, 2 * noise_px, 90)
    half = width / 2
    box = np.column_stack([tips[:, 0] - 60, tips[:, 1] - half, tips[:, 0], tips[:, 1] + half])
    keep = rng.random(90) >= lost
    common = {"tip_sign": "", "kind": "nylon", "kind_odds": 1.0, "side": "left", "score": 1.0}
    found = [
        Detection(tip_x=x, tip_y=y, width=w, bbox=tuple(corners), **common)
        for (x, y), w, corners in zip(tips[keep], width[keep], box[keep], strict=True)
    ]
    return Case(from_detections(phi[keep], found), place, face, ~other[keep])


def told(case: Case) -> np.ndarray:
    """Return (y, z) um by least squares of the right tips."""
    phi = np.radians(case.series.phi_deg[case.right])
    design = np.stack([np.ones_like(phi), np.cos(phi), -np.sin(phi)], axis=1)
    rows = case.series.tip_px[case.right, 1] * VIEW.pixel_um
    return np.linalg.lstsq(design, rows, rcond=None)[0][1:]


def errors(
    noise_px: float, wrong: float, lost: float, in_run: bool = False
) -> tuple[np.ndarray, ...]:
    """Return transverse errors and their floor, um, and face-on errors, deg."""
    rows = []
    for seed in range(SERIES):
        case = draw(np.random.default_rng(seed), noise_px, wrong, lost, in_run)
        fit = fit_series(case.series, VIEW)
        rows.append(
            (
                np.hypot(*(fit.tip.offset_um - case.place_um)[1:]),
                np.hypot(*(told(case) - case.place_um[1:])),
                abs((fit.face.face_on_deg - case.face_deg + 90) % 180 - 90),
            )
        )
    return tuple(np.array(rows).T)


def median_ms(work: Callable[[], object]) -> float:
    """Return the median time of one call, of five rounds."""
    rounds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(20):
            work()
        rounds.append((time.perf_counter() - start) / 20 * 1e3)
    return float(np.median(rounds))


def main() -> int:
    """Print the rows; return 0."""
    argument_parser(__doc__).parse_args()
    series = draw(np.random.default_rng(0), 1.0, 0.1, 0.0).series
    fit_series(series, VIEW)
    plain = median_ms(lambda: fit_series(series, VIEW))
    report("loop fit, 90 frames", plain, "ms", floor=0.4, goal=5.0)
    calibration = ZoomCalibration(**CALIBRATION, date=now())
    view, axis = calibration.view, calibration.axis
    known = median_ms(lambda: fit_series(keep_outermost(series, view)[0], view, axis, view.side))
    report("loop fit, 90 frames, camera calibrated", known, "ms", floor=0.4, goal=5.0)
    perfect, _, _ = errors(0.0, 0.0, 0.0)
    name = "loop fit, perfect tips, largest error"
    report(name, float(perfect.max()), "um", floor=0.01, goal=0.01)
    whole, floor, face = errors(1.0, 0.1, 0.0)
    name = "loop fit, transverse error, tips of 1 px"
    median, best = float(np.median(whole)), float(np.median(floor))
    report(name, median, "um", floor=best, goal=3.0, max=float(whole.max()))
    lossy, floor, _ = errors(1.0, 0.1, 0.6)
    report(
        f"{name}, 60 % of the frames lost",
        float(np.median(lossy)),
        "um",
        floor=float(np.median(floor)),
        goal=6.0,
        max=float(lossy.max()),
        times_whole=float(np.median(lossy)) / median,
    )
    runs, floor, _ = errors(1.0, 0.0, 0.0, in_run=True)
    report(
        f"{name}, a run of 40 % wrong",
        float(np.median(runs)),
        "um",
        floor=float(np.median(floor)),
        goal=12.0,
        max=float(runs.max()),
        p95=float(np.percentile(runs, 95)),
        beyond_30_um=float(np.mean(runs > 30.0)),
    )
    faces = face[np.isfinite(face)]
    report(
        "loop fit, face-on error",
        float(np.median(faces)),
        "deg",
        floor=0.1,
        goal=3.0,
        max=float(faces.max()),
        unknown=1.0 - len(faces) / len(face),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
