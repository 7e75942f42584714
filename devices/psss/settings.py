"""Settings of the spectrometer that need several puts or checks: ROI, energy axis, background."""

import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from bluesky.protocols import Reading, Status
from numpy.typing import NDArray

from devices.guarded import PUT_S
from skywright.errors import ConfigError, HardwareError
from skywright.instruments.psss.settings import PULSES_MAX, axis_of, checked_roi
from skywright.waiting import wait_until

DEGREE_MAX = 5
STEP_PART = 1e-3
"""Largest error of a polynomial that counts as equal to the axis, as a part of its least step."""
RECORD_MORE_S = 5.0
"""Time, s, that is added to the IOC's own timeout of a background, to get its message."""


class Part:
    """Base class of the settings: Movable and Readable.

    `read` gives the one value of `get`; a subclass with more values overrides `read` and
    `describe`.

    Parameters
    ----------
    device
        The spectrometer.
    name
        Name of the setting; it is appended to the name of the device.
    """

    parent = None
    hints: ClassVar[dict[str, Any]] = {}
    """Empty: tables do not show the setting."""
    units = ""

    def __init__(self, device: Any, name: str) -> None:
        self.device = device
        self.name = f"{device.name}_{name}"

    def __repr__(self) -> str:
        """Return class and name, as the console of a session shows it."""
        return f"{type(self).__name__}(name={self.name!r})"

    def get(self) -> list[float]:
        """Return the value in use."""
        raise NotImplementedError

    def read(self) -> dict[str, Reading[Any]]:
        """Read the value in use."""
        return {self.name: {"value": self.get(), "timestamp": time.time()}}

    def describe(self) -> dict[str, Any]:
        """Describe the value."""
        key = {
            "source": f"PV:{self.device.prefix}",
            "dtype": "array",
            "shape": [len(self.get())],
            "dtype_numpy": "<f8",
        }
        return {self.name: {**key, **({"units": self.units} if self.units else {})}}

    def _until(self, reached: Callable[[], bool], what: str, limit_s: float = PUT_S) -> None:
        """Wait until the IOC has the requested value.

        Raises
        ------
        HardwareError
            If it does not have it within `limit_s`.
        """
        if not wait_until(reached, limit_s):
            raise HardwareError(f"{self.name}: {what}; {self.device.reason()}")


class Roi(Part):
    """Rows of the picture that are summed, [ymin, ymax); (0, 0) is the whole."""

    units = "px"

    def get(self) -> list[float]:
        """Return the edges in use."""
        device = self.device
        return [float(device.fetch(edge)) for edge in (device.roi_ymin, device.roi_ymax)]

    def set(self, rows: Sequence[float]) -> Status:
        """Set the rows; done when the IOC uses them.

        Raises
        ------
        ConfigError
            If the rows are not 0 <= ymin < ymax or both 0; then nothing is put.
        """
        try:
            ymin, ymax = checked_roi(rows)
        except ConfigError as error:
            raise ConfigError(
                f"{self.name}: {rows!r}, expected 0 <= ymin < ymax < 2^31 in whole rows, or (0, 0)"
            ) from error

        def work() -> None:
            # In between the pair may be no ROI; the IOC then uses the last one
            self.device.put_setpoint(self.device.roi_ymin, ymin)
            self.device.put_setpoint(self.device.roi_ymax, ymax)
            self._until(lambda: self.get() == [ymin, ymax], f"did not become [{ymin}, {ymax})")

        return self.device.in_background(work)


