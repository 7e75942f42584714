"""The file with the camera's calibrations, one for each zoom, that a session writes and reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skywright.config import Settings
from skywright.errors import ConfigError
from skywright.instruments.loop.calibration import (
    ZoomCalibration,
    at_zoom,
    load_calibrations,
    now,
    save_calibrations,
)
from skywright.instruments.loop.geometry import UM_PER_PX


@dataclass(frozen=True)
class CalibrationFile:
    """A JSON file of calibrations.

    Parameters
    ----------
    path
        Of the file; it need not exist.
    """

    path: Path

    def stops(self) -> list[ZoomCalibration]:
        """Return all calibrations; none where there is no file."""
        return load_calibrations(self.path) if self.path.exists() else []

    def save(self, new: ZoomCalibration) -> None:
        """Save the calibration of one zoom; those of other zooms stay."""
        others = [stop for stop in self.stops() if stop.zoom != new.zoom]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        save_calibrations([*others, new], self.path)

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
        stops = self.stops()
        if not stops:
            raise ConfigError(
                f"{self.path} holds no calibration of the camera; run calibrate_camera"
            )
        found = at_zoom(stops, zoom)
        if shape and (found.height_px, found.width_px) != shape[:2]:
            raise ConfigError(
                f"zoom {zoom:g} is calibrated for pictures of {found.width_px} x "
                f"{found.height_px} px, the camera sends {shape[1]} x {shape[0]}; calibrate it"
            )
        return found

    def at_or_guess(self, zoom: float, shape: tuple[int, ...]) -> ZoomCalibration:
        """Return the calibration at a zoom or, where the file has none, a guess with its errors."""
        if self.stops():
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


def session_calibrations(settings: Settings) -> Path:
    """Return where a session keeps the calibrations of its camera."""
    return settings.directory / "calibration" / "axis.json"


def rotation_parameters(settings: Settings) -> dict[str, Any]:
    """Return the parameters of `loop_rotation` in a session."""
    return {"calibrations": str(session_calibrations(settings))}
