"""Motors that never leave a plan waiting: each move ends, and says why when it fails."""

import contextlib
import functools
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

from ophyd import Component, EpicsMotor, EpicsSignal, EpicsSignalRO, Kind
from ophyd.status import MoveStatus, StatusBase
from ophyd.utils.epics_pvs import AlarmSeverity, AlarmStatus
from ophyd.utils.errors import DisconnectedError, LimitError

from devices.guarded import IOC_LOST, ReasonStatusMixin, ioc_errors
from skywright.errors import HardwareError
from skywright.waiting import pause

STALL_S = 3.0
"""A motor that moves shows another position at least this often."""
WATCH_S = 0.1
PAUSE = 1
"""Value of SPMG."""
TOLERANCE = 0.01
"""A motor is at its target if it is this near, in its unit; more if RDBD is more."""
SLOWNESS, MARGIN_S = 3.0, 10.0
ANSWER_S = 1.0
"""Longest time that an IOC takes to answer whether a motor that is given up moves, s."""
STOP_S = 10.0
"""Longest time that a motor that was stopped is waited for before it is moved again, s."""


class MotionLimitError(HardwareError, LimitError):
    """A position beyond the limits was asked for; nothing has moved."""


class MotionStatus(ReasonStatusMixin, MoveStatus):
    """The status of one motor's move; when it failed it shows why, also in the stop document.

    Attributes
    ----------
    stopped_well
        Whether the move was stopped by `Motor.stop` with `success`. The status then ends without
        an error when the motor rests, wherever that is.
    """

    stopped_well = False

    def await_rest(self) -> None:
        """Wait for the end of the move if it was stopped with `success`, at most `STOP_S`."""
        if self.stopped_well:
            with contextlib.suppress(Exception):  # its status reports it
                self.wait(STOP_S)

    def _settled(self) -> None:
        with contextlib.suppress(DisconnectedError):  # ophyd asks for the final position
            super()._settled()


class Setpoint(EpicsSignal):
    """VAL of a motor record, its limits those of LLM and HLM as they are now.

    ophyd takes them from what came with a value of VAL, and an older value may come later: a limit
    that had been moved and brought back stayed where it had been.
    """

    @property
    def limits(self) -> tuple[float, float]:
        """LLM and HLM."""
        motor = self.parent
        return float(motor.low_limit_travel.get()), float(motor.high_limit_travel.get())


