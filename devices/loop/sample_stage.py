"""The sample in the goniometer frame, um, over three stage motors in any direction and unit."""

import contextlib
import math
import time
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ophyd import Component as Cpt
from ophyd import Device, Kind, Signal

from devices.guarded import TaskStatus, run_ioc_task
from devices.motion import STOP_S, MotionLimitError, Motor, move_all
from skywright.errors import HardwareError

NOTHING = 1e-9
"""Relative size of a move of a motor that is left out."""


def _triple(name: str, xyz_um: Any) -> NDArray[np.float64]:
    """Return x, y, z as an array; raise `HardwareError` if they are not three finite numbers."""
    with contextlib.suppress(TypeError, ValueError):
        wanted = np.asarray(xyz_um, dtype=np.float64)
        if wanted.shape == (3,) and np.isfinite(wanted).all():
            return wanted
    raise HardwareError(f"{name}: {xyz_um!r}, expected x, y, z in um, all finite")


class _PartOfStage:
    """Moves the sample stage, its parent, by the shift that a value means for this part."""

    parent: Any

    def set(self, value: Any, **_: Any) -> TaskStatus:
        """Move the sample as the value says, from where it rests."""
        self.parent.await_stop()
        return self.parent.shift(self._shift(value))

    def check_value(self, value: Any) -> None:
        """Raise `MotionLimitError` if the stages cannot go there."""
        self.parent.moves(self._shift(value))

    def stop(self, *, success: bool = False) -> None:
        """Stop the stages."""
        self.parent.stop(success=success)

    def _shift(self, value: Any) -> NDArray[np.float64]:
        """Return the offset of the sample from where it is, dx, dy, dz in um."""
        raise NotImplementedError


class SampleAxis(_PartOfStage, Signal):
    """One coordinate of the sample, um: readable and movable."""

    def __init__(self, *, index: int, **kwargs: Any) -> None:
        super().__init__(value=float("nan"), **kwargs)
        self._index = index

    def get(self, **_: Any) -> float:
        """Return the coordinate, um."""
        return float(self.parent.position[self._index])

    @property
    def position(self) -> float:
        """The coordinate, um."""
        return self.get()

    def put(self, value: float, **_: Any) -> None:
        """Move, and wait."""
        self.set(value).wait()

    def _shift(self, value: Any) -> NDArray[np.float64]:
        if not (isinstance(value, Real) and math.isfinite(value)):
            raise HardwareError(f"{self.name}: {value!r}, expected a finite number, um")
        shift = np.zeros(3)
        shift[self._index] = value - self.parent.known_position()[self._index]
        return shift

    def read(self) -> dict[str, Any]:
        """Read the coordinate."""
        return {self.name: {"value": self.get(), "timestamp": time.time()}}

    def describe(self) -> dict[str, Any]:
        """Describe the coordinate."""
        source = f"PV:{self.parent.source}"
        key = {"source": source, "dtype": "number", "shape": [], "units": "um", "precision": 2}
        return {self.name: {**key, "dtype_numpy": "<f8"}}


class SampleShift(_PartOfStage, Device):
    """Moves the sample by an offset: `set((dx, dy, dz))`, um, goniometer frame."""

    def _shift(self, value: Any) -> NDArray[np.float64]:
        return _triple(self.name, value)


