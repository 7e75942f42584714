"""A simulated EPICS motor record: the fields that clients use, over one simulated axis.

Fields: VAL DVAL RVAL RLV, RBV DRBV RRBV, DMOV MOVN MIP TDIR, STOP SPMG SYNC,
TWV TWF TWR, JVEL JOGF JOGR, HOMF HOMR ATHM, VELO VMAX VBAS ACCL, HLM LLM DHLM DLLM LVIO,
HLS LLS RHLS RLLS HLSV, OFF DIR FOFF SET MRES, MSTA STAT SEVR, EGU PREC DESC. VBAS, backlash and
retries can be put and have no effect. Differences to the record: after a stop, or at a limit
switch, VAL becomes RBV at once; a refused move shows as DMOV 1 - 0 - 1 with an alarm, so that no
client waits; a jog does not look at SPMG.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from caproto import (
    AlarmSeverity,
    AlarmStatus,
    ChannelData,
    ChannelDouble,
    ChannelEnum,
    SubscriptionType,
)
from caproto.server import PVGroup, pvproperty

from iocs.common import wait_at_most
from iocs.motor_puts import GO, MOVE, PAUSE, accept_puts
from skywright.acquire.simulated_axis import MotorsClock, SimulatedAxis

PERIOD_S = 0.05
ALL_EVENTS = SubscriptionType.DBE_VALUE | SubscriptionType.DBE_LOG | SubscriptionType.DBE_ALARM
FAR = 1e6
"""End of a jog of an axis without limits, EGU."""
COMM_ERROR = 1 << 12
"""Bit of MSTA: the controller does not answer, the other bits are those from before."""
NORMAL = AlarmStatus.NO_ALARM, AlarmSeverity.NO_ALARM
REFUSED = AlarmStatus.SOFT, AlarmSeverity.MINOR_ALARM
SILENT = AlarmStatus.COMM, AlarmSeverity.INVALID_ALARM


class MotorRecord(PVGroup):
    """One record; `attach` gives it its axis."""

    record = pvproperty(value=0.0, dtype=float, name="", record="motor")

    axis: SimulatedAxis
    resumed: asyncio.Future[None] | None = None
    """The move that goes on after SPMG was Pause; None: there was none."""
    jogging = 0
    """Direction of the jog in progress, 1 or -1 in user coordinates; 0: none."""
    move_refusal = ""
    """Why moves are refused; empty when they are not."""

    async def attach(
        self,
        axis: SimulatedAxis,
        fields: Mapping[str, Any],
        clock: Callable[[], MotorsClock],
        commanded: Callable[[], Awaitable[None]],
        speed: float = 1.0,
    ) -> None:
        """Connect the record with its axis and fill its fields, before anybody sees it.

        Parameters
        ----------
        axis
            The motor.
        fields
            Values of DESC, EGU, PREC, MRES, VELO, VMAX, ACCL and of the soft limits DLLM and DHLM,
            dial positions; both limits 0: no limits.
        clock
            Gives the controller's clock, for time stamps.
        commanded
            Awaited after each command that changes the motion, and before DMOV becomes 1.
        speed
            Speed of simulated time.
        """
        self.axis, self.speed = axis, speed
        self.clock, self.commanded = clock, commanded
        self.silent = False
        self._rest, self._wake, self._lock = asyncio.Event(), asyncio.Event(), asyncio.Lock()
        self._rest.set()
        self._alarm = NORMAL
        self._drops_target = False
        accept_puts(self)
        initial = {
            **fields,
            "JVEL": fields["VELO"] / 2,
            "TWV": fields["MRES"] * 100,
            "SPMG": GO,
            "HLSV": int(AlarmSeverity.MAJOR_ALARM),
            "LVIO": 0,
            "UDF": 0,
        }
        for name, value in initial.items():
            await self.post(name, value)
        await self.post_units(fields["EGU"], fields["PREC"])
        await self.post_limits()
        await self._show(time.time())

    # ---- fields

    def _field(self, name: str) -> ChannelData:
        return self.record.get_field(name)

    def get(self, name: str) -> Any:
        """Return the value of a field, of a menu its index."""
        channel = self._field(name)
        return channel.raw_value if isinstance(channel, ChannelEnum) else channel.value

    async def post(self, name: str, value: Any, **metadata: Any) -> None:
        """Post a field, of a menu its index; its putter is not called."""
        channel = self._field(name)
        if isinstance(channel, ChannelEnum):
            value = channel.enum_strings[value]
        if channel.value != value or metadata:
            await channel.write(value, verify_value=False, **metadata)

    async def post_units(self, units: str, precision: int) -> None:
        """Post EGU and PREC as units and precision of all fields that are numbers."""
        others = dict.fromkeys(("VELO", "VMAX", "VBAS", "JVEL", "HVEL", "BVEL"), f"{units}/s")
        others |= dict.fromkeys(("ACCL", "BACC", "DLY"), "s")
        for name, channel in (("VAL", self.record), *self.record.fields.items()):
            if isinstance(channel, ChannelDouble):
                await channel.write_metadata(units=others.get(name, units), precision=precision)

    @property
    def sign(self) -> int:
        """1, or -1 when DIR is Neg."""
        return -1 if self.get("DIR") else 1

    def user(self, dial: float) -> float:
        """Return the user position of a dial position."""
        return float(dial * self.sign + self.get("OFF"))

    def dial(self, user: float) -> float:
        """Return the dial position of a user position."""
        return float((user - self.get("OFF")) * self.sign)

    @property
    def velocity(self) -> float:
        """VELO in simulated time, EGU/s."""
        return float(self.get("VELO")) * self.speed

    @property
    def max_velocity(self) -> float:
        """VMAX in simulated time, EGU/s; infinite where VMAX is 0, which is no limit."""
        return float(self.get("VMAX")) * self.speed or math.inf

    @property
    def acceleration(self) -> float:
        """EGU/s^2 in simulated time."""
        return float(self.get("VELO")) / float(self.get("ACCL")) * self.speed**2

    # ---- moving

    async def go(self, dial: float) -> None:
        """Move to a dial position; returns when the motor rests."""
        if not math.isfinite(dial):
            raise ValueError(f"{dial}, expected a finite position")
        low, high = self.get("DLLM"), self.get("DHLM")
        if low != high and not low - 1e-9 <= dial <= high + 1e-9:
            await self.refuse_limit()
            return
        if self.move_refusal:
            await self.refuse(REFUSED)
            raise ValueError(self.move_refusal)
        if self.silent:
            await self.refuse(SILENT)
            return
        async with self._lock:
            await self.post("LVIO", 0)
            self._alarm, self._drops_target = NORMAL, False
            await self.post_target(dial)
            # The clock is read after the awaits: clients that asked before got "the motor rests".
            now = time.time()
            if self.get("SPMG") in (MOVE, GO):
                self.axis.move_to(now, dial, self.velocity, self.acceleration)
                self.jogging = 0
            await self._begin(dial >= self.axis.position(now))
        await self.commanded()
        await self._rest.wait()

    async def follow_axis(self, forward: bool) -> None:
        """Show a motion that somebody else has started; returns when the motor rests."""
        async with self._lock:
            self._alarm, self._drops_target = NORMAL, True  # VAL is not where it goes
            await self._begin(forward)
        await self.commanded()
        await self._rest.wait()

    async def _begin(self, forward: bool) -> None:
        self._rest.clear()
        await self.post("TDIR", int(forward))
        await self.post("DMOV", 0)
        await self.post("MOVN", int(self.axis.moving(time.time())))
        self._wake.set()

    async def refuse(self, alarm: tuple[AlarmStatus, AlarmSeverity]) -> None:
        """Show a move that ends where it began, with an alarm."""
        async with self._lock:
            self._alarm = self._alarm if self.silent else alarm
            if self._rest.is_set():
                await self.post("DMOV", 0)
            await self._show(time.time())
            if self._rest.is_set():
                await self.post("DMOV", 1)

    async def refuse_limit(self) -> None:
        """Show a move beyond a soft limit, which is not made."""
        await self.post("LVIO", 1)
        await self.refuse(REFUSED)

    async def jog(self, way: int) -> None:
        """Move towards a limit at JVEL until stopped; `way` is 1 or -1, in user coordinates."""
        if self.move_refusal or self.silent:
            await self.refuse(SILENT if self.silent else REFUSED)
            raise ValueError(self.move_refusal or "the controller does not answer")
        low, high = self.get("DLLM"), self.get("DHLM")
        low, high = (low, high) if low != high else (-FAR, FAR)
        forward = way * self.sign > 0
        end, sense = (high, 1) if forward else (low, -1)
        if sense * (end - self.axis.position(time.time())) <= 0.0:
            await self.refuse_limit()
            return
        await self.post("LVIO", 0)
        self.axis.move_to(time.time(), end, self.get("JVEL") * self.speed, self.acceleration)
        self.jogging = way
        await self.follow_axis(forward)

    async def set_offset(self, offset: float) -> None:
        """Set OFF, and with it all user positions."""
        await self.post("OFF", offset)
        await self.post_target(self.get("DVAL"))
        async with self._lock:
            await self._show(time.time())
        # Last: ophyd asks for VAL's limits then, and a later VAL would bring it the old ones.
        await self.post_limits()

    async def stop(self, *, pause: bool = False) -> None:
        """Slow down to rest; a controller that does not answer does not.

        Parameters
        ----------
        pause
            Whether the target of the move is kept; else VAL becomes the position at rest.
        """
        now = time.time()
        if not self.silent:
            self._drops_target |= not pause
            if self.axis.moving(now):
                self.axis.stop(now, self.acceleration)
                await self.commanded()
            elif not pause:
                await self._drop_target()
        self._wake.set()

    async def _drop_target(self) -> None:
        """Let VAL be where the motor rests; a move that begins meanwhile keeps its target."""
        async with self._lock:
            now = time.time()
            if not self.axis.moving(now):
                await self.post_target(self.axis.position(now))

    async def changed(self) -> None:
        """Show what has changed outside: switches, faults, the clock."""
        await self.commanded()
        self._wake.set()

    async def serve(self) -> None:
        """Show the motion as it goes, for as long as the IOC lives."""
        while True:
            self._wake.clear()
            async with self._lock:
                now = time.time()
                await self._show(now)
                moving, end = self.axis.moving(now), self.axis.rest_time
                wait = min(PERIOD_S, max(end - now, 0.0005)) if moving else None
            await wait_at_most(wait, self._wake)

    async def _show(self, now: float) -> None:
        if self.silent:
            await self._post_alarm(SILENT)
            await self.post("MSTA", self.get("MSTA") | COMM_ERROR)
            return
        moving = self.axis.moving(now)
        ended = not moving and not self.get("DMOV")
        await self._post_position(now)
        await self.post("MOVN", int(moving))
        await self.post("MIP", 2 if moving else 0)
        if ended and (self._drops_target or self.get("SPMG") != PAUSE):
            await self.post_target(self.axis.position(now))
        await self.post("MSTA", self._status(now, moving))
        if ended and self.get("SPMG") == MOVE and not self._rest.is_set():
            await self.post("SPMG", PAUSE)  # it is for one move
        if ended:
            await self.commanded()
        if not moving:
            self.jogging = 0
            await self.post("DMOV", 1)
            self._rest.set()

    async def _post_position(self, now: float) -> None:
        dial = self.axis.position(now)
        low, high = self.axis.at_switches(now)
        await self.post("RLLS", int(low))
        await self.post("RHLS", int(high))
        await self.post("LLS", int(low if self.sign > 0 else high))
        await self.post("HLS", int(high if self.sign > 0 else low))
        await self.post("ATHM", int(abs(dial) < self.get("MRES") / 2))
        user = self.user(dial)
        if self.get("RBV") != user:
            stamp = self.clock().stamp(now)
            await self.post("RBV", user, timestamp=stamp)
            await self.post("DRBV", dial, timestamp=stamp)
            await self.post("RRBV", _int32(dial / self.get("MRES")))
            await self.post("DIFF", self.get("DVAL") - dial)
        switch = AlarmSeverity(self.get("HLSV"))
        if low or high:
            await self._post_alarm((AlarmStatus.LOW if low else AlarmStatus.HIGH, switch))
        else:
            await self._post_alarm(self._alarm)

    async def _post_alarm(self, alarm: tuple[AlarmStatus, AlarmSeverity]) -> None:
        """Post the alarm, with RBV and all other fields, if it has changed."""
        present = self.record.alarm
        if alarm != (present.status, present.severity):
            await present.write(status=alarm[0], severity=alarm[1], flags=ALL_EVENTS)

    def _status(self, now: float, moving: bool) -> int:
        low, high = self.axis.at_switches(now)
        bits = {
            0: self.get("TDIR"),
            1: not moving,  # done
            2: high,  # positive limit switch
            8: True,  # an encoder is present
            10: moving,
            11: True,  # closed-loop control is available
            13: low,  # negative limit switch
            14: True,  # homed
        }
        return sum(1 << bit for bit, on in bits.items() if on)

    async def post_target(self, dial: float) -> None:
        """Post where the motor is to go, or stands."""
        await self.post("DVAL", dial)
        await self.post("VAL", self.user(dial))
        await self.post("RVAL", _int32(dial / self.get("MRES")))

    async def post_limits(self) -> None:
        """Post the user limits that follow from the dial limits."""
        dial = self.get("DLLM"), self.get("DHLM")
        # Not sorted: with limits that are upside down, all moves are refused, and clients see why.
        low, high = map(self.user, dial[:: self.sign]) if dial != (0.0, 0.0) else (0.0, 0.0)
        for name in ("VAL", "DVAL", "RBV", "DRBV"):  # before HLM: its monitor asks for these
            bounds = (low, high) if name in ("VAL", "RBV") else dial
            await self._field(name).write_metadata(
                lower_ctrl_limit=bounds[0],
                upper_ctrl_limit=bounds[1],
                lower_disp_limit=bounds[0],
                upper_disp_limit=bounds[1],
            )
        await self.post("LLM", low)
        await self.post("HLM", high)


def _int32(value: float) -> int:
    return int(max(-(2**31), min(2**31 - 1, round(value))))
