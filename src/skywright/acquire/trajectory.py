"""Motion of an axis as a pure function of time: trapezoidal moves and stops.

Times are unix s, positions in the unit of the axis. Simulators exchange the commands (start,
target, velocity, acceleration, start time; stops), never sampled read-backs, and so agree exactly
on the position.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skywright.errors import ConfigError


@dataclass(frozen=True)
class Move:
    """One move with a trapezoidal (or, when short, triangular) profile of velocity.

    Parameters
    ----------
    start, target : float
    velocity : float
        Largest speed, > 0.
    acceleration : float
        > 0; infinity jumps to full speed.
    start_time : float, s

    Raises
    ------
    ConfigError
        If velocity or acceleration is not positive, both are infinite, or start, target or start
        time is not finite.
    """

    start: float
    target: float
    velocity: float
    acceleration: float = math.inf
    start_time: float = 0.0

    def __post_init__(self) -> None:
        if not (self.velocity > 0.0 and self.acceleration > 0.0):
            raise ConfigError(
                f"Move: velocity {self.velocity} and acceleration {self.acceleration} must be > 0"
            )
        if math.isinf(self.velocity) and math.isinf(self.acceleration):
            raise ConfigError("Move: velocity and acceleration must not both be infinite")
        if not all(math.isfinite(v) for v in (self.start, self.target, self.start_time)):
            raise ConfigError(f"Move: start, target and start time must be finite, got {self}")

    @property
    def peak_velocity(self) -> float:
        """Largest speed that is reached, without sign."""
        way = abs(self.target - self.start)
        return min(self.velocity, math.sqrt(self.acceleration * way)) if way else 0.0

    @property
    def ramp_s(self) -> float:
        """Time of the acceleration, and of the deceleration."""
        return self.peak_velocity / self.acceleration

    @property
    def duration_s(self) -> float:
        """Time from start to rest."""
        peak = self.peak_velocity
        return abs(self.target - self.start) / peak + self.ramp_s if peak else 0.0

    @property
    def end_time(self) -> float:
        """Time at which the target is reached."""
        return self.start_time + self.duration_s

    def phases(self) -> list["MotionPhase"]:
        """Return the phases of constant acceleration, the rest at the target last."""
        sign = math.copysign(1.0, self.target - self.start)
        peak, ramp = self.peak_velocity, self.ramp_s
        at_end = MotionPhase(self.end_time, self.target, 0.0, 0.0)
        if peak == 0.0:
            return [at_end]
        cruise = self.duration_s - 2.0 * ramp
        rate = sign * self.acceleration if ramp else 0.0
        rise = 0.5 * peak * ramp * sign
        phases = [
            MotionPhase(self.start_time, self.start, 0.0, rate),
            MotionPhase(self.start_time + ramp, self.start + rise, sign * peak, 0.0),
            MotionPhase(self.start_time + ramp + cruise, self.target - rise, sign * peak, -rate),
        ]
        return [*(phases if ramp else phases[1:2]), at_end]  # without a ramp it only cruises


@dataclass(frozen=True)
class Stop:
    """A stop: from its velocity at `start_time` the axis slows down with `acceleration`."""

    start_time: float
    acceleration: float = math.inf


@dataclass(frozen=True)
class MotionPhase:
    """A phase of constant acceleration from a time on."""

    time: float
    position: float
    velocity: float
    acceleration: float


@dataclass(frozen=True)
class Axis:
    """The position of an axis as a pure function of time, from its commands.

    Parameters
    ----------
    initial : float
        Position before the first command.
    commands : tuple of Move and Stop
        In the order given; a `Stop` may be earlier than the moves before it. From its time on, a
        command cuts off what is left of those before it. A `Move` begins at its own `start`.
    """

    initial: float = 0.0
    commands: tuple[Move | Stop, ...] = ()

    @cached_property
    def _phases(self) -> tuple[MotionPhase, ...]:
        phases = [MotionPhase(-math.inf, self.initial, 0.0, 0.0)]
        for command in self.commands:
            time = command.start_time
            position, velocity = _state(phases, time)
            phases = [s for s in phases if s.time < time]
            if isinstance(command, Move):
                phases += command.phases()
            else:
                phases += _braking(time, position, velocity, command.acceleration)
        return tuple(phases)

    @cached_property
    def _table(self) -> NDArray[np.float64]:
        rows = [(s.time, s.position, s.velocity, s.acceleration) for s in self._phases]
        return np.array(rows)

    def _phase(self, time_s: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        table = self._table
        rows = table[np.maximum(np.searchsorted(table[:, 0], time_s, side="right") - 1, 0)]
        since = np.where(np.isfinite(rows[..., 0]), time_s - rows[..., 0], 0.0)
        return since, rows[..., 1], rows[..., 2], rows[..., 3]

    def position_at(self, time_s: ArrayLike) -> NDArray[np.float64]:
        """Return the exact position at times of any shape."""
        t, p, v, a = self._phase(np.asarray(time_s, float))
        return p + v * t + 0.5 * a * t * t

    def velocity_at(self, time_s: ArrayLike) -> NDArray[np.float64]:
        """Return the exact signed velocity at times of any shape."""
        t, _, v, a = self._phase(np.asarray(time_s, float))
        return v + a * t

    def moving_at(self, time_s: float) -> bool:
        """Return whether the axis moves: in a move, or while a stop slows it down."""
        return time_s < self.rest_time and bool(
            self.velocity_at(time_s) != 0.0 or self._phase(np.asarray(time_s))[3] != 0.0
        )

    @property
    def rest_time(self) -> float:
        """Time from which on the axis rests, minus infinity before any command."""
        return self._phases[-1].time

    def move_to(
        self, target: float, velocity: float, acceleration: float, start_time: float
    ) -> "Axis":
        """Return the axis with one more move from where it is; if it moves, it stops first."""
        axis = self
        if self.moving_at(start_time):
            axis = self.stop(start_time, acceleration)
            start_time = axis.rest_time
        start = float(axis.position_at(start_time))
        move = Move(start, target, velocity, acceleration, start_time)
        return Axis(axis.initial, (*axis.commands, move))

    def stop(self, time_s: float, acceleration: float = math.inf) -> "Axis":
        """Return the axis with a stop that begins at `time_s`; itself if it rests by then."""
        if time_s >= self.rest_time:
            return self
        return Axis(self.initial, (*self.commands, Stop(time_s, acceleration)))


def _state(phases: list[MotionPhase], time: float) -> tuple[float, float]:
    s = next(s for s in reversed(phases) if s.time <= time)
    if not math.isfinite(s.time):
        return s.position, 0.0
    t = time - s.time
    return s.position + s.velocity * t + 0.5 * s.acceleration * t * t, s.velocity + (
        s.acceleration * t
    )


def _braking(
    time: float, position: float, velocity: float, deceleration: float
) -> list[MotionPhase]:
    if velocity == 0.0 or math.isinf(deceleration):
        return [MotionPhase(time, position, 0.0, 0.0)]
    ramp = abs(velocity) / deceleration
    distance = 0.5 * velocity * ramp
    return [
        MotionPhase(time, position, velocity, -math.copysign(deceleration, velocity)),
        MotionPhase(time + ramp, position + distance, 0.0, 0.0),
    ]
