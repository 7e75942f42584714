"""IOC of a simulated goniometer: spindle, three stages, oscillations with a trigger output.

`phi`, `sx`, `sy`, `sz` are motor records; `Osc:` turns the spindle by an angle in a time, with
`VideoTrigger` open meanwhile, and keeps a timed trace of the angle; `SIM:` is the simulator's own:
where the sample is, clocks, faults. `--list-pvs` prints all names; motor fields come on top.

    python -m iocs.goniometer --prefix BL7:GONIO1:
    python -m iocs.goniometer --matrix '[[0,1,0],[0,0,-1],[1,0,0]]' --mounting table
"""

import argparse
import asyncio
import json
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from caproto import AlarmSeverity, ChannelType
from caproto.server import PVGroup, SubGroup

from iocs.areadetector import YES_NO, checked, choice, enum_readback, number, readback
from iocs.common import alarm_if, argument_parser, post, post_pair, run, setting, write_pair
from iocs.motor_puts import GO, MOVE
from iocs.motor_record import MotorRecord
from skywright.acquire.simulated_axis import MotorsClock
from skywright.errors import ConfigError, HardwareError
from skywright.instruments.loop.goniometer import (
    TRACE_ROWS,
    Goniometer,
    Oscillation,
    start_oscillation,
)
from skywright.instruments.loop.sample_motion import PHI, STAGES, Carriage, write_motion
from skywright.instruments.loop.sweep import Sweep

TRACE_PERIOD_S = 0.5
MOTION_PERIOD_S = 0.04  # a camera that follows waits for word of its exposure
WATCH_S = 0.02
STATES = ["Idle", "Approaching", "Sweeping", "Returning", "Done", "Aborted", "Failed"]
IDLE, APPROACHING, SWEEPING, RETURNING, DONE, ABORTED, FAILED = range(7)
CLOSED_OPEN = ["Closed", "Open"]
SWITCH_MM = 3.0

SPINDLE = {
    "DESC": "Spindle", "EGU": "deg", "PREC": 4, "MRES": 1e-4,
    "DLLM": -36000.0, "DHLM": 36000.0, "VELO": 120.0, "VMAX": 360.0, "ACCL": 0.2,
}  # fmt: skip
STAGE = {
    "DESC": "Sample stage", "EGU": "mm", "PREC": 5, "MRES": 1e-5,
    "DLLM": -2.5, "DHLM": 2.5, "VELO": 2.0, "VMAX": 10.0, "ACCL": 0.05,
}  # fmt: skip


async def _put_go(obj: Any, instance: Any, value: int) -> int:
    """Busy record: completes when the oscillation is over and its trace is posted."""
    ioc = obj.parent.parent
    await (ioc.oscillate() if value else ioc.abort())
    return 0


async def _put_trigger(obj: Any, instance: Any, value: int) -> None:
    if obj.parent.oscillating:
        raise ValueError("an oscillation owns the trigger until it is over")
    await post(obj.readback, value)


class Osc(PVGroup):
    """An oscillation: settings, command, trace. Angles are user positions of phi."""

    start_from = choice(["Present", "Start"], name="From")
    start = number(0.0, checked(-36000.0, 36000.0), units="deg", precision=4, name="Start")
    delta = number(180.0, checked(-36000.0, 36000.0), units="deg", precision=4, name="Delta")
    time = number(3.0, checked(1e-3, 3600.0), units="s", precision=4, name="Time")
    run_up = choice(["Inside", "Before"], 1, name="RunUp")
    go = choice(["Done", "Go"], put=_put_go, name="Go")
    state = enum_readback(STATES, IDLE, name="State_RBV")
    message = readback("", ChannelType.CHAR, max_length=1024, name="Message_RBV")
    motor_start = readback(0.0, units="s", precision=6, name="MotorStart_RBV")
    window_start = readback(0.0, units="s", precision=6, name="WindowStart_RBV")
    window_end = readback(0.0, units="s", precision=6, name="WindowEnd_RBV")
    motor_end = readback(0.0, units="s", precision=6, name="MotorEnd_RBV")
    trace_time = readback([0.0], ChannelType.DOUBLE, max_length=TRACE_ROWS, name="TraceTime_RBV")
    trace_angle = readback([0.0], ChannelType.DOUBLE, max_length=TRACE_ROWS, name="TraceAngle_RBV")
    trace_count = readback(0, name="TraceCount_RBV")