class SampleStage(Device):
    """Where the sample is in the goniometer frame, and how to move it.

    x along the spindle, y and z across it, turning with the sample; um. Zero is where all motors
    are zero. `set((x, y, z))` moves to a place, `by.set((dx, dy, dz))` by an offset; `x`, `y` and
    `z` can be scanned. Its parent gives the motors (`stages`, `phi`) and the directions (`setup`).
    """

    x = Cpt(SampleAxis, index=0, kind=Kind.normal)
    y = Cpt(SampleAxis, index=1, kind=Kind.normal)
    z = Cpt(SampleAxis, index=2, kind=Kind.normal)
    by = Cpt(SampleShift, "", kind=Kind.omitted)

    _task: TaskStatus | None = None
    _stopped_well = False

    @property
    def source(self) -> str:
        """The PVs that the coordinates come from, for descriptors."""
        return " ".join(motor.user_readback.pvname for motor in self.parent.stages)

    def _units(self) -> tuple[str, ...]:
        return tuple(motor.motor_egu.get() for motor in self.parent.stages)

    @property
    def position(self) -> NDArray[np.float64]:
        """(3,) float64: x, y, z in um. Raises HardwareError when an IOC does not answer."""
        for motor in (*self.parent.stages, self.parent.phi):
            motor.check_connected()
        motors = [motor.position for motor in self.parent.stages]
        return self.parent.setup.sample_um(motors, self.parent.phi.position, self._units())

    def known_position(self) -> NDArray[np.float64]:
        """Return `position`; raise `HardwareError` if a motor does not know where it is."""
        here = self.position
        for motor in (*self.parent.stages, self.parent.phi):
            motor.check_position_known()
        return here

    def moves(self, shift_um: NDArray[np.float64]) -> list[tuple[Motor, float]]:
        """Return the motors that must move to bring the sample by an offset, and where to.

        Parameters
        ----------
        shift_um
            dx, dy, dz, (3,).

        Raises
        ------
        HardwareError
            If a motor does not know where it is, or the spindle moves under stages on a table.
        MotionLimitError
            If a stage would leave its limits.
        """
        here = self.known_position()
        phi = self.parent.phi
        if self.parent.setup.mounting == "table" and not phi.motor_done_move.get():
            raise HardwareError(f"{self.name}: {phi.name} turns; what the stages do depends on it")
        ways = self.parent.setup.motor_moves(shift_um, phi.position, self._units())
        moves = [
            (motor, motor.position + float(way))
            for motor, way in zip(self.parent.stages, ways, strict=True)
            if abs(way) > NOTHING * max(1.0, abs(motor.position))
        ]
        for motor, position in moves:
            try:
                motor.check_value(position)
            except MotionLimitError as error:
                where = ", ".join(f"{value:.1f}" for value in here + shift_um)
                raise MotionLimitError(
                    f"{self.name}: the sample cannot go to ({where}) um: {error}"
                ) from error
        return moves

    def check_value(self, xyz_um: Any) -> None:
        """Raise `MotionLimitError` if the stages cannot bring the sample to a place."""
        self.moves(self._way_to(xyz_um))

    def set(self, xyz_um: Any) -> TaskStatus:
        """Move the sample to a place; raises as `shift` does."""
        self.await_stop()
        return self.shift(self._way_to(xyz_um))

    def shift(self, shift_um: NDArray[np.float64]) -> TaskStatus:
        """Move the sample by an offset, dx, dy, dz in um, with the stages that have a part in it.

        Raises
        ------
        HardwareError
            If an IOC does not answer, or the sample is on its way already.
        MotionLimitError
            If a stage would leave its limits; nothing moves then.
        """
        if self._task is not None and not self._task.done:
            raise HardwareError(f"{self.name}: is on its way already; wait, or stop it")
        moves = self.moves(shift_um)
        self._stopped_well = False
        self._task = run_ioc_task(self, lambda: move_all(moves))
        return self._task

    def _way_to(self, xyz_um: Any) -> NDArray[np.float64]:
        return _triple(self.name, xyz_um) - self.known_position()

    def await_stop(self) -> None:
        """Wait for the end of a move that was stopped with `success`, at most `STOP_S`."""
        if self._stopped_well and self._task is not None:
            with contextlib.suppress(Exception):  # its status reports it
                self._task.wait(STOP_S)

    def stop(self, *, success: bool = False) -> None:
        """Stop the stages; with `success` a move under way ends without an error."""
        self._stopped_well = success
        for motor in self.parent.stages:
            motor.stop(success=success)
