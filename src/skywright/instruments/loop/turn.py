"""The analysis of a turn without a calibrated camera: all lengths are pixels.

A hardware server of DCSS knows how far the spindle turns and how long that takes, and neither the
scale of the picture nor the angle at the start. `skywright.instruments.loop.rotation` is for a
camera with a calibration and a spindle that is read back.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from skywright.analysis import Batch
from skywright.files.columns import Column
from skywright.instruments.loop.analysis import COLUMNS as DETECTED
from skywright.instruments.loop.analysis import real_column
from skywright.instruments.loop.detection import NAN
from skywright.instruments.loop.geometry import Floats, View
from skywright.instruments.loop.rotation import WholeRun, to_series
from skywright.instruments.loop.series import fit_series

AnglesFrom = Literal["count", "times"]


def turn_angles(
    times: Floats, delta_deg: float, time_s: float, expected: int, doubled: bool = False
) -> tuple[Floats, AnglesFrom]:
    """Return the spindle's angle in each picture of a turn at constant speed, and how it was found.

    Parameters
    ----------
    times : (n,) float64
        Of each picture, s, in any order: pictures overtake each other.
    delta_deg, time_s
        The turn, and its duration, above 0.
    expected
        Number of pictures that the camera takes in that time; 0 if unknown.
    doubled
        A picture came twice, so that another may be missing though the number is right.

    Returns
    -------
    (n,) float64, str
        deg, from the angle at the start. ``count``: as many pictures came as were expected, so they
        are spread evenly over the turn, in the order of their times. ``times``: pictures are
        missing, and the times tell where.
    """
    n = len(times)
    if n == expected and not doubled:
        place = np.argsort(np.argsort(times, kind="stable"))
        return delta_deg * (place + 0.5) / max(n, 1), "count"
    first_deg = 0.5 * delta_deg / expected if expected else 0.0
    passed = times - times.min() if n else times
    return first_deg + delta_deg / time_s * passed, "times"


class LoopTurn(WholeRun):
    """Fits the height of the tip and the width of the loop over a turn.

    The tip is seen at ``row + cos * cos(phi) + sin * sin(phi)``, the loop with the width
    ``sqrt(width^2 cos^2(phi - face_on) + thickness^2 sin^2(phi - face_on))``.

    Parameters
    ----------
    delta_deg, time_s
        The turn and its duration.
    angles_from
        How the angles were found (`turn_angles`).
    size
        Width and height of the pictures, px.
    """

    name = "loop_turn"
    version = "1"
    inputs = ("phi", *(column.name for column in DETECTED))
    columns = (real_column("phi", "deg", "spindle, from the start"),)
    results: ClassVar = (
        Column("ok", "|b1", attrs={"description": "the tip follows a turning loop"}),
        Column("why", "<U400", attrs={"description": "why it does not"}),
        real_column("row", "px", "row (column for a pin from top or bottom) of the spindle"),
        real_column("cos", "px", "amplitude of cos(phi) of the tip, towards growing rows"),
        real_column("sin", "px", "amplitude of sin(phi) of the tip"),
        real_column("rms", "px", "of the used tips"),
        Column("n_used", "<i8", attrs={"description": "tips that agree with the fit"}),
        real_column("face_on", "deg", "angle from the start, 0..180, at which the loop is widest"),
        real_column("face_sigma", "deg", "its standard deviation"),
        real_column(
            "edge_on", "deg", "angle from the start, 0..180, at which the loop is narrowest"
        ),
        Column("face_why", "<U400", attrs={"description": "why the face is not known"}),
        real_column("width", "px", "of the loop, seen face on"),
        real_column("thickness", "px", "of the loop, seen edge on"),
        Column("kind", "<U8", attrs={"description": "kind of mount by vote; empty: unknown"}),
    )

    def __init__(
        self,
        *,
        delta_deg: float,
        time_s: float,
        angles_from: AnglesFrom = "count",
        size: tuple[int, int] = (704, 480),
    ) -> None:
        super().__init__(
            delta_deg=delta_deg, time_s=time_s, angles_from=angles_from, size=list(size)
        )

    def measure(self, batch: Batch) -> Mapping[str, NDArray[Any]]:
        """Keep the rows."""
        return batch.data

    def summarize(self, state: Batch | None) -> Mapping[str, Any]:
        """Fit all rows."""
        if state is None:
            why = "no pictures"
            unknown = {c.name: NAN for c in self.results}
            return unknown | {"ok": False, "why": why, "n_used": 0, "face_why": why, "kind": ""}
        width, height = self.parameters["size"]
        view = View(um_per_px_x=1.0, um_per_px_y=1.0, width_px=width, height_px=height)
        fit = fit_series(to_series(state), view)
        tip, face = fit.tip, fit.face
        return {
            "ok": fit.ok,
            "why": fit.why,
            "row": tip.axis_row_px,
            "cos": tip.offset_um[1],
            "sin": -tip.offset_um[2],
            "rms": tip.rms_px,
            "n_used": tip.n_used,
            "face_on": face.face_on_deg,
            "face_sigma": face.sigma_deg,
            "edge_on": (face.face_on_deg + 90.0) % 180.0,
            "face_why": face.why,
            "width": face.width_um,
            "thickness": face.thickness_um,
            "kind": fit.kind,
        }


def describe_result(result: Mapping[str, Any]) -> str:
    """Say in one line where the face is, or why that is not known."""
    if not np.isfinite(result["face_on"]):
        return f"face not known: {result['face_why']}"
    return (
        f"face-on at {result['face_on']:.1f} deg (+- {result['face_sigma']:.1f}), edge-on at "
        f"{result['edge_on']:.1f} deg from the start; {result['width']:.0f} px wide, "
        f"{result['thickness']:.0f} px thick"
    )
