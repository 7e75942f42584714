"""Plans for a centered loop: turn its face to the camera, and box it for a raster."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.protocols import Flyable, Movable, Readable
from bluesky.utils import MsgGenerator

from plans.checks import Needs, check_devices, check_limits, finite, flag
from plans.loop import stubs
from plans.run_stubs import with_device_errors
from skywright.errors import ConfigError, SampleError
from skywright.instruments.loop.decision import check_light
from skywright.instruments.loop.rotation_values import RotationValues

AGREEMENT = 0.2
"""The two views of a loop differ in length by this part at most, or one of them is wrong."""


@dataclass(frozen=True)
class RasterBox:
    """The box around a loop, seen face on and edge on; um, from the beam.

    Attributes
    ----------
    face_on_deg
        Spindle angle of the first view; all values are for this angle. The second view is 90 deg
        further, or back where phi cannot go there.
    along_um, across_um, depth_um
        Middle of the box: along the spindle; across it as seen at `face_on_deg`; and across it as
        seen at `face_on_deg` + 90, also where the second view was taken 90 deg back.
    length_um, width_um, thickness_um
        Its extents in the same order, the margin included.
    step_um
        Of the raster.
    n_along, n_across, n_depth
        Steps of the raster that cover the box.
    edge_seen
        The edge-on view showed the same loop; else thickness and depth are those that were given.
    uid
        Of the run with the two views.
    """

    face_on_deg: float
    along_um: float
    across_um: float
    depth_um: float
    length_um: float
    width_um: float
    thickness_um: float
    step_um: float
    n_along: int
    n_across: int
    n_depth: int
    edge_seen: bool
    uid: str


def face_angle(face_on_deg: float, phi_deg: float, edge: bool = False) -> float:
    """Return the angle nearest to `phi_deg` at which a loop is seen face on, or edge on.

    Parameters
    ----------
    face_on_deg
        Of the loop; modulo 180.
    phi_deg
        Where the spindle stands.
    edge
        90 deg from the face.
    """
    wanted = face_on_deg + (90.0 if edge else 0.0)
    return phi_deg + (wanted - phi_deg + 90.0) % 180.0 - 90.0


def _two_angles(face_on_deg: float, phi_deg: float, edge: bool = False) -> tuple[float, float]:
    """Return the angle of `face_angle`, and the nearest one in the other sense."""
    nearest = face_angle(face_on_deg, phi_deg, edge)
    return nearest, nearest - math.copysign(180.0, nearest - phi_deg)


def _within_limits(plan: str, phi: Any, choices: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
    """Return the first choice of angles to all of which phi can go.

    Raises
    ------
    ConfigError
        If there is none; it says what keeps phi from the first.
    """
    refusals = []
    for angles in choices:
        try:
            check_limits(plan, phi, *angles)
        except ConfigError as error:
            refusals.append(error)
        else:
            return angles
    raise refusals[0]


def rotate_to_face_on(
    goniometer: Readable, face_on_deg: float, *, edge: bool = False
) -> MsgGenerator[float]:
    """Turn the spindle until the loop shows its face (or its edge).

    It goes the short way, or the other one where a limit of phi is in that way.

    Parameters
    ----------
    goniometer
        With `phi`.
    face_on_deg
        From `center_loop`.
    edge
        Show the edge.

    Returns
    -------
    float
        Angle of the spindle, deg.

    Raises
    ------
    ConfigError
        If the angle is not finite: the loop has no clear face; if `edge` is neither True nor
        False; or if the limits of phi allow neither way.
    HardwareError
        If the spindle does not get there.
    """
    plan = "rotate_to_face_on"
    spindle = Needs("goniometer", parts={"phi": (Movable, Readable)})
    check_devices(plan, goniometer=(goniometer, spindle))
    if isinstance(face_on_deg, float) and math.isnan(face_on_deg):
        raise ConfigError(f"{plan}: face_on_deg is NaN: the loop has no clear face")
    face_on_deg = finite(plan, "face_on_deg", face_on_deg)
    edge = flag(plan, "edge", edge)
    phi: Any = goniometer.phi  # type: ignore[attr-defined]
    here = yield from stubs.position(phi)
    choices = ((angle,) for angle in _two_angles(face_on_deg, here, edge))
    (target,) = _within_limits(plan, phi, choices)
    yield from stubs.stopped_on_error(with_device_errors(bps.mv(phi, target)), phi)
    return target


def loop_raster_box(
    camera: Flyable,
    goniometer: Readable,
    result: Readable,
    face_on_deg: float,
    *,
    thickness_um: float | None = None,
    step_um: float = 20.0,
    margin_um: float = 20.0,
    settle_s: float = 0.3,
    zoom: float = 0.0,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[RasterBox]:
    """Look at a loop face on and edge on, and say what a raster over it must cover.

    Parameters
    ----------
    camera, goniometer, result
        As of `plans.loop.centering.center_loop`.
    face_on_deg
        From `center_loop`.
    thickness_um
        From `center_loop`: taken, with the depth of the spindle, where the edge-on view takes stem
        or pin for the loop, which is as thin as they are.
    step_um
        Of the raster, usually the size of the beam.
    margin_um
        Added on each side.
    settle_s, zoom, md
        As of `center_loop`.

    Returns
    -------
    RasterBox

    Raises
    ------
    ConfigError
        If a number makes no sense, the camera is not calibrated, or the limits of phi allow no two
        such views; before anything moves.
    SampleError
        If a view shows no loop, or the two views show different ones and no thickness is given.
    HardwareError
        If light, camera, spindle or analysis fail.
    """
    plan = "loop_raster_box"
    step_um = finite(plan, "step_um", step_um, 0.1, inclusive=True)
    margin_um = finite(plan, "margin_um", margin_um, 0.0, inclusive=True)
    settle_s = finite(plan, "settle_s", settle_s, 0.0, inclusive=True)
    face_on_deg = finite(plan, "face_on_deg", face_on_deg)
    if isinstance(thickness_um, float) and math.isnan(thickness_um):  # `center_loop` saw none
        thickness_um = None
    if thickness_um is not None:
        thickness_um = finite(plan, "thickness_um", thickness_um, 0.0)
    tools = stubs.Instruments(camera, goniometer, result, settle_s=settle_s)
    stubs.check_tools(plan, tools)
    zoom = finite(plan, "zoom", zoom)
    if hasattr(result, "calibration"):
        result.calibration.check_value(zoom)
    arguments = {"face_on_deg": face_on_deg, "step_um": step_um, "margin_um": margin_um}
    uids: list[str] = []
    phi = tools.goniometer.phi
    here = yield from stubs.position(phi)
    faces = _two_angles(face_on_deg, here)
    choices = ((first, first + turn) for first in faces for turn in (90.0, -90.0))
    angles = _within_limits(plan, phi, choices)

    def body() -> MsgGenerator[list[RotationValues]]:
        views: list[RotationValues] = []
        for angle in angles:
            yield from bps.checkpoint()
            yield from bps.mv(phi, angle)
            found = yield from stubs.measure_once(tools)
            check_light(found)
            if not views:
                _check_box(found, angle)
            views.append(found)
        yield from stubs.end_pictures(tools)
        return views

    _md = stubs.metadata(plan, tools, arguments, md, zoom=zoom)
    face, edge = yield from stubs.recorded(tools, body, _md, uids)
    # Seen from the other side, what is across has the other sign.
    depth = math.copysign(1.0, angles[1] - angles[0]) * edge.last.box_across
    seen_um, edge_seen = edge.last.box_width, True
    if trouble := _disagreement(face, edge):
        if thickness_um is None:
            raise SampleError(trouble)
        depth, seen_um, edge_seen = 0.0, thickness_um, False
    extents = [face.last.box_length, face.last.box_width, seen_um]
    length, width, thickness = (extent + 2.0 * margin_um for extent in extents)
    return RasterBox(
        face_on_deg=angles[0],
        along_um=face.last.box_along,
        across_um=face.last.box_across,
        depth_um=depth,
        length_um=length,
        width_um=width,
        thickness_um=thickness,
        step_um=step_um,
        n_along=math.ceil(length / step_um),
        n_across=math.ceil(width / step_um),
        n_depth=math.ceil(thickness / step_um),
        edge_seen=edge_seen,
        uid=uids[-1],
    )


def _check_box(found: RotationValues, angle: float) -> None:
    if not math.isfinite(found.last.box_width):
        raise SampleError(
            f"no loop is seen at {angle:.1f} deg (class {found.last.kind}); center it first"
        )


def _disagreement(face: RotationValues, edge: RotationValues) -> str:
    """Say why the two views cannot be of one loop; empty if they can."""
    one, other = face.last.box_length, edge.last.box_length
    if not math.isfinite(other):
        return f"no loop is seen edge on (class {edge.last.kind})"
    if abs(one - other) > AGREEMENT * max(one, other):
        return (
            f"the loop is {one:.0f} um long seen face on and {other:.0f} um seen edge on; one of "
            "the views is wrong"
        )
    return ""
