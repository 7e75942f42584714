"""The analysis of a rotation: what each picture shows at which angle, and where the loop is.

It works on what `loop_detection` found in the pictures and on the spindle's angle at each of them
(`skywright.instruments.loop.timing`); it looks at no picture itself.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.analysis import Analysis, Batch, join_by_identity
from skywright.files.columns import Column
from skywright.instruments.loop.analysis import COLUMNS as DETECTED
from skywright.instruments.loop.analysis import KINDS, code_column, px_column, real_column
from skywright.instruments.loop.calibration import ZoomCalibration, from_json
from skywright.instruments.loop.centering import NAN, Center
from skywright.instruments.loop.detection import Detection, from_row
from skywright.instruments.loop.geometry import axis_um, target_um, to_view
from skywright.instruments.loop.rotation_values import RESULTS, LastPicture, Place, RotationValues
from skywright.instruments.loop.series import (
    Series,
    cut_by_frame,
    fit_series,
    from_detections,
    keep_outermost,
)

FROZEN = 0.1
"""Fewer different pictures than this part of all, while the spindle turns, mean that the camera
sends old ones."""
MANY = 10

STATES = ("ok", "flat image", "nothing seen", "tip not in view", "failed clipped", "no angle")
OK, FLAT, NOTHING, NOT_IN_VIEW, CLIPPED, NO_ANGLE = range(len(STATES))


COLUMNS = (
    Column("image_num", "<i4", attrs={"description": "number of the picture in its run, from 0"}),
    px_column("tipX", "tip, to the right; NaN: none"),
    px_column("tipY", "tip, downwards"),
    px_column("bboxMinX", "box around the loop without stem and pin; NaN: none"),
    px_column("bboxMaxX", "box, right"),
    px_column("bboxMinY", "box, top"),
    px_column("bboxMaxY", "box, bottom"),
    px_column("loop_width", "extent of the loop across the pin's axis; NaN: none"),
    code_column("loop_type", KINDS, "kind of mount"),
    real_column("phi", "deg", "spindle at exposure; NaN: not known"),
    code_column("state", STATES, "use of the picture"),
    *(each for each in DETECTED if each.name in ("side", "score", "level", "sharpness")),
)


class WholeRun(Analysis[Batch]):
    """Keeps the rows of all pictures: a turn of the spindle is some hundred of them."""

    stream = "pictures"

    def statistic(self, members: Batch) -> Batch:
        """Keep the rows."""
        return members

    def fold(self, prefix: Batch | None, statistic: Batch) -> Batch:
        """Join the rows."""
        return statistic if prefix is None else join_by_identity([prefix, statistic])


class LoopRotation(WholeRun):
    """Fits tip, middle and face of a loop over a rotation.

    Parameters
    ----------
    calibration
        Fields of `skywright.instruments.loop.calibration.ZoomCalibration`, JSON values.
    delay_s, delay_sigma_s
        By which the pictures' times lagged when their angles were taken; its standard deviation
        where it was fitted.
    delay_why
        Why it was not; empty if it was.
    """

    name = "loop_rotation"
    version = "10"
    inputs = ("phi", "image_num", *(column.name for column in DETECTED))
    columns = COLUMNS
    results = RESULTS

    def __init__(
        self,
        *,
        calibration: Mapping[str, Any],
        delay_s: float = 0.0,
        delay_sigma_s: float | None = None,
        delay_why: str = "",
    ) -> None:
        super().__init__(
            calibration=dict(calibration),
            delay_s=delay_s,
            delay_sigma_s=delay_sigma_s,
            delay_why=delay_why,
        )
        self.calibration = from_json(calibration)

    def measure(self, batch: Batch) -> Mapping[str, NDArray[Any]]:
        """Say of each picture what it is good for."""
        return {
            "bboxMinX": batch["xmin"],
            "bboxMaxX": batch["xmax"],
            "bboxMinY": batch["ymin"],
            "bboxMaxY": batch["ymax"],
            "tipX": batch["tip_x"],
            "tipY": batch["tip_y"],
            "loop_width": batch["width"],
            "loop_type": batch["kind"],
            "state": self._states(batch),
            **batch.data,
        }

    def _states(self, batch: Batch) -> NDArray[np.uint8]:
        series = to_series(batch)
        state = np.full(len(batch), OK, np.uint8)
        state[~np.isfinite(batch["phi"])] = NO_ANGLE
        state[cut_by_frame(series, self.calibration.view)] = CLIPPED
        state[~batch["tip_in_view"]] = NOT_IN_VIEW
        state[batch["kind"] == KINDS.index("none")] = NOTHING
        state[batch["flat"]] = FLAT
        return state

    def summarize(self, state: Batch | None) -> Mapping[str, Any]:
        """Fit all rows."""
        if state is None:
            return RotationValues(why="no pictures", reason="no frames").flat()
        given = self.parameters
        sigma_s = given["delay_sigma_s"]
        return _fit(
            state,
            self.calibration,
            delay=given["delay_s"],
            delay_sigma=NAN if sigma_s is None else sigma_s,
            delay_why=given["delay_why"],
        ).flat()


def to_series(batch: Batch) -> Series:
    """Turn the inputs of `LoopRotation` into what the fit takes."""
    return from_detections(batch["phi"], [_detection(batch, row) for row in range(len(batch))])


def _detection(batch: Batch, row: int) -> Detection:
    return from_row({name: values[row] for name, values in batch.data.items()})


def _is_frozen(turned: Batch) -> bool:
    """Say whether many pictures at different angles are the same one: noise alone changes bits."""
    if len(turned) < MANY or np.ptp(turned["phi"]) < MANY:
        return False
    names = ("tip_x", "tip_y", "xmin", "ymax", "level", "noise", "sharpness")
    rows = np.nan_to_num(np.stack([turned[name] for name in names], axis=1), nan=-1.0)
    return bool(len(np.unique(rows, axis=0)) < max(2.0, FROZEN * len(turned)))


def _fit(batch: Batch, calibration: ZoomCalibration, **delay: Any) -> RotationValues:
    """Return the results of a rotation, from inputs and columns of `LoopRotation`."""
    turned = batch.take(np.isfinite(batch["phi"]))
    view = calibration.view
    kept, nearer = keep_outermost(to_series(turned), view)
    fit = fit_series(kept, view, calibration.axis, side=calibration.side)
    tip, middle, face = fit.tip, fit.middle, fit.face
    counts = np.bincount(batch["state"], minlength=len(STATES)).tolist()
    states = {f"n_{s.replace(' ', '_')}": n for s, n in zip(STATES, counts, strict=True)}
    return RotationValues(
        ok=fit.ok,
        reason=str(fit.reason),
        why=fit.why,
        tip=_place(tip),
        middle=_place(middle),
        axis_row=tip.axis_row_px,
        axis_sigma=tip.axis_sigma_px,
        roll=tip.roll_deg,
        rms=tip.rms_px,
        arc=tip.arc_deg,
        face_on=face.face_on_deg,
        face_sigma=face.sigma_deg,
        face_why=face.why,
        width=face.width_um,
        thickness=face.thickness_um,
        length=2.0 * np.abs(tip.offset_um[0] - middle.offset_um[0]) if middle.ok else NAN,
        lump=face.lump,
        kind=fit.kind,
        kind_share=fit.kind_share,
        frozen=_is_frozen(turned),
        n_turned=len(turned),
        n_pin=int((turned["kind"] == KINDS.index("pin")).sum()),
        n_nearer=nearer,
        **states,
        **delay,
        last=_last(batch, calibration),
    )


def _place(center: Center) -> Place:
    x, y, z = center.offset_um.tolist()
    return Place(
        x,
        y,
        z,
        sigma=center.sigma_um,
        sigma_x=float(np.sqrt(center.covariance_um2[0, 0])),
        used=center.n_used,
        ok=center.ok,
        why=center.why,
    )


def _last(batch: Batch, calibration: ZoomCalibration) -> LastPicture:
    """Return what the last picture shows, seen from the beam."""
    last, view = _detection(batch, -1), calibration.view
    axis = axis_um(calibration.axis_px, view)
    beam = np.array([target_um(axis, view), axis])
    corners = np.array(last.bbox or (NAN,) * 4).reshape(2, 2)
    along, across = to_view((last.tip_x, last.tip_y), view) - beam
    box_along, box_across = to_view(corners.mean(axis=0), view) - beam
    # Not turned by the roll: the box of a round head is as large as the head, whichever way it is.
    x_px, y_px = corners[1] - corners[0]
    length, width = view.by_spindle(x_px * view.um_per_px_x, y_px * view.um_per_px_y)
    return LastPicture(
        time=float(batch.times[-1]),
        tip_x=last.tip_x,
        tip_y=last.tip_y,
        along=along,
        across=across,
        box_along=box_along,
        box_across=box_across,
        box_length=length,
        box_width=width,
        kind=last.kind,
        side=last.side or "none",
        sign=last.tip_sign,
        tip_in_view=last.tip_in_view,
        flat=last.flat,
        level=last.level,
        saturated=last.saturated,
    )
