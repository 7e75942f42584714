"""Oscillations of a spindle as a flyer, whose trace of the angle is a file of columns.

`prepare(Sweep(...))`, `kickoff()`, `complete()`; the trace is written at the end, also of a sweep
that was cut off. `Oscillation` lets the controller do it, `MotorOscillation` does it with what any
motor record has.
"""

import contextlib
import logging
import math
import threading
import uuid
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ophyd import Component as Cpt
from ophyd import Device, EpicsSignal, EpicsSignalRO, Kind

from devices.file_stream import FileStream, OneStream
from devices.guarded import Setting, TaskStatus, read_all_elements, run_ioc_task
from devices.motion import Motor
from skywright.errors import DataError, HardwareError
from skywright.files.columns import Column, ColumnWriter
from skywright.files.stream_columns import StreamColumn
from skywright.instruments.loop.sweep import Sweep

logger = logging.getLogger(__name__)

PUT_S = 4.0
STOP_S = 3.0
SLOWNESS, MARGIN_S = 2.0, 60.0
RUN_UP_S = 0.05
GROUP = "/entry/oscillation"
ROW = Column(f"{GROUP}/row", "<i8", attrs={"description": "number of the reading in this file"})
COLUMNS = {
    "time": Column(f"{GROUP}/time", "<f8", attrs={"units": "s", "description": "unix time"}),
    "angle": Column(f"{GROUP}/angle", "<f8", attrs={"units": "deg"}),
    "open": Column(f"{GROUP}/open", "|u1", attrs={"description": "1 while the window is open"}),
    "sweep": Column(f"{GROUP}/sweep", "<i4", attrs={"description": "number of the sweep, from 0"}),
}
STREAM = tuple(map(StreamColumn.of, COLUMNS.values()))


@dataclass(frozen=True)
class SweepTrace:
    """Readings of the spindle during a sweep, and when the window was open (unix s; may be NaN)."""

    time: NDArray[np.float64]
    angle: NDArray[np.float64]
    window_start: float
    window_end: float


class TraceStream(FileStream):
    """The readings of all sweeps since `stage`."""

    @property
    def source(self) -> str:
        """Where the rows come from, for descriptors."""
        return f"PV:{self.device.spindle.user_readback.pvname}"


