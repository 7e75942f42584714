"""The analysis of a rotation: what each picture shows at which angle, and where the loop is.

It works on what `loop_detection` found in the pictures and on the spindle's angle at each of them
(`skywright.instruments.loop.timing`); it looks at no picture itself.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from skywright.analysis import Analysis, Batch, join, name_of
from skywright.files.columns import Column
from skywright.instruments.loop.analysis import COLUMNS as DETECTED
from skywright.instruments.loop.analysis import KINDS, SIDES, SIGNS
from skywright.instruments.loop.calibration import ZoomCalibration
from skywright.instruments.loop.centering import Center
from skywright.instruments.loop.detection import BOX_NAMES, ERROR_NAMES
from skywright.instruments.loop.geometry import axis_um, target_um, to_view
from skywright.instruments.loop.rotation_fit import fit_rotation
from skywright.instruments.loop.series import Series, cut_by_frame

NAN = float("nan")
FROZEN = 0.1
"""Less than this part of the pictures differing from all others, while the spindle turns, means
that the camera sends old ones."""
MANY = 10

STATES = ("ok", "flat image", "nothing seen", "tip not in view", "failed clipped", "no angle")
OK, FLAT, NOTHING, NOT_IN_VIEW, CLIPPED, NO_ANGLE = range(len(STATES))

PX, UM, DEG = {"units": "px"}, {"units": "um"}, {"units": "deg"}
_KINDS = {"names": list(KINDS)}


def _px(name: str, description: str) -> Column:
    return Column(name, "<f4", attrs={**PX, "description": description})


COLUMNS = (
    Column("image_num", "<i4", attrs={"description": "number of the picture in its run, from 0"}),
    _px("tipX", "tip, to the right; NaN: none"),
    _px("tipY", "tip, downwards"),
    _px("bboxMinX", "box around the loop without stem and pin; NaN: none"),
    _px("bboxMaxX", "box, right"),
    _px("bboxMinY", "box, top"),
    _px("bboxMaxY", "box, bottom"),
    _px("loop_width", "extent of the loop across the pin's axis; NaN: none"),
    Column("loop_type", "|u1", attrs={**_KINDS, "description": "kind of mount"}),
    Column("phi", "<f8", attrs={**DEG, "description": "spindle at exposure; NaN: not known"}),
    Column("state", "|u1", attrs={"names": list(STATES), "description": "use of the picture"}),
    Column("side", "|u1", attrs={"names": list(SIDES), "description": "side of the pin"}),
    Column("score", "<f4", attrs={"units": "", "description": "0..1, near 0 for an empty view"}),
    Column("level", "<f4", attrs={"units": "grey levels", "description": "mean level"}),
    Column("sharpness", "<f4", attrs={"units": "grey levels/px"}),
)


def _result(name: str, units: str, description: str) -> Column:
    return Column(name, "<f8", attrs={"units": units, "description": description})


def _count(name: str, description: str) -> Column:
    return Column(name, "<i8", attrs={"description": description})


def _flag(name: str, description: str) -> Column:
    return Column(name, "|b1", attrs={"description": description})


def _text(name: str, description: str) -> Column:
    return Column(name, "<U400", attrs={"description": description})


def _point(name: str, what: str) -> tuple[Column, ...]:
    return (
        *(_result(f"{name}_{axis}", "um", f"{what} from the beam, {axis}") for axis in "xyz"),
        _result(f"{name}_sigma", "um", "standard deviation of y, z in the worst direction"),
        _result(f"{name}_sigma_x", "um", "standard deviation of x"),
        _count(f"{name}_used", "pictures that agree with the fit"),
        _flag(f"{name}_ok", "it is known"),
        _text(f"{name}_why", "why it is not known"),
    )


RESULTS = (
    _flag("ok", "the tip is known and the sample is a loop"),
    _text("reason", "what keeps the tip from being known, in few words"),
    _text("why", "the same with numbers"),
    *_point("tip", "tip"),
    *_point("middle", "middle of the loop"),
    _result("axis_row", "px", "row (column) at which the spindle crosses the target"),
    _result("axis_sigma", "px", "its standard deviation"),
    _result("roll", "deg", "turn of the spindle in the picture beyond the calibrated one"),
    _result("rms", "px", "of the used tips across the spindle"),
    _result("arc", "deg", "turn that the used tips cover"),
    _result("face_on", "deg", "spindle angle, 0..180, at which the loop is seen widest"),
    _result("face_sigma", "deg", "its standard deviation"),
    _text("face_why", "why the face is not known"),
    _result("width", "um", "of the loop, seen face on"),
    _result("thickness", "um", "of the loop, seen edge on"),
    _result("length", "um", "of the loop along the spindle"),
    _flag("lump", "thick for a loop: a drop, ice or a crystal swells the outline"),
    Column("kind", "<U8", attrs={"description": "kind of mount by vote; empty: unknown"}),
    _result("kind_share", "", "its part of the votes"),
    _flag("frozen", "the pictures do not change while the spindle turns"),
    _count("n_turned", "pictures whose angle is known"),
    _count("n_pin", "pictures with a known angle that show a bare pin"),
    _count("n_nearer", "pictures that missed the end of the mount, and showed its stem or pin"),
    *(_count(f"n_{state.replace(' ', '_')}", f"pictures: {state}") for state in STATES),
    _result("delay", "s", "time stamp of a picture less time of its exposure"),
    _result("delay_sigma", "s", "its standard deviation; NaN: not fitted, from the calibration"),
    _text("delay_why", "why it was not fitted"),
    _result("last_time", "s", "time stamp of the last picture"),
    _result("last_tip_x", "px", "tip in the last picture; NaN: none"),
    _result("last_tip_y", "px", "tip in the last picture; NaN: none"),
    _result("last_along", "um", "tip in the last picture from the target, along the spindle"),
    _result("last_across", "um", "tip in the last picture from the spindle, as seen"),
    _result("last_box_along", "um", "middle of the box in the last picture, along the spindle"),
    _result("last_box_across", "um", "middle of the box in the last picture, from the spindle"),
    _result("last_box_length", "um", "extent of that box along the spindle"),
    _result("last_box_width", "um", "extent of that box across the spindle"),
    Column("last_kind", "<U8", attrs={"description": "kind of mount in the last picture"}),
    Column("last_side", "<U8", attrs={"description": "side of the pin in the last picture"}),
    Column("last_sign", "<U1", attrs={"description": "+: past the far edge, -: at the pin side"}),
    _flag("last_tip_in_view", "the last picture shows the tip"),
    _flag("last_flat", "the last picture has no light or no structure"),
    _result("last_level", "grey levels", "mean level of the last picture"),
    _result("last_saturated", "", "part of the last picture at the scale's ends"),
)

_CALIBRATION = TypeAdapter(ZoomCalibration)


def as_json(calibration: ZoomCalibration) -> dict[str, Any]:
    """Return a calibration as JSON values, as `LoopRotation` takes it."""
    values: dict[str, Any] = _CALIBRATION.dump_python(calibration, mode="json")
    return values


class LoopRotation(Analysis[Batch]):
    """Fits tip, middle and face of a loop over a rotation.

    Parameters
    ----------
    calibration
        Fields of `skywright.instruments.loop.calibration.ZoomCalibration`, JSON values.
    delay_s
        By which the pictures' times lagged when their angles were taken.
    delay_sigma_s
        Of `delay_s`, where it was fitted.
    delay_why
        Why it was not; empty if it was.
    """

    name = "loop_rotation"
    stream = "pictures"
    version = "6"
    inputs = ("phi", "image_num", *(name_of(column) for column in DETECTED))
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
        self.calibration = _CALIBRATION.validate_python(dict(calibration))

    def measure(self, batch: Batch) -> Mapping[str, NDArray[Any]]:
        """Say of each picture what it is good for."""
        corners = ("xmin", "xmax", "ymin", "ymax")
        names = ("bboxMinX", "bboxMaxX", "bboxMinY", "bboxMaxY")
        return {
            **{name: batch[corner] for name, corner in zip(names, corners, strict=True)},
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

    def statistic(self, members: Batch) -> Batch:
        """Keep the rows: a rotation is some hundred pictures."""
        return members

    def fold(self, prefix: Batch | None, statistic: Batch) -> Batch:
        """Join the rows."""
        return statistic if prefix is None else join([prefix, statistic])

    def summarize(self, state: Batch | None) -> Mapping[str, Any]:
        """Fit all rows."""
        if state is None:
            return _missing() | {"why": "no pictures", "reason": "no frames"}
        return summarize(state, self.calibration) | {
            "delay": self.parameters["delay_s"],
            "delay_sigma": NAN
            if self.parameters["delay_sigma_s"] is None
            else self.parameters["delay_sigma_s"],
            "delay_why": self.parameters["delay_why"],
        }


def to_series(batch: Batch) -> Series:
    """Turn columns of `loop_detection` and ``phi`` into what the fit takes.

    Parameters
    ----------
    batch
        With the inputs of `LoopRotation`.

    Returns
    -------
    Series
    """
    kind = np.array(KINDS)[batch["kind"]]
    side = np.array(SIDES)[batch["side"]]
    sign = np.array(SIGNS)[batch["tip_sign"]]
    px = {name: batch[name].astype(np.float64) for name in ("tip_x", "tip_y", "width")}
    box, error = (
        np.stack([batch[name].astype(np.float64) for name in names], axis=1)
        for names in (BOX_NAMES, ERROR_NAMES)
    )
    return Series(
        phi_deg=batch["phi"].astype(np.float64),
        tip_px=np.stack([px["tip_x"], px["tip_y"]], axis=1),
        bbox_px=box,
        error_px=error,
        width_px=px["width"],
        kind=kind,
        kind_odds=np.maximum(batch["kind_odds"].astype(np.float64), 0.0),
        side=np.where(side == "none", "", side),
        score=batch["score"].astype(np.float64),
        clipped=batch["clipped"].astype(np.bool_),
        beyond=(sign == "+") & (kind != "none"),
    )


def is_frozen(batch: Batch) -> bool:
    """Say whether many pictures at different angles are the same one.

    Noise alone makes tip and level of two pictures differ in their last bits.
    """
    turned = batch.take(np.isfinite(batch["phi"]))
    if len(turned) < MANY or np.ptp(turned["phi"]) < MANY:
        return False
    names = ("tip_x", "tip_y", "xmin", "ymax", "level", "noise", "sharpness")
    rows = np.nan_to_num(np.stack([turned[name] for name in names], axis=1), nan=-1.0)
    return bool(len(np.unique(rows, axis=0)) < max(2.0, FROZEN * len(turned)))


def summarize(batch: Batch, calibration: ZoomCalibration) -> dict[str, Any]:
    """Return the results (but for the delay) of a rotation.

    Parameters
    ----------
    batch
        Rows of `LoopRotation`: its inputs and its columns.
    calibration
        Of the camera at the zoom of the run.

    Returns
    -------
    dict
        By the names of `RESULTS`.
    """
    turned = batch.take(np.isfinite(batch["phi"]))
    fit, nearer = fit_rotation(to_series(turned), calibration)
    tip, middle, face = fit.tip, fit.middle, fit.face
    counts = np.bincount(batch["state"], minlength=len(STATES))
    reach = np.abs(tip.offset_um[0] - middle.offset_um[0])
    return _missing() | {
        "ok": fit.ok,
        "reason": str(fit.reason),
        "why": fit.why,
        **_point_results("tip", tip),
        **_point_results("middle", middle),
        "axis_row": tip.axis_row_px,
        "axis_sigma": tip.axis_sigma_px,
        "roll": tip.roll_deg,
        "rms": tip.rms_px,
        "arc": tip.arc_deg,
        "face_on": face.face_on_deg,
        "face_sigma": face.sigma_deg,
        "face_why": face.why,
        "width": face.width_um,
        "thickness": face.thickness_um,
        "lump": face.lump,
        "length": 2.0 * reach if middle.ok else NAN,
        "kind": fit.kind,
        "kind_share": fit.kind_share,
        "n_pin": int((turned["kind"] == KINDS.index("pin")).sum()),
        "n_nearer": nearer,
        "frozen": is_frozen(batch),
        "n_turned": int(np.isfinite(batch["phi"]).sum()),
        **{f"n_{s.replace(' ', '_')}": int(n) for s, n in zip(STATES, counts, strict=True)},
        **_last(batch, calibration),
    }


def _point_results(name: str, center: Center) -> dict[str, Any]:
    return {
        **{f"{name}_{axis}": value for axis, value in zip("xyz", center.offset_um, strict=True)},
        f"{name}_sigma": center.sigma_um,
        f"{name}_sigma_x": float(np.sqrt(center.covariance_um2[0, 0])),
        f"{name}_used": center.n_used,
        f"{name}_ok": center.ok,
        f"{name}_why": center.why,
    }


def _last(batch: Batch, calibration: ZoomCalibration) -> dict[str, Any]:
    """Return what the last picture shows, seen from the beam."""
    last = {name: values[-1] for name, values in batch.data.items()}
    view = replace(calibration.view, side=calibration.side)
    axis = axis_um(calibration.axis_px, view)
    beam = np.array([target_um(axis, view), axis])
    tip = np.array([last["tip_x"], last["tip_y"]], dtype=np.float64)
    low = np.array([last["xmin"], last["ymin"]], dtype=np.float64)
    high = np.array([last["xmax"], last["ymax"]], dtype=np.float64)
    along, across = to_view(tip, view) - beam
    box_along, box_across = to_view(0.5 * (low + high), view) - beam
    length, width = np.abs(to_view(high, view) - to_view(low, view))
    return {
        "last_time": float(batch.times[-1]),
        "last_tip_x": tip[0],
        "last_tip_y": tip[1],
        "last_along": along,
        "last_across": across,
        "last_box_along": box_along,
        "last_box_across": box_across,
        "last_box_length": length,
        "last_box_width": width,
        "last_kind": KINDS[last["kind"]],
        "last_side": SIDES[last["side"]],
        "last_sign": SIGNS[last["tip_sign"]],
        "last_tip_in_view": bool(last["tip_in_view"]),
        "last_flat": bool(last["flat"]),
        "last_level": float(last["level"]),
        "last_saturated": float(last["saturated"]),
    }


_BLANK: dict[str, Any] = {"f": NAN, "i": 0, "b": False, "U": ""}


def _missing() -> dict[str, Any]:
    return {name_of(c): _BLANK[np.dtype(c.dtype).kind] for c in RESULTS}
