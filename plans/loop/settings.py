"""Parameters and result of `plans.loop.centering.center_loop`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from skywright.instruments.loop.calibration import Finite, Positive
from skywright.instruments.loop.decision import Aim

Method = Literal["sweep", "steps", "two_angles"]


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class CenteringSettings:
    """How a loop is centered.

    Parameters
    ----------
    aim
        "loop" puts the middle of the loop into the beam, "tip" its tip.
    method
        "sweep": pictures while the spindle turns; "steps": at rest, at equal angles;
        "two_angles": at rest, at two angles 90 deg apart (the axis must be calibrated).
    delta_deg, time_s
        Of the rotation. The first pass turns half of it in half the time: a coarse answer, which
        the next ones, each in the other sense, correct and verify. Over a whole turn what the
        camera sees wrong on one side cancels.
    tolerance_um
        Largest distance of a centered loop from the spindle, its standard deviation counted in.
        Along the spindle a tenth of the loop's length is allowed, where that is more.
    max_passes
        Rotations at most, at least 2: one to find the loop, one to verify it.
    search_step_um, search_steps
        Steps along the spindle to bring the tip into view, and how many at most.
    settle_s
        Rest before a picture is looked at.
    zoom
        Of the camera, as calibrated.
    """

    aim: Aim = "loop"
    method: Method = "sweep"
    delta_deg: Annotated[float, Field(ge=180, le=720)] = 360.0
    time_s: Annotated[float, Field(gt=0, le=600)] = 4.0
    tolerance_um: Positive = 10.0
    max_passes: Annotated[int, Field(ge=2, le=20)] = 5
    search_step_um: Annotated[float, Field(gt=0, le=2000)] = 500.0
    search_steps: Annotated[int, Field(ge=0, le=20)] = 6
    settle_s: Annotated[float, Field(ge=0, le=10)] = 0.3
    zoom: Finite = 0.0


@dataclass(frozen=True)
class Centering:
    """What `center_loop` has done.

    Attributes
    ----------
    ok
        The last measurement, made after the last move, found the aim within the tolerance.
    why
        Why not.
    offset_um
        Of the aim from the beam in the last measurement, x, y, z of the goniometer frame.
    residual_um, sigma_um
        Its distance from the spindle, and the standard deviation of that in the worst direction.
    along_sigma_um
        Standard deviation along the spindle.
    moved_um
        By how much the sample was moved in all.
    kind
        Of the mount.
    face_on_deg, face_sigma_deg
        Spindle angle, 0..180, at which the loop is seen face on; NaN if it has no clear face.
    width_um, thickness_um, length_um
        Of the loop.
    passes
        Rotations made.
    uids
        Of their runs.
    """

    ok: bool
    why: str
    offset_um: tuple[float, float, float]
    residual_um: float
    sigma_um: float
    along_sigma_um: float
    moved_um: tuple[float, float, float]
    kind: str
    face_on_deg: float
    face_sigma_deg: float
    width_um: float
    thickness_um: float
    length_um: float
    passes: int
    uids: tuple[str, ...]
