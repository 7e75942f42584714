"""A rotation as curves over the spindle's angle: what was seen, and what was fitted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from skywright.instruments.loop.calibration import ZoomCalibration
from skywright.instruments.loop.geometry import Floats, axis_um, to_view

POINTS = 361


@dataclass(frozen=True)
class RotationCurves:
    """Heights from the spindle and widths, um."""

    phi_deg: Floats
    """(n,) float64: spindle at each picture; NaN where it is not known."""
    seen: Mapping[str, Floats]
    """Height of ``"tip"`` and ``"middle"`` in each picture, (n,) float64; NaN where not seen."""
    width: Floats
    """(n,) float64: of the loop in each picture."""
    curve_deg: Floats
    """(m,) float64: angles of the fitted curves."""
    fitted: Mapping[str, Floats]
    """Height of ``"tip"`` and ``"middle"``, (m,) float64; NaN where there is no fit."""
    fitted_width: Floats
    """(m,) float64: NaN if the face is not known."""


def rotation_curves(
    phi_deg: Floats,
    tip_px: Floats,
    box_px: Floats,
    width_px: Floats,
    result: Mapping[str, Any],
    calibration: ZoomCalibration,
) -> RotationCurves:
    """Put what was seen in a rotation beside the results of `LoopRotation`.

    Parameters
    ----------
    phi_deg, width_px : (n,) float64
        Spindle at each picture; width of the loop across the pin's axis.
    tip_px : (n, 2) float64
        Tip, x and y.
    box_px : (n, 4) float64
        Box around the loop: left, right, top, bottom.
    """
    view = calibration.view
    row = result["axis_row"]
    axis = axis_um(row if np.isfinite(row) else calibration.axis_px, view)
    middle_px = 0.5 * np.stack([box_px[:, 0] + box_px[:, 1], box_px[:, 2] + box_px[:, 3]], axis=1)
    known = phi_deg[np.isfinite(phi_deg)]
    ends = (float(known.min()), float(known.max())) if known.size else (0.0, 180.0)
    curve = np.linspace(*ends, POINTS)
    return RotationCurves(
        phi_deg=phi_deg,
        seen={
            "tip": to_view(tip_px, view)[:, 1] - axis,
            "middle": to_view(middle_px, view)[:, 1] - axis,
        },
        width=width_px * view.pixel_um,
        curve_deg=curve,
        fitted={name: _height(result, name, curve, view.phi_sign) for name in ("tip", "middle")},
        fitted_width=flat_width(result, curve),
    )


def flat_width(result: Mapping[str, Any], phi_deg: Any) -> Any:
    """Return the width at which a flat loop is seen, by the face, width and thickness of a fit."""
    turn = np.deg2rad(phi_deg - result["face_on"])
    return np.hypot(result["width"] * np.cos(turn), result["thickness"] * np.sin(turn))


def in_words(result: Mapping[str, Any]) -> str:
    """Say where the loop of a rotation is and how it faces, or why that is not known."""
    if not result["middle_ok"] and not result["ok"]:
        return result["why"] or result["middle_why"]
    point = "middle" if result["middle_ok"] else "tip"
    x, y, z = (result[f"{point}_{axis}"] for axis in "xyz")
    face = f", face-on at {result['face_on']:.1f} deg" if np.isfinite(result["face_on"]) else ""
    return (
        f"{result['kind']}: {point} at x {x:.1f}, y {y:.1f}, z {z:.1f} um "
        f"(+- {result[f'{point}_sigma']:.1f}){face}"
    )


def _height(result: Mapping[str, Any], name: str, phi_deg: Floats, sign: int) -> Floats:
    phi = np.deg2rad(phi_deg) * sign
    return np.asarray(result[f"{name}_y"] * np.cos(phi) - result[f"{name}_z"] * np.sin(phi))