class EnergyAxis(Part):
    """Photon energy as polynomial of the column number, eV, [first, step, ...]; empty: pixels."""

    units = "eV"

    def __init__(self, device: Any, name: str) -> None:
        super().__init__(device, name)
        self._inexact: tuple[list[float], NDArray[np.float64]] = [], np.empty(0)
        """Coefficients that `get` returned last for an axis that is no polynomial, and the axis."""

    def values(self) -> NDArray[np.float64] | None:
        """Return the axis in use, (columns,) eV; None when there is none."""
        device = self.device
        axis = np.atleast_1d(np.asarray(device.fetch(device.spectrum_x), np.float64))
        if len(axis) < 2 or np.array_equal(axis, np.arange(len(axis))):
            return None
        return axis

    def get(self) -> list[float]:
        """Return the coefficients of the axis, with the least degree that is exact, or degree 5."""
        axis = self.values()
        if axis is None:
            return []
        columns = np.arange(len(axis), dtype=np.float64)
        allowed = STEP_PART * float(np.abs(np.diff(axis)).min())
        for degree in range(1, DEGREE_MAX + 1):
            fit = np.polynomial.Polynomial.fit(columns, axis, degree)
            if np.abs(fit(columns) - axis).max() <= allowed:
                break
        else:
            self._inexact = fit.convert().coef.tolist(), axis
        found: list[float] = fit.convert().coef.tolist()
        return found

    def set(self, coefficients: Sequence[float] | None) -> Status:
        """Set the axis of all columns of the picture; None or no coefficients: pixels.

        If `get` returned the same coefficients for an axis that is no polynomial, that axis is set.

        Raises
        ------
        ConfigError
            If the axis is not finite, or neither rises nor falls throughout; then nothing is put.
        """
        wanted = None if coefficients is None or not len(coefficients) else list(coefficients)

        def work() -> None:
            if wanted is None:
                self.device.put_setpoint(self.device.spectrum_x, [0.0])
                self._until(lambda: self.values() is None, "the axis was not taken away")
                return
            width = int(self.device.fetch(self.device.width))
            if not width:
                raise HardwareError(f"{self.name}: no picture yet, so no width; take a pulse first")
            inexact, axis = self._inexact
            if wanted != inexact or len(axis) != width:
                axis = axis_of(wanted, width)
            self.device.put_setpoint(self.device.spectrum_x, axis)

            def is_used() -> bool:
                used = self.values()
                return used is not None and np.array_equal(used, axis)

            self._until(is_used, "the axis was not taken")

        if wanted is not None and wanted != self._inexact[0]:
            axis_of(wanted, 2)
        return self.device.in_background(work)


class BackgroundRecorder(Part):
    """Records a background: the mean of a number of pulses, which is then in use."""

    def __init__(self, device: Any, name: str) -> None:
        super().__init__(device, name)
        self._recorded = 0, ""
        self._status: Status | None = None
        self._cancels = 0
        """Number of recordings that this object has cancelled."""

    def read(self) -> dict[str, Reading[Any]]:
        """Read number of pulses and name of the last background that this object recorded."""
        pulses, name = self._recorded
        values = {self.name: pulses, f"{self.name}_name": name}
        return {key: {"value": value, "timestamp": time.time()} for key, value in values.items()}

    def describe(self) -> dict[str, Any]:
        """Describe what `read` returns."""
        source = f"PV:{self.device.prefix}BACKGROUND_RBV"
        return {
            self.name: {"source": source, "dtype": "integer", "shape": []},
            f"{self.name}_name": {"source": source, "dtype": "string", "shape": []},
        }

    def set(self, pulses: int) -> Status:
        """Record the mean of the next N pulses as background; done when it is in use.

        0 cancels the recording of this object in progress; for that of another client put 0 to the
        PV. A new recording cancels the one in progress, so that a plan that resumes begins it
        again. The status of a cancelled recording is done; there is no new background.

        Raises
        ------
        ConfigError
            If the number is not 0..10000; then nothing is put.
        """
        if type(pulses) is not int or not 0 <= pulses <= PULSES_MAX:
            raise ConfigError(f"{self.name}: {pulses!r} pulses, expected 0..{PULSES_MAX}")
        self._cancels += self._is_recording()
        cancels, cancel_first = self._cancels, self._is_recording()

        def work() -> None:
            # Imported here, because it takes a second
            from skywright.instruments.psss.background import record_limit_s

            device = self.device
            if cancel_first:
                device.put_setpoint(device.background_record, 0)
            if not pulses or cancels != self._cancels:
                return
            limit_s = record_limit_s(pulses) + RECORD_MORE_S
            device.put_setpoint(device.background_record, pulses, limit_s)
            if cancels != self._cancels:
                return  # a failed status would end the plan that has cancelled this recording
            name = str(device.fetch(device.background_recorded))
            if not name:
                raise HardwareError(
                    f"{self.name}: no background of {pulses} pulses; {device.reason()}"
                )
            self._until(
                lambda: str(device.fetch(device.background)) == name,
                f"{name!r} was recorded, and is not in use",
                2.0,
            )
            self._recorded = pulses, name

        self._status = self.device.in_background(work)
        return self._status

    def stop(self, *, success: bool = False) -> None:
        """Cancel the recording of this object in progress; the engine calls this at a pause too."""
        if self._is_recording() and self.device.connected:
            self._cancels += 1
            self.device.background_record.put(0, wait=False)

    def _is_recording(self) -> bool:
        return self._status is not None and not self._status.done