class OscillationFlyer(OneStream, Device):
    """What the two kinds share: prepare, kickoff, complete, the file and its documents.

    Data keys, all external (``STREAM:``), a row a reading: ``NAME_time`` (unix s, the motors'
    clock), ``NAME_angle`` (deg), ``NAME_open`` (1 while the window is open), ``NAME_sweep``.
    The parent has the spindle (`phi`) and the directory for files (`assets`).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.last: SweepTrace | None = None
        """The trace of the last sweep."""
        self._sweep: Sweep | None = None
        self._over: TaskStatus | None = None
        self._started = threading.Event()
        self._stop_requested = False
        """Whether `stop` was called in this sweep."""
        self._paused = False
        """Whether `pause` has ended this sweep."""
        self._writer: ColumnWriter | None = None
        self._recording = False
        self._sweeps = 0
        self.stream = TraceStream(self, self.name, None, lambda: STREAM)

    @property
    def spindle(self) -> Motor:
        """The motor that turns."""
        motor: Motor = self.parent.phi
        return motor

    def check_value(self, sweep: Sweep) -> None:
        """Raise `HardwareError` if a sweep, run-up included, is beyond the limits of phi."""

    def carry_out(self, sweep: Sweep) -> SweepTrace:
        """Make a sweep; set `_started` when the spindle is told to move. Blocks."""
        raise NotImplementedError

    # ---- flying

    def stage(self) -> list[Any]:
        """Begin a new file with the next sweep."""
        staged = super().stage()
        self._recording = True
        self._sweeps = self.stream.rows = 0
        self.last = None
        return staged

    def unstage(self) -> list[Any]:
        """Stop a sweep under way and close the file; no lost IOC and no full disk makes it fail."""
        self._recording = False
        if self._over is not None and not self._over.done:
            self.stop()
            with contextlib.suppress(Exception):  # why it failed does not matter any more
                self._over.wait(STOP_S)
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as error:
                logger.warning("%s: %s", self.name, error)
            self._writer = None
        return super().unstage()

    def prepare(self, sweep: Sweep) -> TaskStatus:
        """Take the next sweep; nothing moves."""

        def work() -> None:
            self.spindle.check_connected()
            self._accept(sweep)
            self._sweep = sweep

        return run_ioc_task(self, work)

    def _accept(self, sweep: Sweep) -> None:
        """Check a sweep, or give it to the controller."""

    def kickoff(self) -> TaskStatus:
        """Start the prepared sweep; done when the spindle has been told to move."""
        self._started.clear()
        over = self._over
        if self._sweep is None or not self._recording or (over is not None and not over.done):
            return self._refused(
                "stage it, prepare it with a Sweep, and wait for the last one to be over, before "
                "kickoff"
            )
        sweep, self._stop_requested, self._paused = self._sweep, False, False
        self._over = over = run_ioc_task(self, lambda: self._fly(sweep))
        over.add_callback(lambda _: self._started.set())

        def work() -> None:
            self._started.wait()
            if over.done and (error := over.exception(timeout=0)) is not None:
                raise error

        return run_ioc_task(self, work)

    def complete(self) -> TaskStatus:
        """Return a status that is done when the sweep is over and its trace is in the file."""
        if self._over is None:
            return self._refused("no sweep; kick it off first")
        if self._paused:
            return self._refused("a pause has ended the sweep; kick it off again")
        return self._over

    def pause(self) -> None:
        """End a sweep under way, and wait until the spindle rests; the engine calls it.

        Who waits for the sweep is not told of an error: after the pause the plan makes it anew.
        """
        if self._over is not None and not self._over.done:
            self._paused = True
            self.stop(success=True)
            with contextlib.suppress(Exception):  # `complete` reports it
                self._over.wait(STOP_S)

    def resume(self) -> None:
        """Do nothing: the plan makes the sweep anew."""

    def _raise_if_stopped(self) -> None:
        """Raise `HardwareError` if the sweep was stopped, also if it has not begun yet."""
        if self._stop_requested:
            raise HardwareError(f"{self.name}: somebody stopped the sweep")

    def _refused(self, why: str) -> TaskStatus:
        status = TaskStatus(self)
        status.set_exception(HardwareError(f"{self.name}: {why}"))
        return status

    def _fly(self, sweep: Sweep) -> None:
        self.last = None
        try:
            self.last = self.carry_out(sweep)
        except Exception as error:
            try:
                self._keep_trace()
            except HardwareError as second:  # the first error is the reason
                logger.error("%s", second)
            if not (self._paused and isinstance(error, HardwareError)):
                raise
        else:
            self._keep_trace()

    def _keep_trace(self) -> None:
        """Write the trace of the last sweep, if there is one.

        Raises
        ------
        HardwareError
            If it cannot be written.
        """
        if self.last is None or not self.last.time.size:
            return
        try:
            self._write(self.last)
        except (OSError, DataError) as error:
            raise HardwareError(
                f"{self.name}: the trace of the sweep cannot be written: {error}"
            ) from error

    # ---- the file

    def _write(self, trace: SweepTrace) -> None:
        if self._writer is None and not self._recording:
            return
        if self._writer is None:
            directory = Path(self.parent.assets) / f"{datetime.now():%Y/%m/%d}"
            directory.mkdir(parents=True, exist_ok=True)
            path = directory / f"{self.name}-{uuid.uuid4()}.h5"
            self._writer = ColumnWriter(path, list(COLUMNS.values()), ROW)
            self.stream.begin(str(path))
        size = trace.time.size
        opened = (trace.time >= trace.window_start) & (trace.time <= trace.window_end)
        values: dict[str, np.ndarray] = {
            "time": trace.time,
            "angle": trace.angle,
            "open": opened.astype(np.uint8),
            "sweep": np.full(size, self._sweeps),
        }
        rows = np.arange(self.stream.rows, self.stream.rows + size)
        self._writer.append(rows, {COLUMNS[key].path: value for key, value in values.items()})
        self.stream.rows = self._writer.flush()
        self._sweeps += 1


class Oscillation(OscillationFlyer):
    """Oscillations that the controller makes and times (`iocs.goniometer`)."""

    start_from = Cpt(Setting, "From", kind=Kind.omitted)
    start = Cpt(Setting, "Start", kind=Kind.config)
    delta = Cpt(Setting, "Delta", kind=Kind.config)
    time = Cpt(Setting, "Time", kind=Kind.config)
    run_up = Cpt(Setting, "RunUp", kind=Kind.config)
    go = Cpt(EpicsSignal, "Go", kind=Kind.omitted, put_complete=True)
    going = Cpt(EpicsSignalRO, "Go_RBV", kind=Kind.omitted, auto_monitor=True)
    state = Cpt(EpicsSignalRO, "State_RBV", kind=Kind.omitted, string=True)
    message = Cpt(EpicsSignalRO, "Message_RBV", kind=Kind.omitted, string=True)
    motor_start = Cpt(EpicsSignalRO, "MotorStart_RBV", kind=Kind.normal)
    window_start = Cpt(EpicsSignalRO, "WindowStart_RBV", kind=Kind.normal)
    window_end = Cpt(EpicsSignalRO, "WindowEnd_RBV", kind=Kind.normal)
    trace_time = Cpt(EpicsSignalRO, "TraceTime_RBV", kind=Kind.omitted, auto_monitor=False)
    trace_angle = Cpt(EpicsSignalRO, "TraceAngle_RBV", kind=Kind.omitted, auto_monitor=False)
    trace_count = Cpt(EpicsSignalRO, "TraceCount_RBV", kind=Kind.omitted, auto_monitor=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.going.subscribe(self._on_going, run=False)

    def _on_going(self, value: int, **_: Any) -> None:
        if value:
            self._started.set()

    def _accept(self, sweep: Sweep) -> None:
        settings: list[tuple[EpicsSignal, float]] = [
            (self.start_from, int(sweep.start_deg is not None)),
            (self.delta, sweep.delta_deg),
            (self.time, sweep.time_s),
            (self.run_up, int(sweep.run_up)),
        ]
        if sweep.start_deg is not None:
            settings.append((self.start, sweep.start_deg))
        for signal, value in settings:
            signal.set(value, timeout=PUT_S).wait(PUT_S + 1.0)

    def check_value(self, sweep: Sweep) -> None:
        """Raise `HardwareError` if a sweep, run-up included, is beyond the limits of phi."""
        spindle, rate = self.spindle, sweep.rate_deg_s
        start = spindle.position if sweep.start_deg is None else sweep.start_deg
        # The controller accelerates as in a move: in ACCL seconds to VELO
        ramp = abs(rate) * float(spindle.acceleration.get()) / float(spindle.velocity.get())
        lead = rate * (0.5 * ramp + RUN_UP_S) if sweep.run_up else 0.0
        for angle in (start - lead, start + sweep.delta_deg + lead):
            spindle.check_value(angle)

    def carry_out(self, sweep: Sweep) -> SweepTrace:
        """Let the controller make a sweep; keep its trace also when it fails."""
        ended = threading.Event()
        self._raise_if_stopped()
        self.go.set(1).add_callback(lambda _: ended.set())
        if self._stop_requested:  # since the check above; its 0 may have come before the 1
            self.go.put(0, wait=False)
        limit = SLOWNESS * sweep.time_s + MARGIN_S
        try:
            self.spindle.await_motion(ended.wait, limit, "during an oscillation")
        except HardwareError:
            # pyepics raises any error while a circuit breaks; the first error is the reason
            with contextlib.suppress(Exception):
                self.stop()
            ended.wait(STOP_S)
            raise
        self.spindle.check_connected()
        trace = self.read_trace()
        state = self.state.get(use_monitor=False)
        if state != "Done":
            self.last = trace  # what there is of it is kept
            message = self.message.get(use_monitor=False) or "it says no reason"
            raise HardwareError(f"{self.name}: ended as {state}: {message}")
        return trace

    def read_trace(self) -> SweepTrace:
        """Read the trace of the last sweep, or what there is of the one under way."""
        count = int(self.trace_count.get())
        times, angles = read_all_elements(self.trace_time), read_all_elements(self.trace_angle)
        return SweepTrace(
            np.atleast_1d(np.asarray(times, dtype=np.float64))[:count],
            np.atleast_1d(np.asarray(angles, dtype=np.float64))[:count],
            float(self.window_start.get(use_monitor=False)),
            float(self.window_end.get(use_monitor=False)),
        )

    def stop(self, *, success: bool = False) -> None:
        """End the sweep under way; the spindle slows down, the window closes."""
        self._stop_requested = True
        if self.connected:
            self.go.put(0, wait=False)


class MotorOscillation(OscillationFlyer):
    """Oscillations with a motor record alone: its velocity is set for the time of the sweep.

    The trace is what RBV says, with the record's time stamps. There is no trigger output: the
    window is where the angle is between start and end.
    """

    def check_value(self, sweep: Sweep) -> None:
        """Raise `HardwareError` if a sweep, run-up included, is beyond the limits of phi."""
        start, lead = self._places(sweep)
        for angle in (start - lead, start + sweep.delta_deg + lead):
            self.spindle.check_value(angle)

    def _accept(self, sweep: Sweep) -> None:
        self.check_value(sweep)

    def _places(self, sweep: Sweep) -> tuple[float, float]:
        """Return the start and the signed way of the run-up, deg."""
        start = self.spindle.position if sweep.start_deg is None else sweep.start_deg
        # The record takes ACCL seconds to reach VELO, whatever VELO is.
        ramp = float(self.spindle.acceleration.get())
        lead = sweep.rate_deg_s * (0.5 * ramp + RUN_UP_S) if sweep.run_up else 0.0
        return start, lead

    def carry_out(self, sweep: Sweep) -> SweepTrace:
        """Sweep the spindle at the velocity that fits, watch RBV, restore the velocity."""
        spindle = self.spindle
        start, lead = self._places(sweep)
        end = start + sweep.delta_deg
        allowance = spindle.allowance
        readings: list[tuple[float, float]] = []

        def note(value: float, timestamp: float, **_: Any) -> None:
            readings.append((timestamp, value))

        self._started.set()
        self._move(start - lead)
        velocity = spindle.velocity.get()
        token = None
        try:
            self._set_velocity(abs(sweep.rate_deg_s))
            token = spindle.user_readback.subscribe(note)
            self._move(end + lead)
        finally:
            if token is not None:
                spindle.user_readback.unsubscribe(token)
            self.last = traced(readings, start, end, allowance)
            if spindle.connected:
                self._restore_velocity(velocity)
        if lead:
            self._move(end)
        return self.last

    def _move(self, angle: float) -> None:
        """Move the spindle; fail if the sweep is stopped, also if that was before the move."""
        self._raise_if_stopped()
        status = self.spindle.move(angle, wait=False)
        if self._stop_requested:  # since the check above; `move` forgets an earlier stop
            self.spindle.stop()
        status.wait()
        if status.stopped_well:
            raise HardwareError(f"{self.name}: somebody stopped the sweep")

    def _set_velocity(self, velocity: float) -> None:
        seen = self._put_velocity(velocity)
        if not math.isclose(seen, velocity, rel_tol=1e-3):
            limit = "fast, take more" if seen < velocity else "slowly (VBAS), take less"
            raise HardwareError(
                f"{self.name}: {self.spindle.velocity.pvname} is {seen:g} and not {velocity:g} "
                f"deg/s; the motor does not turn so {limit} time"
            )

    def _restore_velocity(self, velocity: float) -> None:
        """Put the velocity of before; a record that refuses it is no fault of the sweep."""
        seen = self._put_velocity(velocity)
        if not math.isclose(seen, velocity, rel_tol=1e-3):
            logger.warning(
                "%s: %s was %g deg/s before the sweep; the record takes %g now (VMAX or VBAS was "
                "changed)",
                *(self.name, self.spindle.velocity.pvname, velocity, seen),
            )

    def _put_velocity(self, velocity: float) -> float:
        """Put a velocity, deg/s; return the one that the record has then."""
        signal = self.spindle.velocity
        signal.put(velocity, wait=True, timeout=PUT_S, use_complete=True)
        return float(signal.get(use_monitor=False))

    def stop(self, *, success: bool = False) -> None:
        """Stop the spindle, and with it a sweep under way."""
        if self._over is not None and not self._over.done:
            self._stop_requested = True
            self.spindle.stop(success=success)


def traced(
    readings: list[tuple[float, float]], start: float, end: float, allowance: float
) -> SweepTrace:
    """Return readings as a trace; the window opens and closes where start and end are crossed.

    A motor may rest off its target by `allowance`.
    """
    rows = np.array(sorted(set(readings)), dtype=np.float64).reshape(-1, 2)
    time, angle = rows[:, 0], rows[:, 1]
    sense = 1.0 if end >= start else -1.0
    if time.size < 2:
        return SweepTrace(time, angle, math.nan, math.nan)
    if time.size > 2 and time[1] - time[0] > 2.0 * (period := np.median(np.diff(time[1:]))):
        # A record posts changes alone: the first reading has the time at which the spindle came
        # to rest, and the spindle still rested one polling period before the second.
        time, angle = np.insert(time, 1, time[1] - period), np.insert(angle, 1, angle[0])
    seen, edges = sense * angle, sense * np.array([start, end])
    reached = np.clip(edges, seen[0], seen[-1])
    is_reached = np.abs(edges - reached) <= allowance
    opened, closed = np.where(is_reached, np.interp(reached, seen, time), math.nan)
    return SweepTrace(time, angle, float(opened), float(closed))
