"""What a rotation of the sample tells, as a device for decisions; the camera's calibration as one.

A plan triggers `RotationResult` to wait until all pictures so far are analyzed, and reads it.
"""

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ophyd.status import Status, StatusBase

from devices.live_result import LiveResult, descriptions, readings
from skywright.errors import ConfigError, HardwareError, SkywrightError
from skywright.instruments.loop.calibration import (
    ZoomCalibration,
    at_zoom,
    load_calibrations,
    now,
    save_calibrations,
)
from skywright.instruments.loop.geometry import UM_PER_PX
from skywright.instruments.loop.live_rotation import LiveRotation
from skywright.instruments.loop.rotation import RESULTS, as_json

COLUMNS_S = 2.0


class SaidStatus(Status):
    """A status that, when it failed, shows why; the engine puts that into the stop document."""

    def __repr__(self) -> str:
        error = self.exception(timeout=0) if self.done else None
        return super().__repr__() if error is None else f"{type(error).__name__}: {error}"

    __str__ = __repr__


class CameraCalibration:
    """The camera's calibrations, one for each zoom, in one JSON file.

    `set` takes the fields of a `ZoomCalibration` and saves them; those of other zooms stay.

    Parameters
    ----------
    path
        Of the file; it need not exist.
    name
        Of the device.
    """

    parent = None

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name

    def set(self, values: Mapping[str, Any]) -> Status:
        """Save the calibration of one zoom; it replaces the one of the same zoom."""
        status = SaidStatus(obj=self)
        try:
            new = ZoomCalibration(**values)
            others = [stop for stop in self._stops() if stop.zoom != new.zoom]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            save_calibrations([*others, new], self.path)
        except (ConfigError, OSError, ValueError) as error:
            status.set_exception(
                error if isinstance(error, ConfigError) else ConfigError(f"{self.name}: {error}")
            )
        else:
            status.set_finished()
        return status

    def _stops(self) -> list[ZoomCalibration]:
        return load_calibrations(self.path) if self.path.exists() else []

    def at(self, zoom: float, shape: tuple[int, ...] = ()) -> ZoomCalibration:
        """Return the calibration at a zoom.

        Parameters
        ----------
        zoom
            Position of the zoom.
        shape
            (H, W, ...) of the pictures, where known.

        Raises
        ------
        ConfigError
            If there is none, or it is for pictures of another size.
        """
        stops = self._stops()
        if not stops:
            raise ConfigError(
                f"{self.name}: {self.path} holds no calibration of the camera; run calibrate_camera"
            )
        found = at_zoom(stops, zoom)
        if shape and (found.height_px, found.width_px) != shape[:2]:
            raise ConfigError(
                f"{self.name}: zoom {zoom:g} is calibrated for pictures of {found.width_px} x "
                f"{found.height_px} px, the camera sends {shape[1]} x {shape[0]}; calibrate it"
            )
        return found

    def at_or_guess(self, zoom: float, shape: tuple[int, ...]) -> ZoomCalibration:
        """Return the calibration at a zoom or, where the file has none, a guess with its errors."""
        if self._stops():
            return self.at(zoom, shape)
        height, width = shape[:2]
        return ZoomCalibration(
            zoom=zoom,
            um_per_px_x=UM_PER_PX,
            um_per_px_y=UM_PER_PX,
            axis_px=(height - 1) / 2.0,
            axis_sigma_px=height / 6.0,
            scale_residual_px=float(height),
            axis_residual_px=float(height),
            date=now(),
            width_px=width,
            height_px=height,
        )

    def check_value(self, zoom: float) -> None:
        """Raise `ConfigError` if the camera is not calibrated at a zoom."""
        self.at(zoom)

    def read(self) -> dict[str, Any]:
        """Return the calibrations as JSON text."""
        text = json.dumps([as_json(stop) for stop in self._stops()])
        return {self.name: {"value": text, "timestamp": time.time()}}

    def describe(self) -> dict[str, Any]:
        """Describe the text."""
        return {self.name: {"source": str(self.path), "dtype": "string", "shape": []}}


class RotationResult:
    """Scalars of the present rotation: Triggerable and Readable.

    They are those of `skywright.instruments.loop.rotation.RESULTS`.

    Parameters
    ----------
    live
        The rotations, subscribed to the RunEngine.
    calibration
        The same as that of `live`; recorded with each run.
    name
        Device name; data keys are ``<name>_<result>``.
    timeout_s
        Limit of `trigger`.
    """

    parent = None

    def __init__(
        self,
        live: LiveRotation,
        calibration: CameraCalibration,
        name: str = "rotation",
        *,
        timeout_s: float = 5.0,
    ) -> None:
        self.live = live
        self.calibration = calibration
        self.name = name
        self._pictures = LiveResult(live.detection, name, timeout_s=timeout_s)
        self._result: Mapping[str, Any] = {}
        self._stamp = 0.0

    @property
    def hints(self) -> dict[str, list[str]]:
        """Fields that tables show."""
        shown = ("ok", "middle_x", "middle_y", "middle_z", "middle_sigma", "face_on")
        return {"fields": [f"{self.name}_{key}" for key in shown]}

    def trigger(self) -> Status:
        """Wait for what the pictures until now tell.

        Returns
        -------
        Status
            Fails with `HardwareError` when the analysis fails or does not get there in time, with
            `ConfigError` when the camera is not calibrated for its pictures.
        """
        status = SaidStatus(obj=self)

        def go_on(pictures: StatusBase) -> None:
            work = self._fail if pictures.exception(timeout=0) else self._find
            threading.Thread(
                target=work, args=(status, pictures), name=f"{self.name}-find", daemon=True
            ).start()

        self._pictures.trigger().add_callback(go_on)
        return status

    def _fail(self, status: Status, pictures: StatusBase) -> None:
        error = pictures.exception(timeout=0)
        status.set_exception(error or HardwareError(f"{self.name}: the analysis failed"))

    def _find(self, status: Status, pictures: StatusBase) -> None:
        detection = self.live.detection
        try:
            found = self.live.find(detection.raw_uid or "", detection.announced, COLUMNS_S)
        except (SkywrightError, TimeoutError, OSError) as error:
            known = isinstance(error, ConfigError)
            status.set_exception(error if known else HardwareError(f"{self.name}: {error}"))
        except Exception as error:  # whatever it is, the plan must see it
            status.set_exception(error)
        else:
            self._result, self._stamp = found.result, time.time()
            status.set_finished()

    def read(self) -> dict[str, Any]:
        """Return what the last `trigger` waited for; missing is NaN, "" or -1."""
        return readings(self.name, RESULTS, self._result, self._stamp or time.time())

    def describe(self) -> dict[str, Any]:
        """Return types, units and descriptions."""
        return descriptions(self.name, RESULTS, "ANALYSIS:loop_rotation")

    def read_configuration(self) -> dict[str, Any]:
        """Return the camera's calibrations."""
        return self.calibration.read()

    def describe_configuration(self) -> dict[str, Any]:
        """Describe them."""
        return self.calibration.describe()
