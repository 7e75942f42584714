"""A simulated goniometer: spindle and three stages that move in real time, and their faults.

Everything is a pure function of the time it is asked for (unix s); nothing runs here. The motion
is kept as the commands that were given, so that whoever has them (the camera's simulator) knows
where the sample is at any time, exactly. Positions are dial positions: phi in deg, stages in mm.

Not thread-safe: one event loop owns it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from skywright.errors import HardwareError
from skywright.loop.sample_motion import PHI, STAGES, Carriage, SampleMotion
from skywright.loop.sweep import Sweep
from skywright.loop.twin.trajectory import Axis, Move, Stop

Floats = NDArray[np.float64]
KEEP_S = 30.0
"""Motion older than this is forgotten: no picture is that late."""
MARGIN_S = 0.05
"""Time at constant speed between the run-up and the opening of the window, and after it."""
PAUSE_S = 0.02
"""Rest of the controller between two moves of an oscillation."""
SWITCH_WIDTH = 1e-4
"""Within which a switch is on; a float64 of unix seconds is no finer than that at full speed."""
TRACE_HZ, TRACE_ROWS = 100.0, 20_000


class SimulatedAxis:
    """One motor: where it is at any time, and what is wrong with it.

    Parameters
    ----------
    position
        Where it stands at first.
    low_switch, high_switch
        Positions of its limit switches; infinite where there are none.

    Attributes
    ----------
    path
        Its motion as a function of time.
    slow
        Factor on speeds that are asked for; 1 is a healthy motor.
    stuck
        Whether it stands although it is told to move; see `set_stuck`.
    """

    def __init__(
        self, position: float = 0.0, low_switch: float = -math.inf, high_switch: float = math.inf
    ) -> None:
        self.path = Axis(position)
        self.slow = 1.0
        self.low_switch, self.high_switch = low_switch, high_switch
        self.stuck = False
        self._wanted: tuple[Move, ...] = ()

    def position(self, time: float) -> float:
        """Return the position."""
        return float(self.path.position_at(time))

    def moving(self, time: float) -> bool:
        """Tell whether a command is under way; a stuck motor tries for ever."""
        return bool(self._wanted) if self.stuck else time < self.path.rest_time

    @property
    def rest_time(self) -> float:
        """When what is under way ends; infinity for a stuck motor."""
        return math.inf if self.stuck and self._wanted else self.path.rest_time

    def move_to(self, time: float, target: float, velocity: float, acceleration: float) -> None:
        """Go to a position; what is under way is stopped first."""
        self.run(time, [(target, velocity, acceleration)])

    def run(self, time: float, moves: Sequence[tuple[float, float, float]]) -> tuple[Move, ...]:
        """Make moves one after the other, with a short rest between them.

        Parameters
        ----------
        time
            Now.
        moves
            Target, velocity and acceleration of each.

        Returns
        -------
        tuple of Move
            As they will be made.
        """
        slow = self.slow
        path, start = _without_past(self.path, time - KEEP_S), time
        made: list[Move] = []
        for target, velocity, acceleration in moves:
            path = path.move_to(target, velocity * slow, acceleration * slow * slow, start)
            move = path.commands[-1]
            assert isinstance(move, Move)
            made.append(move)
            start = path.rest_time + PAUSE_S
        self._wanted = tuple(made)
        if not self.stuck:
            self._follow(path, time)
        return tuple(made)

    def stop(self, time: float, acceleration: float = math.inf) -> None:
        """Slow down and stay; moves that were to follow are dropped."""
        self._wanted = ()
        if time < self.path.rest_time:
            path = Axis(self.path.initial, (*self.path.commands, Stop(time, acceleration)))
            self._follow(path, time)

    def set_stuck(self, time: float, stuck: bool) -> None:
        """Block the motor where it is, or let it go on to where it was to go."""
        if stuck == self.stuck:
            return
        wanted = self._wanted if time < self.rest_time else ()
        self.stuck = stuck
        if stuck and time < self.path.rest_time:
            self.path = Axis(self.path.initial, (*self.path.commands, Stop(time)))
        self._wanted = wanted
        if not stuck and wanted:
            self.run(time, [(m.target, m.velocity, m.acceleration) for m in wanted])

    def set_switches(self, time: float, low: float, high: float) -> None:
        """Place the limit switches; motion towards one ends there."""
        self.low_switch, self.high_switch = low, high
        self._follow(self.path, time)

    def at_switches(self, time: float) -> tuple[bool, bool]:
        """Tell whether the motor stands on the low and on the high switch."""
        position = self.position(time)
        return (
            position <= self.low_switch + SWITCH_WIDTH,
            position >= self.high_switch - SWITCH_WIDTH,
        )

    def _follow(self, path: Axis, time: float) -> None:
        """Take a path, cut where it runs past a switch."""
        crossing = _first_crossing(path, time, self.low_switch, self.high_switch)
        if crossing is not None:
            path = Axis(path.initial, (*path.commands, Stop(crossing)))
            self._wanted = ()
        self.path = path


def _without_past(path: Axis, time: float) -> Axis:
    """Return the path without the commands whose motion had ended at a time."""
    for count in range(len(path.commands), 0, -1):
        head = Axis(path.initial, path.commands[:count])
        following = path.commands[count : count + 1]
        if head.rest_time < time and all(_begin(c) >= head.rest_time for c in following):
            return Axis(float(head.position_at(head.rest_time)), path.commands[count:])
    return path


def _begin(command: Move | Stop) -> float:
    return command.start_time if isinstance(command, Move) else command.time


def _first_crossing(path: Axis, time: float, low: float, high: float) -> float | None:
    """Return when the path leaves low..high, from where it is at `time`; None if it never does."""
    end = path.rest_time
    if not time < end:
        return None
    here = float(path.position_at(time))
    low, high = min(low, here), max(high, here)
    times = np.linspace(time, end, 4097)
    positions = path.position_at(times)
    outside = np.flatnonzero((positions > high + 1e-9) | (positions < low - 1e-9))
    if not outside.size:
        return None
    after = int(outside[0])
    limit, sense = (high, 1.0) if positions[after] > high else (low, -1.0)

    def beyond(when: float) -> float:
        return sense * (float(path.position_at(when)) - limit)

    if beyond(times[after - 1]) >= 0.0:  # it stands on the switch
        return float(times[after - 1])
    return float(brentq(beyond, times[after - 1], times[after]))


@dataclass(frozen=True)
class MotorsClock:
    """How the motors' controller stamps: its clock is not that of the camera.

    Parameters
    ----------
    offset_s, drift : float
        Stamp = true + offset + drift * (true - epoch).
    epoch : float
        Unix s.
    """

    offset_s: float = 0.0
    drift: float = 0.0
    epoch: float = 0.0

    def stamp(self, time: float) -> float:
        """Return what this clock shows at a true time, both unix s."""
        return time + self.offset_s + self.drift * (time - self.epoch)


@dataclass(frozen=True)
class Oscillation:
    """An oscillation as the controller makes it; times in unix s, angles are dial positions.

    Attributes
    ----------
    motor_start, motor_end : the sweep begins to move, rests.
    window_start, window_end : the window of the trigger.
    start_deg, end_deg : angles at those.
    path : the motion of the spindle as it was when the sweep was told.
    rest_time : all is over, the way back to `end_deg` included.
    """

    motor_start: float
    window_start: float
    window_end: float
    motor_end: float
    start_deg: float
    end_deg: float
    rest_time: float
    path: Axis

    def kept_by(self, axis: SimulatedAxis, time: float) -> bool:
        """Tell whether nothing has disturbed the spindle up to a time: no stop, fault or switch."""
        cut = axis.path.rest_time < self.rest_time - 1e-6 and time >= axis.path.rest_time
        return axis.path is self.path and not axis.stuck and not cut

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
    """Let a spindle make a sweep.

    Parameters
    ----------
    axis
        The spindle; it must be at rest.
    time
        Now, unix s.
    sweep
        What is asked for, in dial angles.
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
    carriage
        How the motors carry the sample.
    clock
        The controller's.
    switch_mm
        Distance of the stages' limit switches from 0.
    """

    def __init__(
        self,
        carriage: Carriage | None = None,
        clock: MotorsClock | None = None,
        switch_mm: float = 3.0,
    ) -> None:
        self.carriage = carriage or Carriage()
        self.clock = clock or MotorsClock()
        self.axes = {PHI: SimulatedAxis()}
        self.axes |= {name: SimulatedAxis(0.0, -switch_mm, switch_mm) for name in STAGES}
        self.oscillation: Oscillation | None = None

    def motion(self, now: float) -> SampleMotion:
        """Return where the sample is at any time, as commanded until now, unix s."""
        stages = tuple(self.axes[name].path for name in STAGES)
        return SampleMotion(self.axes[PHI].path, stages, self.carriage, now)

    def trace(self, until: float) -> tuple[Floats, Floats]:
        """Return the trace of the last oscillation up to a time.

        Returns
        -------
        stamps : (n,) float64, unix s of the controller's clock
        angles : (n,) float64, dial deg
        """
        if self.oscillation is None:
            return np.empty(0), np.empty(0)
        times = self.oscillation.trace_times(until)
        stamps = np.array([self.clock.stamp(t) for t in times])
        return stamps, self.axes[PHI].path.position_at(times)
