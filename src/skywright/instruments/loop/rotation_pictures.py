"""Report of a rotation: plots of the fit, pictures with the detections, and a text."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFont

from skywright.analysis import Batch
from skywright.analysis.display import contact_sheet
from skywright.instruments.loop.calibration import ZoomCalibration
from skywright.instruments.loop.detection import from_row
from skywright.instruments.loop.draw import annotate, canvas, figure_png
from skywright.instruments.loop.geometry import Floats, axis_um, to_view
from skywright.instruments.loop.picture import encode_jpeg, encode_png

POINTS = 361
SEEN = ("phi", "tip_x", "tip_y", "xmin", "xmax", "ymin", "ymax", "width")
"""Columns of the inputs of `LoopRotation`, (n,) each: the spindle, the tip, the borders of the box
around the loop, its width across the pin's axis; deg and px."""
TIP, MIDDLE, AXIS = "#c8322b", "#2f6db5", "#777777"
BEAM = (40, 220, 255)
SHEET = 12
Picture = NDArray[np.uint8]
"""(H, W) or (H, W, 3) uint8."""


@dataclass(frozen=True)
class RotationCurves:
    """Heights from the spindle and widths, um."""

    phi_deg: Floats
    seen: Mapping[str, Floats]
    width: Floats
    """(n,) float64 each: the spindle, the height of ``"tip"`` and ``"middle"`` and the width of the
    loop in each picture; NaN where not known."""
    curve_deg: Floats
    fitted: Mapping[str, Floats]
    fitted_width: Floats
    """(m,) float64 each: angles of the fitted curves, and the curves; NaN where there is no fit."""


def rotation_curves(
    seen: Sequence[Floats], result: Mapping[str, Any], calibration: ZoomCalibration
) -> RotationCurves:
    """Put what was seen in a rotation, the columns `SEEN`, beside the results of `LoopRotation`."""
    phi, x, y, left, right, top, bottom, width = seen
    points = {"tip": (x, y), "middle": (0.5 * (left + right), 0.5 * (top + bottom))}
    view = calibration.view
    row = result["axis_row"]
    axis = axis_um(row if np.isfinite(row) else calibration.axis_px, view)
    known = phi[np.isfinite(phi)]
    ends = (float(known.min()), float(known.max())) if known.size else (0.0, 180.0)
    curve = np.linspace(*ends, POINTS)
    return RotationCurves(
        phi_deg=phi,
        seen={
            name: to_view(np.stack(point, axis=1), view)[:, 1] - axis
            for name, point in points.items()
        },
        width=width * view.pixel_um,
        curve_deg=curve,
        fitted={name: _height(result, name, curve, view.phi_sign) for name in ("tip", "middle")},
        fitted_width=flat_width(result, curve),
    )


def flat_width(result: Mapping[str, Any], phi_deg: Any) -> Any:
    """Return the width at which a flat loop is seen, by the face, width and thickness of a fit."""
    turn = np.deg2rad(phi_deg - result["face_on"])
    return np.hypot(result["width"] * np.cos(turn), result["thickness"] * np.sin(turn))


def describe_result(result: Mapping[str, Any]) -> str:
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


def draw_rotation(
    batch: Batch, result: Mapping[str, Any], calibration: ZoomCalibration
) -> dict[str, bytes]:
    """Draw tip, middle and width over the angle of the spindle, with what was fitted.

    `batch` and `result` are inputs and results of `skywright.instruments.loop.rotation`'s analysis;
    returns the contents of ``rotation.png``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), dpi=110, layout="constrained")
    place, width = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    seen = [batch[name].astype(np.float64) for name in SEEN]
    curves = rotation_curves(seen, result, calibration)
    for name, color in (("tip", TIP), ("middle", MIDDLE)):
        place.plot(curves.phi_deg, curves.seen[name], "o", ms=3, color=color, label=f"{name}, seen")
        place.plot(curves.curve_deg, curves.fitted[name], "-", lw=1, color=color)
    place.axhline(0.0, color=AXIS, lw=0.8, ls="--")
    place.set_ylabel("from the spindle, um")
    place.legend(loc="upper right", fontsize="small")
    place.set_title(describe_result(result), fontsize="medium", loc="left")
    width.plot(curves.phi_deg, curves.width, "o", ms=3, color=MIDDLE)
    width.plot(curves.curve_deg, curves.fitted_width, "-", lw=1, color=MIDDLE)
    width.set_ylabel("width of the loop, um")
    width.set_xlabel("spindle, deg")
    return {"rotation.png": figure_png(figure)}


def places_on_sheet(phi_deg: Floats) -> list[int]:
    """Return the rows of at most `SHEET` pictures, spread over those whose angle is known."""
    known = np.flatnonzero(np.isfinite(phi_deg))
    picks = np.linspace(0, known.size - 1, min(SHEET, known.size)).round().astype(int)
    return [int(row) for row in known[picks]]


def draw_sheet(
    pictures: Iterable[tuple[int, Picture]], members: Batch, calibration: ZoomCalibration
) -> Iterator[tuple[str, bytes]]:
    """Draw what was found into pictures of a rotation, and where the beam is; and a sheet of them.

    `pictures` are rows of the run with the picture of each, `members` the inputs of `LoopRotation`
    in all rows. Yields name and contents of ``rotation_NNNN.jpg``, each as soon as it is drawn, and
    of ``rotation_sheet.png``.
    """
    drawn = []
    for row, picture in pictures:
        values = {name: column[row] for name, column in members.data.items()}
        found = annotate(picture, from_row(values), f"{row}: {values['phi']:.1f} deg")
        drawn.append(_mark_beam(found, calibration))
        yield f"rotation_{row:04d}.jpg", encode_jpeg(drawn[-1], 90, "444")
    if drawn:
        yield "rotation_sheet.png", encode_png(contact_sheet(drawn))


def draw_before_after(
    before: tuple[Picture, str], after: tuple[Picture, str], calibration: ZoomCalibration
) -> dict[str, bytes]:
    """Put two pictures side by side, each with its text and the beam, as ``before_after.png``."""
    pair = [_mark_beam(picture, calibration, text) for picture, text in (before, after)]
    return {"before_after.png": encode_png(contact_sheet(pair, columns=2, cell_px=720))}


def _mark_beam(picture: Picture, calibration: ZoomCalibration, text: str = "") -> Picture:
    """Draw the beam, and a text at the top, into a copy, (H, W, 3) uint8, of a picture."""
    (image, draw, unit), view = canvas(picture), calibration.view
    x, y = view.by_spindle(view.target, calibration.axis_px)
    radius, arm = 14 * unit, 28 * unit
    draw.circle((x, y), radius, outline=BEAM, width=unit)
    draw.line((x - arm, y, x + arm, y), fill=BEAM, width=unit)
    draw.line((x, y - arm, x, y + arm), fill=BEAM, width=unit)
    if text:
        font = ImageFont.load_default(14 * unit)
        draw.text((6, 4), text, fill=BEAM, font=font, stroke_width=unit, stroke_fill=(0, 0, 0))
    return np.asarray(image)
