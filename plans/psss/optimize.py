"""Moves a motor to the position with the narrowest or brightest spectrum."""

import math
from dataclasses import dataclass
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import Movable, Readable
from bluesky.utils import MsgGenerator

from plans.checks import MOTOR, check_devices, check_limits, finite, whole
from plans.psss.search import Measured, Search, Verdict, propose
from plans.psss.stubs import PULSES, SCANNED, Reading, recorded, take_point
from plans.run_stubs import start_metadata, with_restored
from skywright.errors import ConfigError

OBJECTIVES = {"width": "fwhm", "intensity": "intensity"}
TOLERANCE_PART = 1 / 50
"""The default of the tolerance, as a part of the range."""


@dataclass(frozen=True)
class Optimum:
    """The result of an optimization.

    Parameters
    ----------
    ok
        Whether the best position is known within the tolerance; the motor is then there.
    why
        Reason if it is not known; the motor is then back at its start. Empty if `ok`.
    position, position_sigma
        Best position and its standard deviation; NaN if not known.
    value, value_sigma
        Mean width (in the axis' unit) or intensity (counts) at this position, and its standard
        deviation.
    points
        Number of measured positions, without the last measurement at the best one.
    uid
        Uid of the run.
    """

    ok: bool
    why: str
    position: float
    position_sigma: float
    value: float
    value_sigma: float
    points: int
    uid: str


def optimize_spectrum(
    psss: Readable,
    motor: Movable,
    low: float,
    high: float,
    *,
    objective: str = "width",
    num: int = 7,
    pulses: int = 20,
    tolerance: float | None = None,
    max_points: int = 25,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[Optimum]:
    """Move a motor to the position with the narrowest or brightest spectrum, within limits.

    A grid over the range is measured first, then points around the best one, until the vertex of a
    parabola through them is known within the tolerance and does not move any more; see
    `plans.psss.search`.

    Parameters
    ----------
    psss
        The spectrometer.
    motor
        Motor, which is moved within low..high only, or back to its start.
    low, high
        Limits.
    objective
        ``width``: the least mean width; ``intensity``: the greatest mean intensity.
    num
        Number of points of the grid, 5 to 1000.
    pulses
        Number of pulses at each point, at least 2.
    tolerance
        Tolerance of the position (1 sigma), in the motor's unit; None: a fiftieth of the range.
    max_points
        Maximum number of points, grid included; the best one is measured once more.
    md
        Metadata for the start document.

    Returns
    -------
    Optimum
        Result; not `ok`, with the motor back at its start, if there is no optimum within the range
        or it is not known well enough.

    Raises
    ------
    ConfigError
        If a parameter makes no sense, or a position is beyond the motor's limits; before anything
        moves.
    TypeError
        If a device cannot do its part.
    HardwareError
        If a device fails; the motor is then brought back.
    """
    check_devices("optimize_spectrum", psss=(psss, SCANNED), motor=(motor, MOTOR))
    search = _search(low, high, objective, num, tolerance, max_points)
    pulses = whole("optimize_spectrum", "pulses", pulses, least=2)
    check_limits("optimize_spectrum", motor, low, high)
    device: Any = psss
    figure = f"{device.name}_mean_{OBJECTIVES[objective]}"
    scatter, good = f"{device.name}_{OBJECTIVES[objective]}_scatter", f"{device.name}_n_good"
    seen: list[Measured] = []

    def measure(position: float) -> MsgGenerator[Measured]:
        reading: Reading = yield from take_point(device, motor, position)
        n_good = float(reading[good])
        sigma = float(reading[scatter]) / math.sqrt(n_good) if n_good > 1 else math.nan
        # The scatter of a single good pulse is not known
        value = float(reading[figure]) if n_good > 1 else math.nan
        return Measured(position, value, sigma)

    def body() -> MsgGenerator[tuple[Verdict, Measured]]:
        while not isinstance(step := propose(search, seen), Verdict):
            seen.append((yield from measure(step)))
        nothing = Measured(step.position, math.nan, math.nan)
        found = nothing if step.why else (yield from measure(step.position))
        yield from bps.checkpoint()
        return step, found

    arguments = {
        **{"low": low, "high": high, "objective": objective, "num": num, "pulses": pulses},
        **{"tolerance": search.tolerance, "max_points": max_points},
    }
    _md = start_metadata("optimize_spectrum", {"psss": psss, "motor": motor}, arguments, md)
    over = False

    def whole_plan() -> MsgGenerator[Optimum]:
        nonlocal over
        yield from bps.abs_set(device.pulses_per_point, pulses, wait=True)
        uid, (verdict, found) = yield from recorded(device, body, _md, PULSES)
        over = not verdict.why
        best = (verdict.position, verdict.sigma, found.value, found.sigma)
        return Optimum(not verdict.why, verdict.why, *best, len(seen), str(uid))

    def back_or_stay() -> MsgGenerator[Optimum]:
        before = yield from bps.rd(motor)

        def back() -> MsgGenerator[None]:
            if not over:
                yield from bps.mv(motor, before)

        return (yield from bpp.finalize_wrapper(whole_plan(), back))

    return (yield from with_restored(back_or_stay(), [device.pulses_per_point]))


def _search(
    low: float, high: float, objective: str, num: int, tolerance: float | None, max_points: int
) -> Search:
    plan = "optimize_spectrum"
    low, high = finite(plan, "low", low), finite(plan, "high", high)
    if not low < high:
        raise ConfigError(f"{plan}: low = {low:g}, high = {high:g}, expected low < high")
    if objective not in OBJECTIVES:
        raise ConfigError(f"{plan}: objective = {objective!r}, expected {' or '.join(OBJECTIVES)}")
    num = whole(plan, "num", num, 5, 1000)
    max_points = whole(plan, "max_points", max_points, num, 10_000)
    if tolerance is None:
        tolerance = TOLERANCE_PART * (high - low)
    tolerance = finite(plan, "tolerance", tolerance, 0.0)
    return Search(low, high, num, tolerance, max_points, objective == "intensity")
