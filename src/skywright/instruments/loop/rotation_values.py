"""What a rotation tells, as typed values: what a plan decides on.

`skywright.instruments.loop.rotation.LoopRotation` computes them. Between processes and in the
catalog they are scalars with flat names, such as ``tip_sigma`` and ``last_kind``: `RESULTS`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Self

from skywright.errors import DataError
from skywright.files.columns import Column


def _value(dtype: str, blank: Any, attrs: Mapping[str, str]) -> Any:
    """Return the field of a value: what it is where nothing is known, and its column."""
    return field(default=blank, metadata={"dtype": dtype, "attrs": attrs})


def _real(units: str, description: str) -> Any:
    return _value("<f8", float("nan"), {"units": units, "description": description})


def _count(description: str) -> Any:
    return _value("<i8", 0, {"description": description})


def _flag(description: str) -> Any:
    return _value("|b1", False, {"description": description})


def _text(description: str, dtype: str = "<U400") -> Any:
    return _value(dtype, "", {"description": description})


@dataclass(frozen=True)
class Place:
    """Where a point of the sample is, in the goniometer frame."""

    x: float = _real("um", "{} from the beam, x")
    y: float = _real("um", "{} from the beam, y")
    z: float = _real("um", "{} from the beam, z")
    sigma: float = _real("um", "standard deviation of y, z in the worst direction")
    sigma_x: float = _real("um", "standard deviation of x")
    used: int = _count("pictures that agree with the fit")
    ok: bool = _flag("it is known")
    why: str = _text("why it is not known")


@dataclass(frozen=True)
class LastPicture:
    """What the last picture shows."""

    time: float = _real("s", "time stamp of the last picture")
    tip_x: float = _real("px", "tip in the last picture; NaN: none")
    tip_y: float = _real("px", "tip in the last picture; NaN: none")
    along: float = _real("um", "tip in the last picture from the target, along the spindle")
    across: float = _real("um", "tip in the last picture from the spindle, as seen")
    box_along: float = _real("um", "middle of the box in the last picture, along the spindle")
    box_across: float = _real("um", "middle of the box in the last picture, from the spindle")
    box_length: float = _real("um", "extent of that box along the spindle")
    box_width: float = _real("um", "extent of that box across the spindle")
    kind: str = _text("kind of mount in the last picture", "<U8")
    side: str = _text("side of the pin in the last picture", "<U8")
    sign: str = _text("+: past the far edge, -: at the pin side", "<U1")
    tip_in_view: bool = _flag("the last picture shows the tip")
    flat: bool = _flag("the last picture has no light or no structure")
    level: float = _real("gray levels", "mean level of the last picture")
    saturated: float = _real("", "part of the last picture at the scale's ends")


@dataclass(frozen=True)
class RotationValues:
    """The scalar results of a rotation."""

    ok: bool = _flag("the tip is known and the sample is a loop")
    reason: str = _text("what keeps the tip from being known, in few words")
    why: str = _text("the same with numbers")
    tip: Place = field(default=Place(), metadata={"what": "tip"})
    middle: Place = field(default=Place(), metadata={"what": "middle of the loop"})
    axis_row: float = _real("px", "row (column) at which the spindle crosses the target")
    axis_sigma: float = _real("px", "its standard deviation")
    roll: float = _real("deg", "turn of the spindle in the picture beyond the calibrated one")
    rms: float = _real("px", "of the used tips across the spindle")
    arc: float = _real("deg", "turn that the used tips cover")
    face_on: float = _real("deg", "spindle angle, 0..180, at which the loop is seen widest")
    face_sigma: float = _real("deg", "its standard deviation")
    face_why: str = _text("why the face is not known")
    width: float = _real("um", "of the loop, seen face on")
    thickness: float = _real("um", "of the loop, seen edge on")
    length: float = _real("um", "of the loop along the spindle")
    lump: bool = _flag("thick for a loop: a drop, ice or a crystal swells the outline")
    kind: str = _text("kind of mount by vote; empty: unknown", "<U8")
    kind_share: float = _real("", "its part of the votes")
    frozen: bool = _flag("the pictures do not change while the spindle turns")
    n_turned: int = _count("pictures whose angle is known")
    n_pin: int = _count("pictures with a known angle that show a bare pin")
    n_nearer: int = _count("pictures that missed the end of the mount, and showed its stem or pin")
    n_ok: int = _count("pictures: ok")
    n_flat_image: int = _count("pictures: flat image")
    n_nothing_seen: int = _count("pictures: nothing seen")
    n_tip_not_in_view: int = _count("pictures: tip not in view")
    n_failed_clipped: int = _count("pictures: failed clipped")
    n_no_angle: int = _count("pictures: no angle")
    delay: float = _real("s", "time stamp of a picture less time of its exposure")
    delay_sigma: float = _real("s", "its standard deviation; NaN: not fitted, from the calibration")
    delay_why: str = _text("why it was not fitted")
    last: LastPicture = field(default=LastPicture(), metadata={"what": "last picture"})

    @classmethod
    def of(cls, results: Mapping[str, Any]) -> Self:
        """Take the values from scalars with flat names; `DataError` if one is missing."""
        missing = [name for name in FLAT_NAMES if name not in results]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise DataError(f"loop_rotation: no value of {', '.join(missing[:3])}{more}")
        values: Self = _take(cls, results)
        return values

    def flat(self) -> dict[str, Any]:
        """Return the scalars by their flat names."""
        return dict(_flat(self))


def _take(kind: type[Any], results: Mapping[str, Any], prefix: str = "") -> Any:
    values = {
        each.name: _take(type(each.default), results, f"{each.name}_")
        if is_dataclass(each.default)
        else results[prefix + each.name]
        for each in fields(kind)
    }
    return kind(**values)


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for each in fields(values):
        value = getattr(values, each.name)
        if is_dataclass(value):
            yield from _flat(value, f"{each.name}_")
        else:
            yield prefix + each.name, value


def _columns(kind: type[Any], prefix: str = "", what: str = "") -> Iterator[Column]:
    for each in fields(kind):
        if is_dataclass(each.default):
            yield from _columns(type(each.default), f"{each.name}_", each.metadata["what"])
        else:
            attrs = {key: text.format(what) for key, text in each.metadata["attrs"].items()}
            yield Column(prefix + each.name, each.metadata["dtype"], attrs=attrs)


RESULTS = tuple(_columns(RotationValues))
"""The scalars as columns."""
FLAT_NAMES = tuple(column.path for column in RESULTS)
"""The names of the scalars."""
