"""A simulated goniometer: spindle and three stages that move in real time, and their faults.

Everything is a pure function of the time it is asked for (unix s); nothing runs here. The motion
is kept as the commands that were given, so that whoever has them (the camera's simulator) knows
where the sample is at any time, exactly. Positions are dial positions: phi in deg, stages in mm.

Not thread-safe: one event loop owns it.
"""

import math
from dataclasses import dataclass

import numpy as np

from skywright.acquire.simulated_axis import MotorsClock, SimulatedAxis
from skywright.acquire.trajectory import Axis
from skywright.errors import HardwareError
from skywright.instruments.loop.sample_motion import PHI, STAGES, Carriage, Floats, SampleMotion
from skywright.instruments.loop.sweep import Sweep

MARGIN_S = 0.05
"""Time at constant speed between the run-up and the opening of the window, and after it."""
TRACE_HZ, TRACE_ROWS = 100.0, 20_000


@dataclass(frozen=True)
class Oscillation:
    """An oscillation as the controller makes it; times in unix s, angles are dial positions.

    The spindle moves from `motor_start` to `motor_end`; the window of the trigger is open from
    `window_start`, at `start_deg`, to `window_end`, at `end_deg`.
    """

    motor_start: float
    window_start: float
    window_end: float
    motor_end: float
    start_deg: float
    end_deg: float
    rest_time: float
    """All is over, the way back to `end_deg` included."""
    path: Axis
    """The motion of the spindle as it was when the sweep was commanded."""

    def kept_by(self, axis: SimulatedAxis, time: float) -> bool:
        """Tell whether nothing has disturbed the spindle up to a time: no stop, fault or switch."""
        cut = axis.path.rest_time < self.rest_time - 1e-6 and time >= axis.path.rest_time
        return axis.path == self.path and not axis.stuck and not cut

    def trace_times(self, until: float = math.inf) -> Floats:
        """Return the times, unix s, of the trace up to a time: even steps and the window's ends."""
        end = min(self.motor_end, until)
        if end <= self.motor_start:
            return np.empty(0)
        rows = int(np.ceil((self.motor_end - self.motor_start) * TRACE_HZ)) + 1
        grid = np.linspace(self.motor_start, self.motor_end, min(rows, TRACE_ROWS - 3))
        marks = (self.window_start, self.window_end, end)
        return np.unique(np.concatenate([grid[grid <= end], [m for m in marks if m <= end]]))


def start_oscillation(
    axis: SimulatedAxis,
    time: float,
    sweep: Sweep,
    *,
    velocity: float,
    most: float,
    acceleration: float,
    within: tuple[float, float] = (0.0, 0.0),
) -> Oscillation:
    """Let a spindle, which must be at rest, make a sweep in dial angles from now, unix s, on.

    Parameters
    ----------
    velocity, most, acceleration
        Speed of the ways to and fro and largest speed, deg/s; deg/s^2.
    within
        Soft limits, deg; equal ones are none.

    Raises
    ------
    HardwareError
        If the spindle moves, cannot turn so fast, or would leave its limits.
    """
    if axis.moving(time):
        raise HardwareError("oscillation: the spindle is moving; wait, or stop it")
    here = axis.position(time)
    start = here if sweep.start_deg is None else sweep.start_deg
    end = start + sweep.delta_deg
    rate = abs(sweep.rate_deg_s) if sweep.run_up else _inside_rate(sweep, acceleration)
    if rate > most * (1 + 1e-9):
        raise HardwareError(
            f"oscillation: {abs(sweep.delta_deg):g} deg in {sweep.time_s:g} s needs {rate:g} deg/s,"
            f" the spindle makes {most:g}; take more time"
        )
    ramp = rate / acceleration
    before = ramp + MARGIN_S if sweep.run_up else 0.0
    lead = math.copysign(rate * (0.5 * ramp + MARGIN_S) if sweep.run_up else 0.0, sweep.delta_deg)
    for angle in (start - lead, end + lead):
        if within[0] != within[1] and not within[0] <= angle <= within[1]:
            raise HardwareError(
                f"oscillation: reaches {angle:g} deg, run-up included; the limits of the spindle "
                f"are {within[0]:g}..{within[1]:g} deg"
            )
    moves = [(end + lead, rate, acceleration)]
    if start - lead != here:
        moves.insert(0, (start - lead, velocity, acceleration))
    if lead:
        moves.append((end, velocity, acceleration))
    made = axis.run(time, moves)
    turn = made[-2] if lead else made[-1]
    # A motor that is slow takes its time, and the window with it stays where the angles are.
    stretch = 1.0 / axis.slow
    opened = turn.start_time + before * stretch
    return Oscillation(
        motor_start=turn.start_time,
        window_start=opened,
        window_end=opened + sweep.time_s * stretch,
        motor_end=turn.end_time,
        start_deg=start,
        end_deg=end,
        rest_time=made[-1].end_time,
        path=axis.path,
    )


def _inside_rate(sweep: Sweep, acceleration: float) -> float:
    """Return the speed of a trapezoid that takes exactly the time, ramps included."""
    way, time = abs(sweep.delta_deg), sweep.time_s
    root = time * time - 4.0 * way / acceleration
    if root < 0.0:
        raise HardwareError(
            f"oscillation: {way:g} deg in {time:g} s, ramps inside, needs more than "
            f"{acceleration:g} deg/s^2; take at least {2.0 * math.sqrt(way / acceleration):.3g} s"
        )
    return acceleration * (time - math.sqrt(root)) / 2.0


class Goniometer:
    """Spindle and stages together: the owner that the IOC is a face of.

    Parameters
    ----------
    carriage, clock
        How the motors carry the sample; the clock is the controller's.
    switch_mm
        Distance of the stages' limit switches from 0.
    """

    def __init__(self, carriage: Carriage, clock: MotorsClock, switch_mm: float = 3.0) -> None:
        self.carriage = carriage
        self.clock = clock
        self.axes = {PHI: SimulatedAxis()}
        self.axes |= {name: SimulatedAxis(0.0, -switch_mm, switch_mm) for name in STAGES}
        self.oscillation: Oscillation | None = None

    def motion(self, now: float) -> SampleMotion:
        """Return where the sample is at any time, as commanded until now, unix s."""
        x, y, z = (self.axes[name].path for name in STAGES)
        return SampleMotion(self.axes[PHI].path, (x, y, z), self.carriage, now)

    def trace(self, until: float) -> tuple[Floats, Floats]:
        """Return the trace of the last oscillation up to a time: stamps and angles, (n,) float64.

        Stamps are unix s of the controller's clock, angles dial deg.
        """
        if self.oscillation is None:
            return np.empty(0), np.empty(0)
        times = self.oscillation.trace_times(until)
        stamps = np.array([self.clock.stamp(t) for t in times])
        return stamps, self.axes[PHI].path.position_at(times)