class Motor(EpicsMotor):
    """A motor record whose moves end within seconds when IOC or motor do not do their part.

    `set` and `move` fail with `HardwareError` when the IOC is lost, when the position does not
    change for `stall_s`, when a limit switch, an alarm or a stop ends the move, when it ends
    elsewhere, when another move replaces it, or after three times the time that velocity and
    acceleration allow for, plus 10 s. A move that is paused (SPMG) may go on within that time.
    A stop with `success`, as of a plan that pauses, is no failure: the plan makes the move again.

    Attributes
    ----------
    stall_s
        Longest time without a change of position, s; larger for motors that post it rarely.
    tolerance
        Largest distance from the target at the end of a move, if the record's RDBD is less.
    tolerated_alarm
        Highest severity of an alarm with which a move may end, as of `EpicsMotor`; none.
    """

    user_setpoint = Component(Setpoint, ".VAL", limits=True, auto_monitor=True)
    mode = Component(EpicsSignalRO, ".SPMG", kind=Kind.omitted, auto_monitor=True)
    deadband = Component(EpicsSignalRO, ".RDBD", kind=Kind.omitted)
    stall_s = STALL_S
    tolerance = TOLERANCE
    _stopped = False
    _newest_move: MotionStatus | None = None

    def read(self) -> dict[str, Any]:
        """Read the position.

        Raises
        ------
        HardwareError
            If the IOC is lost.
        """
        with ioc_errors(self):
            reading: dict[str, Any] = super().read()
            return reading

    def check_value(self, pos: float) -> None:
        """Raise `MotionLimitError` if a position is none, or beyond the soft limits."""
        if not isinstance(pos, Real) or not math.isfinite(pos):
            raise MotionLimitError(f"{self.name}: {pos!r}, expected a finite position")
        try:
            super().check_value(pos)
        except LimitError as error:
            low, high = self.limits
            raise MotionLimitError(
                f"{self.name}: {pos:g} {self.egu} is beyond its limits {low:g}..{high:g}"
            ) from error

    def move(
        self,
        position: float,
        wait: bool = True,
        moved_cb: Callable[..., None] | None = None,
        timeout: float | None = None,
    ) -> MotionStatus:
        """Move to a position.

        Parameters
        ----------
        position
            User position.
        wait
            Return when it is there.
        moved_cb
            Called with the status when the move has ended.
        timeout
            Limit in s instead of the one that follows from velocity and distance.

        Raises
        ------
        HardwareError
            If the IOC does not answer, the motor does not know where it is, or `wait` and the move
            fails.
        MotionLimitError
            If the position is beyond the soft limits.
        """
        self.check_connected()
        self.check_value(position)
        self.check_position_known()
        if self._newest_move is not None:  # at the end of a stop the record sets VAL
            self._newest_move.await_rest()
        limit = timeout or self.time_limit(position)
        # As ophyd's positioners do: whoever waits for an earlier move is told that it is over.
        self._run_subs(sub_type=self._SUB_REQ_DONE, success=False)
        self._reset_sub(self._SUB_REQ_DONE)
        ended = threading.Event()
        self.subscribe(lambda **_: ended.set(), event_type=self._SUB_REQ_DONE, run=False)
        self._newest_move = status = MotionStatus(self, position)
        self._stopped = self._started_moving = False
        self.user_setpoint.put(position, wait=False)
        if moved_cb is not None:
            status.add_callback(functools.partial(moved_cb, obj=self))

        def has_ended(timeout: float) -> bool:
            # The event can be set by the end of a motion before this one
            return self._newest_move is not status or (
                ended.wait(timeout) and self._at_rest(position, timeout)
            )

        def watch() -> None:
            try:
                with ioc_errors(self):
                    self.await_motion(has_ended, limit, f"on its way to {position:g}")
                    if status.stopped_well:
                        self.check_connected()
                    elif (newest := self._newest_move) is not status and newest is not None:
                        raise HardwareError(
                            f"{self.name}: the move to {position:g} was replaced by one to "
                            f"{newest.target:g}"
                        )
                    else:
                        self._check_arrival(position)
            except HardwareError as error:
                status.set_exception(error)
            except Exception as error:  # a status that never ends would hold the plan
                status.set_exception(HardwareError(f"{self.name}: {error}"))
            else:
                status.set_finished()

        threading.Thread(target=watch, name=f"{self.name}-watch", daemon=True).start()
        if wait:
            try:
                status.wait()
            except KeyboardInterrupt:
                self.stop()
                raise
        return status

    def stop(self, *, success: bool = False) -> None:
        """Stop; an IOC that does not answer cannot be told.

        Parameters
        ----------
        success
            Whether the move under way shall end without an error.
        """
        self._stopped = True
        if self._newest_move is not None:
            self._newest_move.stopped_well = success
        if self.connected:
            super().stop(success=success)

    def _at_rest(self, target: float, timeout: float) -> bool:
        """Return whether the move is over; if not, wait for `timeout` first."""
        # Away from the target it must be at rest in two checks: after a pause it starts late.
        for _ in range(2):
            is_paused = not self._stopped and self.mode.get(use_monitor=False) == PAUSE
            is_done = self.motor_done_move.get(use_monitor=False)
            is_there = self._is_at(target)
            if is_done and is_there:
                return True
            pause(timeout)
            if is_paused or not is_done:
                return False
        return True

    @property
    def allowance(self) -> float:
        """Largest distance from the target at the end of a move: `tolerance`, or RDBD if larger."""
        return max(self.tolerance, float(self.deadband.get()))

    def _is_at(self, target: float) -> bool:
        return abs(float(self.user_readback.get(use_monitor=False)) - target) <= self.allowance

    def time_limit(self, position: float) -> float:
        """Return after how many seconds a move to `position` is given up."""
        velocity = abs(self.velocity.get()) or 1.0
        ramp = max(float(self.acceleration.get()), 0.0)
        return SLOWNESS * (abs(position - self.position) / velocity + 2.0 * ramp) + MARGIN_S

    def check_connected(self) -> None:
        """Raise `HardwareError` if the IOC does not answer."""
        if not self.connected:
            raise HardwareError(
                f"{self.name}: no answer from {self.prefix}; is its IOC running, and does "
                "EPICS_CA_ADDR_LIST name it?"
            )

    def check_position_known(self) -> None:
        """Raise `HardwareError` if the readback is no number: a move would not be watched."""
        if not math.isfinite(self.position):
            raise HardwareError(
                f"{self.name}: its readback {self.user_readback.pvname} is {self.position:g}, its "
                "position is not known; look at its encoder and its controller"
            )

    def await_motion(self, ended: Callable[[float], bool], limit_s: float, doing: str) -> None:
        """Wait for the end of a motion; stop the motor and raise when it makes no progress.

        Parameters
        ----------
        ended
            Waits up to a time, s, and says whether the motion is over; an event's `wait`.
        limit_s
            Longest time.
        doing
            What it does, for messages.

        Raises
        ------
        HardwareError
        """
        began = seen = time.monotonic()
        last = self.position
        while not ended(WATCH_S):
            now = time.monotonic()
            if not self.connected:
                raise HardwareError(
                    f"{self.name}: lost the IOC of {self.prefix} {doing}, at {last:g}; look where "
                    "the motor is before it is moved again"
                )
            is_paused = self.mode.get() == PAUSE
            position = self.position
            if is_paused or (position != last and math.isfinite(position)):
                last, seen = position, now
            if now - seen > self.stall_s:
                self._give_up(f"stands still at {last:g} for {now - seen:.1f} s {doing}, ")
            if now - began > limit_s and is_paused:
                self.motor_stop.put(1, wait=False)
                raise HardwareError(
                    f"{self.name}: paused at {last:g} {doing} (SPMG is Pause), given up after "
                    f"{limit_s:.0f} s; set SPMG to Stop, then to Go, before it is moved again"
                )
            if now - began > limit_s:
                self._give_up(f"is at {last:g} after {limit_s:.0f} s {doing}, ")

    def _give_up(self, what: str) -> None:
        try:
            moving = self.motor_is_moving.get(use_monitor=False, timeout=ANSWER_S)
        except IOC_LOST as error:
            self.motor_stop.put(1, wait=False)
            raise HardwareError(
                f"{self.name}: {what}and its IOC does not answer; it will be stopped when the IOC "
                "does. Look where it is before it is moved again"
            ) from error
        self.motor_stop.put(1, wait=False)
        reason = self._alarm() or "no alarm"
        raise HardwareError(
            f"{self.name}: {what}MOVN = {moving}, {reason}; stopped. Is the motor stuck, or its "
            "controller without power?"
        )

    def _check_arrival(self, target: float) -> None:
        """Raise if a move that is over did not reach its target, or reached it with an alarm."""
        self.check_connected()
        if self._is_at(target):
            where = f"{self.name}: is at {target:g}, but "
        else:
            where = f"{self.name}: stopped at {self.position:g}, not at {target:g}: "
        for signal, switch, way in (
            (self.low_limit_switch, "low", -1.0),
            (self.high_limit_switch, "high", 1.0),
        ):
            if signal.get(use_monitor=False) and way * (target - self.position) >= 0.0:
                raise HardwareError(f"{where}it stands on its {switch} limit switch; move it off")
        if alarm := self._alarm(self.tolerated_alarm):
            raise HardwareError(where + alarm)
        # The record's VAL becomes the position where it was stopped.
        wanted = self.user_setpoint.get(use_monitor=False)
        if self._stopped or abs(wanted - target) > 1e-6 * max(1.0, abs(target)):
            raise HardwareError(f"{where}somebody stopped it, or sent it elsewhere (VAL {wanted})")
        if not self._is_at(target):
            raise HardwareError(
                f"{where}that is further away than RDBD and the tolerance of {self.tolerance:g} "
                f"{self.egu} allow"
            )

    def _alarm(self, tolerated: AlarmSeverity = AlarmSeverity.NO_ALARM) -> str:
        """Return the alarm of the readback, empty if it is none or a tolerated one."""
        severity = AlarmSeverity(self.user_readback.alarm_severity or 0)
        status = AlarmStatus(self.user_readback.alarm_status or 0)
        return f"alarm {status.name} {severity.name}" if severity > tolerated else ""


def move_all(moves: Iterable[tuple[Motor, float]]) -> None:
    """Move motors at the same time and wait; if one fails, all are stopped.

    Raises
    ------
    HardwareError
        The first failure, also of a motor that could not be started.
    MotionLimitError
        If a position is beyond a limit; nothing moves then.
    """
    moves = list(moves)
    for motor, position in moves:
        motor.check_connected()
        motor.check_value(position)
    ended: queue.SimpleQueue[StatusBase] = queue.SimpleQueue()
    try:
        # Any error in here leaves earlier motors moving
        statuses = [motor.move(position, wait=False) for motor, position in moves]
        for status in statuses:
            status.add_callback(ended.put)
        for _ in statuses:
            if failure := ended.get().exception(timeout=0):
                raise failure
    except BaseException:
        for motor, _ in moves:
            with contextlib.suppress(*IOC_LOST):  # one lost IOC must not keep the others moving
                motor.stop()
        raise