async def _put_fault(obj: Any, instance: Any, value: Any) -> None:
    await post(obj.readback, value)
    await obj.parent.parent.parent.break_axis(obj.parent)


async def _put_outside(obj: Any, instance: Any, value: Any) -> None:
    await post(obj.readback, value)
    await obj.parent.parent.reconfigure()


def _clock(most: float) -> Any:
    """Return a putter for numbers up to `most`: a stamp beyond all dates would end the IOC."""

    async def put(obj: Any, instance: Any, value: float) -> None:
        if not -most <= value <= most:
            raise ValueError(f"{value}, expected {-most:g} to {most:g}")
        await _put_outside(obj, instance, value)

    return put


async def _put_matrix(obj: Any, instance: Any, value: Any) -> None:
    rows = np.reshape(np.asarray(value, float), (3, 3)).tolist()
    Carriage(tuple(map(tuple, rows)))  # refuses what is none
    await obj.readback.write(np.ravel(rows))
    await obj.parent.parent.reconfigure()


class Faults(PVGroup):
    """What is wrong with one motor."""

    stuck = choice(YES_NO, put=_put_fault, name="Stuck")
    slow = number(1.0, put=_put_fault, name="Slow")
    low_switch = number(-math.inf, put=_put_fault, name="LowSwitch")
    high_switch = number(math.inf, put=_put_fault, name="HighSwitch")


class Sim(PVGroup):
    """The simulator's own, for simulators and for scoring only."""

    motion = readback("", ChannelType.CHAR, max_length=65_536, name="Motion_RBV")
    pose = readback([0.0] * 4, ChannelType.DOUBLE, max_length=4, name="Pose_RBV")
    clock_offset = number(0.0, put=_clock(1e8), units="s", precision=6, name="ClockOffset")
    clock_drift = number(0.0, put=_clock(0.1), precision=9, name="ClockDrift")
    silent = choice(YES_NO, put=_put_outside, name="Silent")
    matrix = setting(value=[0.0] * 9, dtype=float, put=_put_matrix, max_length=9, name="Matrix")
    mounting = choice(["spindle", "table"], put=_put_outside, name="Mounting")
    phi = SubGroup(Faults, prefix="phi:")
    sx = SubGroup(Faults, prefix="sx:")
    sy = SubGroup(Faults, prefix="sy:")
    sz = SubGroup(Faults, prefix="sz:")


