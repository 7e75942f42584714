"""Plans that take shots: a number of them, a scan of the delay, the search for time zero."""

import math
from dataclasses import dataclass
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.protocols import Movable, Readable
from bluesky.utils import MsgGenerator

from plans.checks import MOTOR, check_devices, check_limits, finite, flag, whole
from plans.run_stubs import (
    PRIMARY,
    fly,
    start_metadata,
    trigger_and_read,
    until_done,
    user_metadata,
    with_device_errors,
    with_restored,
)
from plans.sacla import stubs
from skywright.errors import ConfigError
from skywright.instruments.sacla.time_zero import POINTS_MIN, TimeZero, fit_time_zero

__all__ = ["DelayScan", "acquire_shots", "delay_scan", "find_time_zero"]

POINTS_MAX = 400


@dataclass(frozen=True, eq=False)
class DelayScan:
    """Points of a delay scan.

    Parameters
    ----------
    uid
        Of the run.
    delay
        (points,) mean delay of the shots of a point, corrected by the timing tool, ps.
    effect, effect_error
        (points,) laser on minus off, divided by the mean without laser of all points, and its
        standard error.
    shots
        (points,) shots in which the region is measured.
    """

    uid: str
    delay: np.ndarray
    effect: np.ndarray
    effect_error: np.ndarray
    shots: np.ndarray


def acquire_shots(
    sacla: Readable, n: int, *, md: dict[str, Any] | None = None
) -> MsgGenerator[str]:
    """Record the next shots, accepted or not, at the rate of the machine.

    The stream ``primary`` has a row for each shot, ``images`` the running images, ``region_sets``
    the regions of interest, ``frames`` those that the IOC keeps.

    Parameters
    ----------
    sacla
        The shot source.
    n
        Number of shots.
    md
        Metadata for the start document.

    Returns
    -------
    str
        The uid of the run.

    Raises
    ------
    ConfigError
        If `n` is no number of shots; before anything starts.
    TypeError
        If the device cannot do its part.
    HardwareError
        If no shot comes for `sacla.silence_limit`, or the IOC goes.
    """
    check_devices("acquire_shots", sacla=(sacla, stubs.FLYING))
    wanted = whole("acquire_shots", "n", n)
    device: Any = sacla
    start = start_metadata("acquire_shots", {"sacla": device}, {"n": wanted}, md)

    def body() -> MsgGenerator[None]:
        yield from fly(device.rows, stubs.streams_of(device, PRIMARY), wanted)

    yield from bps.prepare(device.rows, wanted, wait=True)
    uid, _ = yield from stubs.recorded(device, body, start, PRIMARY)
    return str(uid)


