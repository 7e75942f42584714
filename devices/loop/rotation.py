"""What a rotation of the sample tells, for decisions; the camera's calibration as a device."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from devices.live_result import LiveResult, StatusWithReason
from skywright.callbacks.reports import Reports
from skywright.errors import ConfigError
from skywright.instruments.loop.calibration import CalibrationFile, ZoomCalibration, as_json

HINTED_RESULTS = ("ok", "middle_x", "middle_y", "middle_z", "middle_sigma", "face_on")


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
        self.file = CalibrationFile(path)
        self.name = name

    def set(self, values: Mapping[str, Any]) -> StatusWithReason:
        """Save the calibration of one zoom."""
        status = StatusWithReason(obj=self)
        try:
            self.file.save(ZoomCalibration(**values))
        except (ConfigError, OSError, TypeError, ValueError) as error:
            status.set_exception(
                error if isinstance(error, ConfigError) else ConfigError(f"{self.name}: {error}")
            )
        else:
            status.set_finished()
        return status

    def check_value(self, zoom: float) -> None:
        """Raise `ConfigError` if the camera is not calibrated at a zoom."""
        try:
            self.file.at(zoom)
        except ConfigError as error:
            raise ConfigError(f"{self.name}: {error}") from error

    def read(self) -> dict[str, Any]:
        """Return the calibrations as JSON text."""
        text = json.dumps([as_json(stop) for stop in self.file.stops()])
        return {self.name: {"value": text, "timestamp": time.time()}}

    def describe(self) -> dict[str, Any]:
        """Describe the text."""
        return {self.name: {"source": str(self.file.path), "dtype": "string", "shape": []}}


class RotationResult(LiveResult):
    """The live result of `loop_rotation`, with the calibration that it stands on.

    Parameters
    ----------
    live
        The rotations of the session.
    calibration
        Of the camera; a plan sets it, and it is recorded with each run.
    name, **options
        As for `LiveResult`.
    """

    def __init__(
        self,
        live: Reports,
        calibration: CameraCalibration,
        name: str = "rotation",
        **options: Any,
    ) -> None:
        super().__init__(live, name, hinted=HINTED_RESULTS, **options)
        self.calibration = calibration

    def read_configuration(self) -> dict[str, Any]:
        """Return which analysis it is, and the camera's calibrations."""
        return super().read_configuration() | self.calibration.read()

    def describe_configuration(self) -> dict[str, Any]:
        """Describe them."""
        return super().describe_configuration() | self.calibration.describe()