class GoniometerIOC(PVGroup):
    """All PVs, over one owner."""

    phi = SubGroup(MotorRecord, prefix="phi")
    sx = SubGroup(MotorRecord, prefix="sx")
    sy = SubGroup(MotorRecord, prefix="sy")
    sz = SubGroup(MotorRecord, prefix="sz")
    osc = SubGroup(Osc, prefix="Osc:")
    sim = SubGroup(Sim, prefix="SIM:")
    video_trigger = choice(CLOSED_OPEN, put=_put_trigger, name="VideoTrigger")

    def __init__(self, prefix: str, carriage: Carriage, speed: float = 1.0) -> None:
        super().__init__(prefix=prefix)
        self.gonio = Goniometer(carriage, MotorsClock(epoch=time.time()), SWITCH_MM)
        self.speed = speed
        self.oscillating = False
        self._abort_requested = False
        """Whether `abort` was called in this oscillation."""
        self._over = asyncio.Event()

    @property
    def motors(self) -> dict[str, MotorRecord]:
        """The motor records by name."""
        return {name: getattr(self, name) for name in (PHI, *STAGES)}

    async def prepare(self) -> None:
        """Fill the PVs before anybody sees them."""
        for name, motor in self.motors.items():
            axis = self.gonio.axes[name]
            settings = SPINDLE if name == PHI else STAGE
            await motor.attach(
                axis, settings, lambda: self.gonio.clock, self.post_motion, self.speed
            )
            faults = getattr(self.sim, name)
            await write_pair(faults.low_switch, axis.low_switch)
            await write_pair(faults.high_switch, axis.high_switch)
        await write_pair(self.sim.matrix, np.ravel(self.gonio.carriage.matrix))
        await write_pair(self.sim.mounting, self.gonio.carriage.mounting)
        await self.post_motion()

    async def serving(self) -> None:
        """Show positions and motion for as long as the IOC lives."""
        tasks = [self._post_motion_on(), *(motor.serve() for motor in self.motors.values())]
        await asyncio.gather(*tasks)

    async def post_error(self, message: str) -> None:
        """Say on the message PV why a put was refused."""
        await post(self.osc.message, message, AlarmSeverity.MINOR_ALARM)

    async def post_motion(self) -> None:
        """Post the motion as commanded until now, for those who follow it."""
        now = time.time()
        motion = self.gonio.motion(now)
        await post(self.sim.motion, write_motion(motion))
        pose = motion.pose_at(now)
        row = [pose.x_um, pose.y_um, pose.z_um, pose.phi_deg]
        if row != list(self.sim.pose.value):
            await self.sim.pose.write(row)

    async def _post_motion_on(self) -> None:
        """Post the motion again and again, so that a follower knows that no command has come."""
        while True:
            await self.post_motion()
            await asyncio.sleep(MOTION_PERIOD_S)

    # ---- faults

    async def break_axis(self, faults: Faults) -> None:
        """Apply the faults of one motor."""
        name = next(n for n in self.motors if getattr(self.sim, n) is faults)
        axis, now = self.gonio.axes[name], time.time()
        axis.slow = min(max(faults.slow.readback.value, 1e-3), 1.0)
        axis.set_stuck(now, bool(faults.stuck.readback.raw_value))
        axis.set_switches(now, faults.low_switch.readback.value, faults.high_switch.readback.value)
        await self.motors[name].changed()

    async def reconfigure(self) -> None:
        """Apply clock, communication and carriage."""
        sim, now = self.sim, time.time()
        self.gonio.clock = MotorsClock(
            sim.clock_offset.readback.value, sim.clock_drift.readback.value, now
        )
        matrix = np.reshape(sim.matrix.readback.value, (3, 3)).tolist()
        self.gonio.carriage = Carriage(
            tuple(map(tuple, matrix)), sim.mounting.readback.value, self.gonio.carriage.phi_sign
        )
        for motor in self.motors.values():
            motor.silent = bool(sim.silent.readback.raw_value)
            await motor.changed()

    # ---- oscillation

    async def abort(self) -> None:
        """End the oscillation under way; returns when the spindle rests."""
        if self.oscillating:
            self._abort_requested = True  # the spindle may not have begun to move
            await self.phi.stop()
            await self._over.wait()

    async def oscillate(self) -> None:
        """Make the oscillation that the settings say; returns when all is over."""
        if self.oscillating:
            raise ValueError("an oscillation is under way; put 0 to Go, or wait")
        self.oscillating, self._abort_requested = True, False
        self._over.clear()
        try:
            await self._oscillate()
        finally:
            self.oscillating = False
            await post(self.osc.go.readback, 0)
            self._over.set()

    async def _oscillate(self) -> None:
        osc, motor = self.osc, self.phi
        for stamp in (osc.motor_start, osc.window_start, osc.window_end, osc.motor_end):
            await post(stamp, math.nan)
        try:
            plan = self._start()
        except (HardwareError, ConfigError) as error:
            self.gonio.oscillation = None
            await self._post_trace()  # or that of the last one would be taken for this one's
            await self._say(ABORTED if self._abort_requested else FAILED, str(error))
            return
        self.gonio.oscillation = plan
        motor.move_refusal = "an oscillation is under way; wait, or put 0 to Osc:Go"
        await post_pair(osc.go, 1)
        trace = asyncio.create_task(self._post_trace_along())
        try:
            await self._post_trace()  # empties it
            await self._carry_out(plan)
        finally:
            trace.cancel()
            motor.move_refusal = ""
            await self._open(False, self.gonio.clock.stamp(time.time()))
            await self._post_trace()

    def _start(self) -> Oscillation:
        osc, motor = self.osc, self.phi
        if self._abort_requested:
            raise HardwareError("oscillation: it was aborted before the spindle moved")
        if motor.silent:
            raise HardwareError("oscillation: the controller of the spindle does not answer")
        if motor.get("SPMG") not in (MOVE, GO):
            raise HardwareError("oscillation: SPMG of the spindle is Stop or Pause; set it to Go")
        at_start = bool(osc.start_from.readback.raw_value)
        sweep = Sweep(
            delta_deg=osc.delta.readback.value * motor.sign,
            time_s=osc.time.readback.value / self.speed,
            start_deg=motor.dial(osc.start.readback.value) if at_start else None,
            run_up=bool(osc.run_up.readback.raw_value),
        )
        return start_oscillation(
            motor.axis,
            time.time(),
            sweep,
            velocity=motor.velocity,
            most=motor.max_velocity,
            acceleration=motor.acceleration,
            within=(motor.get("DLLM"), motor.get("DHLM")),
        )

    async def _carry_out(self, plan: Oscillation) -> None:
        """Show an oscillation as it goes, and open the window in time."""
        stamp = self.gonio.clock.stamp
        rest = asyncio.create_task(self.phi.follow_axis(plan.end_deg > plan.start_deg))
        await self._say(APPROACHING)
        if await self._until(plan.motor_start, plan):
            await post(self.osc.motor_start, stamp(plan.motor_start))
            await self._say(SWEEPING)
        if await self._until(plan.window_start, plan):
            await post(self.osc.window_start, stamp(plan.window_start))
            await self._open(True, stamp(plan.window_start))
            intact = await self._until(plan.window_end, plan)
            end = stamp(plan.window_end if intact else time.time())
            await self._open(False, end)
            await post(self.osc.window_end, end)
        if await self._until(plan.motor_end, plan):
            await post(self.osc.motor_end, stamp(plan.motor_end))
            await self._say(RETURNING)
        intact = await self._until(plan.rest_time, plan)
        await rest
        await self._say(*self._outcome(intact))

    def _outcome(self, intact: bool) -> tuple[int, str]:
        if intact:
            return DONE, ""
        if any(self.phi.axis.at_switches(time.time())):
            return FAILED, "oscillation: the spindle ran into a limit switch"
        return ABORTED, "oscillation: the spindle was stopped, or did not follow"

    async def _until(self, when: float, plan: Oscillation) -> bool:
        """Wait for a time; tell, at once if not, whether the spindle does as planned."""
        while (kept := plan.kept_by(self.phi.axis, now := time.time())) and now < when:
            await asyncio.sleep(min(when - now, WATCH_S))
        return kept

    async def _open(self, opened: bool, when: float) -> None:
        """Open or close the trigger; `when` is the stamp of the edge."""
        await post(self.video_trigger.setpoint, int(opened))
        if self.video_trigger.readback.raw_value != int(opened):
            await self.video_trigger.readback.write(CLOSED_OPEN[opened], timestamp=when)

    async def _say(self, state: int, message: str = "") -> None:
        severity = alarm_if(state in (ABORTED, FAILED))
        await post(self.osc.message, message, severity)
        await post(self.osc.state, state, severity)

    async def _post_trace_along(self) -> None:
        while True:
            await asyncio.sleep(TRACE_PERIOD_S)
            await self._post_trace()

    async def _post_trace(self) -> None:
        stamps, dial = self.gonio.trace(time.time())
        angles = dial * self.phi.sign + self.phi.get("OFF")
        if stamps.size:
            await self.osc.trace_time.write(stamps)
            await self.osc.trace_angle.write(angles)
        await post(self.osc.trace_count, len(stamps))


def build(args: argparse.Namespace) -> tuple[PVGroup, Mapping[str, Any]]:
    """Make the IOC of the arguments, and what its ready line says."""
    try:
        matrix = tuple(map(tuple, json.loads(args.matrix)))
        carriage = Carriage(matrix, args.mounting, args.phi_sign)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"--matrix {args.matrix}: expected three rows as JSON: {error}"
        ) from error
    ioc = GoniometerIOC(args.prefix, carriage, args.speed)
    asyncio.run(ioc.prepare())
    return ioc, {"source": "sim", "motors": list(ioc.motors)}


def main() -> None:
    """Run the IOC."""
    parser = argument_parser(__doc__ or "", "SKY:GONIO1:")
    parser.add_argument(
        "--matrix",
        default="[[1,0,0],[0,1,0],[0,0,1]]",
        help="JSON, 3 rows; column i: displacement of the sample by sx, sy, sz (%(default)s)",
    )
    parser.add_argument(
        "--mounting",
        choices=["spindle", "table"],
        default="spindle",
        help="stages turn with the sample, or stand under the spindle (%(default)s)",
    )
    parser.add_argument(
        "--phi-sign", type=int, choices=[1, -1], default=1, help="sense of phi (%(default)s)"
    )
    run(build, parser)
