"""A simulated motor that moves in real time, with its faults and its controller's clock.

Positions, in the unit of the axis, are pure functions of the time that is asked for (unix s); no
thread runs here. The motion is kept as the commands that were given, so another simulator that has
the commands knows exactly where the motor is at any time. Not thread-safe.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from skywright.acquire.trajectory import Axis, Move

KEEP_S = 30.0
"""Motion older than this is forgotten: nobody asks for a position that long ago."""
PAUSE_S = 0.02
"""Rest of the controller between two moves that were commanded together."""
Request = tuple[float, float, float]
"""Target, velocity and acceleration of a move, as they were asked for."""
SWITCH_WIDTH = 1e-4
"""Width of a limit switch, in the unit of the axis; at full speed, a float64 of unix seconds gives
no finer position."""


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
        self._wanted: tuple[tuple[Move, Request], ...] = ()
        """The last moves: each as it is to be made, and as it was asked for."""
        self._uncut = self.path
        """Its motion without limit switches."""

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

    def run(self, time: float, moves: Sequence[Request]) -> tuple[Move, ...]:
        """Make moves one after the other, with a short rest between them.

        Parameters
        ----------
        time
            Now.
        moves
            A request for each move, in order.

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
        self._wanted = tuple(zip(made, moves, strict=True))
        if not self.stuck:
            self._take_path(path, time)
        return tuple(made)

    def stop(self, time: float, acceleration: float = math.inf) -> None:
        """Slow down and stay; moves that were to follow are dropped."""
        self._wanted = ()
        self._take_path(self.path.stop(time, acceleration), time)

    def set_stuck(self, time: float, stuck: bool) -> None:
        """Block the motor where it is, or free it to continue to its target."""
        if stuck == self.stuck:
            return
        self.stuck = stuck
        if stuck:
            ended = time if time < self.path.rest_time else math.inf  # by a switch, or by itself
            self._wanted = tuple(each for each in self._wanted if ended < each[0].end_time)
            self._take_path(self.path.stop(time), time)
        elif self._wanted:
            self.run(time, [request for _, request in self._wanted])

    def set_switches(self, time: float, low: float, high: float) -> None:
        """Place the limit switches; motion ends at one, and no longer where there is none now."""
        self.low_switch, self.high_switch = low, high
        self._take_path(self._uncut if time < self.path.rest_time else self.path, time)

    def at_switches(self, time: float) -> tuple[bool, bool]:
        """Tell whether the motor stands on the low and on the high switch."""
        position = self.position(time)
        return (
            position <= self.low_switch + SWITCH_WIDTH,
            position >= self.high_switch - SWITCH_WIDTH,
        )

    def _take_path(self, path: Axis, time: float) -> None:
        """Take a path, cut where it runs past a switch."""
        crossing = _first_crossing(path, time, self.low_switch, self.high_switch)
        self._uncut = path
        self.path = path if crossing is None else path.stop(crossing)


def _without_past(path: Axis, time: float) -> Axis:
    """Return the path without the commands whose motion had ended at a time."""
    for count in range(len(path.commands), 0, -1):
        head = Axis(path.initial, path.commands[:count])
        following = path.commands[count : count + 1]
        if head.rest_time < time and all(c.start_time >= head.rest_time for c in following):
            return Axis(float(head.position_at(head.rest_time)), path.commands[count:])
    return path


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
    """The clock of the motors' controller, which differs from that of the camera.

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
