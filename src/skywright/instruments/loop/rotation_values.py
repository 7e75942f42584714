"""What a rotation tells, as typed values: what a plan decides on.

`skywright.instruments.loop.rotation.LoopRotation` computes them; between processes and in the
catalog they are scalars with flat names, such as ``tip_sigma`` and ``last_kind``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from skywright.errors import DataError


@dataclass(frozen=True)
class Place:
    """Where a point of the sample is.

    Parameters
    ----------
    x, y, z
        um from the beam, goniometer frame; NaN: not known.
    sigma
        Standard deviation of y and z in the worst direction, um.
    sigma_x
        Standard deviation of x, um.
    used
        Pictures that agree with the fit.
    ok, why
        Whether the place is known; why not.
    """

    x: float
    y: float
    z: float
    sigma: float
    sigma_x: float
    used: int
    ok: bool
    why: str

    @property
    def xyz(self) -> tuple[float, float, float]:
        """The offset from the beam, um."""
        return self.x, self.y, self.z


@dataclass(frozen=True)
class LastPicture:
    """What the last picture shows; lengths in um from the beam if no unit is given.

    Parameters
    ----------
    time
        Its time stamp, unix seconds.
    tip_x, tip_y
        px; NaN: no tip.
    along, across
        Of the tip, along the spindle and as seen across it.
    box_along, box_across
        Of the middle of the box.
    box_length, box_width
        Extents of the box along and across the spindle.
    kind, side
        Of the mount; side of its pin.
    sign
        ``+``: past the far edge, ``-``: at the side of the pin, empty: neither.
    tip_in_view
        Whether it shows the tip.
    flat
        Whether it has no light or no structure.
    level
        Mean, grey levels.
    saturated
        Part of the picture at the ends of the scale, 0..1.
    """

    time: float
    tip_x: float
    tip_y: float
    along: float
    across: float
    box_along: float
    box_across: float
    box_length: float
    box_width: float
    kind: str
    side: str
    sign: str
    tip_in_view: bool
    flat: bool
    level: float
    saturated: float


@dataclass(frozen=True)
class RotationValues:
    """The scalar results of a rotation; units and meanings as in `rotation.RESULTS`."""

    ok: bool
    reason: str
    why: str
    tip: Place
    middle: Place
    axis_row: float
    axis_sigma: float
    roll: float
    rms: float
    arc: float
    face_on: float
    face_sigma: float
    face_why: str
    width: float
    thickness: float
    length: float
    lump: bool
    kind: str
    kind_share: float
    frozen: bool
    n_turned: int
    n_pin: int
    n_nearer: int
    n_ok: int
    n_flat_image: int
    n_nothing_seen: int
    n_tip_not_in_view: int
    n_failed_clipped: int
    n_no_angle: int
    delay: float
    delay_sigma: float
    delay_why: str
    last: LastPicture

    @classmethod
    def of(cls, results: Mapping[str, Any]) -> Self:
        """Take the values from scalars with flat names.

        Raises
        ------
        DataError
            If one is missing.
        """
        missing = [name for name in FLAT_NAMES if name not in results]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise DataError(f"loop_rotation: no value of {', '.join(missing[:3])}{more}")
        parts: dict[str, Any] = {
            prefix: part(**{each.name: results[f"{prefix}_{each.name}"] for each in fields(part)})
            for prefix, part in _PARTS.items()
        }
        own = {each.name: results[each.name] for each in fields(cls) if each.name not in _PARTS}
        return cls(**own, **parts)


_PARTS: dict[str, type[Place] | type[LastPicture]] = {
    "tip": Place,
    "middle": Place,
    "last": LastPicture,
}
FLAT_NAMES = tuple(
    name
    for each in fields(RotationValues)
    for name in (
        [f"{each.name}_{part.name}" for part in fields(_PARTS[each.name])]
        if each.name in _PARTS
        else [each.name]
    )
)
"""The names of the scalars."""