def delay_scan(
    sacla: Readable,
    motor: Movable,
    start: float,
    stop: float,
    num: int,
    *,
    shots: int = 100,
    error: float = 0.0,
    is_delay_stage: bool = True,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[DelayScan]:
    """Scan a motor; measure the region's signal with the laser on minus off at each position.

    A point ends when the standard error of the difference is small enough, or when the region is
    measured in `shots` shots. Every shot of the scan is recorded; the live analysis `sacla_curves`
    bins them by their own delay.

    Parameters
    ----------
    sacla
        The shot source.
    motor
        The delay stage, ps, or another motor.
    start, stop, num
        First and last position, number of positions.
    shots
        Most shots of a point in which the region is measured.
    error
        Standard error at which a point ends, as a part of the mean without laser; 0: `shots` are
        taken.
    is_delay_stage
        The motor is the delay stage: each point is a bin of the curves, and shots whose stage
        was elsewhere do not count in a point.
    md
        Metadata for the start document.

    Returns
    -------
    DelayScan

    Raises
    ------
    ConfigError
        If a parameter makes no sense, or a position is beyond the motor's limits; before anything
        moves.
    TypeError
        If a device cannot do its part.
    HardwareError
        If no shot comes, a motor fails, or the IOC goes.
    """
    check_devices("delay_scan", sacla=(sacla, stubs.SCANNED), motor=(motor, MOTOR))
    first, last = finite("delay_scan", "start", start), finite("delay_scan", "stop", stop)
    count = whole("delay_scan", "num", num, 2, POINTS_MAX)
    shots = whole("delay_scan", "shots", shots)
    error = finite("delay_scan", "error", error, 0.0, inclusive=True)
    if first == last:
        raise ConfigError(f"delay_scan: start and stop are both {first:g}, expected a range")
    is_delay_stage = flag("delay_scan", "is_delay_stage", is_delay_stage)
    check_limits("delay_scan", motor, first, last)
    device: Any = sacla
    arguments = {"start": first, "stop": last, "num": count, "shots": shots, "error": error}
    _md = start_metadata("delay_scan", {"sacla": device, "motor": motor}, arguments, md)
    positions = np.linspace(first, last, count)
    step = abs(last - first) / (count - 1)
    low, high = min(first, last) - step / 2, max(first, last) + step / 2
    points: list[dict[str, float]] = []

    def body() -> MsgGenerator[None]:
        yield from bps.mv(device.shots_per_point, shots, device.wanted_error, error)
        for position in positions.tolist():
            yield from bps.checkpoint()
            yield from bps.mv(motor, position)
            yield from bps.mv(device.wanted_stage_delay, position if is_delay_stage else math.inf)
            reading = yield from trigger_and_read([device, motor], f"{device.name}_n_on")
            points.append(_values(device.name, reading))
            yield from stubs.collect(device, stubs.SHOTS)
        yield from until_done(device.close_files())
        yield from stubs.collect(device, stubs.SHOTS)

    def scan() -> MsgGenerator[Any]:
        if is_delay_stage:
            yield from bps.mv(device.bins, f"{low:.9g}:{high:.9g}:{count}")
            yield from bps.mv(device.binned_by, "delay")
        return (yield from stubs.recorded(device, body, _md, stubs.SHOTS))

    def take_any_delay() -> MsgGenerator[None]:
        yield from bps.mv(device.wanted_stage_delay, math.inf)

    plan = bpp.finalize_wrapper(scan(), take_any_delay)
    changed = [device.wanted_error, device.shots_per_point]
    if is_delay_stage:  # each put to the bins begins the curves anew
        changed = [device.binned_by, device.bins, *changed]
    uid, _ = yield from with_device_errors(with_restored(plan, changed))
    return _summary(str(uid), points)


def find_time_zero(
    sacla: Readable,
    motor: Movable,
    start: float,
    stop: float,
    num: int,
    *,
    shots: int = 100,
    error: float = 0.0,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[TimeZero]:
    """Scan the delay stage and fit where the effect of the laser begins.

    Parameters
    ----------
    sacla, motor, start, stop, num, shots, error, md
        As for `delay_scan`; `motor` is the delay stage, and `num` is at least 5.

    Returns
    -------
    TimeZero
        With its standard error; nothing is moved there.

    Raises
    ------
    ConfigError, TypeError, HardwareError
        As `delay_scan`.
    DataError
        If the points show no step.
    """
    count = whole("find_time_zero", "num", num, POINTS_MIN, POINTS_MAX)
    scan = yield from delay_scan(
        sacla,
        motor,
        start,
        stop,
        count,
        shots=shots,
        error=error,
        md={"plan_name": "find_time_zero", **user_metadata("find_time_zero", md)},
    )
    return fit_time_zero(scan.uid, scan.delay, scan.effect, scan.effect_error)


_KEYS = ("mean_delay", "diff", "diff_error", "mean_off", "n_on", "n_off")


def _values(name: str, reading: Any) -> dict[str, float]:
    return {key: float(reading[f"{name}_{key}"]["value"]) for key in _KEYS}


def _summary(uid: str, points: list[dict[str, float]]) -> DelayScan:
    columns = {key: np.array([point[key] for point in points]) for key in _KEYS}
    count = columns["n_on"] + columns["n_off"]
    known = columns["n_off"] > 0  # the mean of no shot is NaN
    weights, means = columns["n_off"][known], columns["mean_off"][known]
    off = float(np.average(means, weights=weights)) if known.any() else math.nan
    off = off or math.nan  # a part of nothing is not known
    return DelayScan(
        uid, columns["mean_delay"], columns["diff"] / off, columns["diff_error"] / abs(off), count
    )
