"""What to do with the result of a rotation: where the sample is, how well known, or why not.

`judge` is the only place where a plan's move is decided; it moves on nothing that is not measured.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from skywright.errors import HardwareError, SampleError
from skywright.instruments.loop.centering import Reason
from skywright.instruments.loop.rotation_values import Place, RotationValues
from skywright.instruments.loop.timing import GAP_MAX_DEG

Aim = Literal["loop", "tip"]
COARSE_SIGMA_UM = 500.0
NEARLY_SIGMA_UM = 30.0
"""A middle with a sigma of at most this is a better target than the tip, even if not `ok`."""
SEEN_SELDOM = 0.3
"""If less than this part of the pictures has a tip, a mount may be in view only partly."""
STEP_IN_UM = 500.0
"""Longest move along the spindle that brings such a mount further in, um."""
MANY_DARK = 0.3
"""With more than this part of the pictures without light, a rotation is refused."""
SEEN_WELL = 0.6
"""Part of the pictures that must show the end of a bare pin before it is believed to be one."""
PIN_SHARE = 0.9
"""Part of the votes that a bare pin must have to be refused without a closer look."""
NEAR_PIN_UM = 200.0
"""The end of a bare pin must be so near the beam to be believed."""
LEVELS = (8.0, 250.0)
"""Mean of the last picture: from dark field to a bright back light."""
SATURATED_MAX = 0.9
"""Most of a picture may be at the end of the scale, if what is seen rotates as one body."""
OUTLINE_SHARE = 0.15
"""Part of the pictures that must show the whole outline of a loop."""
OUTLINE_ALONE = 0.8
"""Part of the pictures whose outlines must agree to be believed against a tip that jumps."""
ASPECTS = (0.6, 2.8)
"""Length by width of loops and mounts; others are outlines with stem, or cut short."""
HALF_LENGTH = 0.65
"""Half the usual length of a loop by its width."""
LENGTH_SHARE, SLACK_MAX_UM = 0.1, 30.0
"""Along the spindle the middle of a loop is a matter of where its neck begins: a tenth of its
length, up to a limit, is as good as any."""
ROUND = 1.515
"""Across the spindle an error has two components. Each is within its standard deviation in 68 % of
cases; the distance is within this multiple of it as often."""
CLOSE = 0.5
"""Part of the tolerance within which a loop is left where it is; farther off it is moved again,
while there are passes left, so that errors which a pass does not see stay within the rest."""


@dataclass(frozen=True)
class Verdict:
    """What a rotation tells of the place of the sample."""

    offset_um: tuple[float, float, float]
    """(x, y, z): of the aim from the beam, goniometer frame; NaN if there is nothing to go by."""
    sigma_um: float
    """Standard deviation across the spindle, in the worst direction."""
    along_sigma_um: float
    """The same along the spindle."""
    along_slack_um: float
    """What is allowed along the spindle beside the tolerance: a part of the loop's length."""
    known: bool
    """Good enough to be the last word; else it is coarse at best: move, and measure again."""
    coarse: bool
    """Not known, but good enough to move by."""
    why: str
    """Why it is not known."""

    @property
    def residual_um(self) -> float:
        """Distance of the aim from the spindle: what the loop will wobble by when it turns."""
        return math.hypot(*self.offset_um[1:])

    def is_there(self, tolerance_um: float) -> bool:
        """Say whether the aim was measured where it shall be."""
        along = abs(self.offset_um[0]) <= max(tolerance_um, self.along_slack_um)
        return self.residual_um <= tolerance_um and along

    def is_close(self, tolerance_um: float) -> bool:
        """Say whether it is so near the spindle that another move is not worth its time."""
        return self.residual_um <= CLOSE * tolerance_um

    def is_sure(self, tolerance_um: float) -> bool:
        """Say whether it is there with its error counted in."""
        across = math.hypot(self.residual_um, ROUND * self.sigma_um) <= tolerance_um
        along = self.along_sigma_um <= max(tolerance_um, self.along_slack_um)
        return self.is_there(tolerance_um) and across and along


def check_light(found: RotationValues) -> None:
    """Check that the last picture of a rotation has light and shows something.

    Back light, front light and dark field all do. Whether the loop is seen well enough is what the
    fit of the rotation tells.

    Raises
    ------
    HardwareError
        If there is no light or structure, or the level is outside `LEVELS` or `SATURATED_MAX`.
    """
    level, saturated = found.last.level, found.last.saturated
    if found.last.flat:
        raise HardwareError(
            f"flat image: mean level {level:.0f} of 255 and no structure; is the back light on and "
            "in, and nothing before the lens?"
        )
    low, high = LEVELS
    if level < low:
        raise HardwareError(
            f"light: mean level {level:.0f} of 255, {low:g} at least are needed; is a light on?"
        )
    if level > high or saturated > SATURATED_MAX:
        raise HardwareError(
            f"light: mean level {level:.0f} of 255 and {saturated:.0%} of the pixels at the ends "
            f"of the scale; at most {high:g} and {SATURATED_MAX:.0%} are allowed, or thin loops "
            "vanish: less back light"
        )


def judge(found: RotationValues, aim: Aim = "loop") -> Verdict:
    """Decide what a rotation tells; `aim` is the point that goes to the beam.

    Raises
    ------
    HardwareError
        If light, camera or clock are at fault: no center can be had from such pictures.
    SampleError
        If there is no pin, or a pin without a loop.
    """
    _check_pictures(found)
    if found.reason == Reason.NO_LOOP:
        return _judge_pin(found)
    point = found.middle if aim == "loop" else found.tip
    if point.ok and (_tip_agrees(found) if aim == "loop" else found.ok):
        doubt = _doubt_of_outline(found) if aim == "loop" else ""
        verdict = _verdict(found, point, doubt, known=not doubt, coarse=bool(doubt))
        return _from_tip(verdict, found) if doubt else verdict
    why = found.why or point.why
    if aim == "loop" and found.ok:
        why = f"the tip is known, the middle of the loop is not: {found.middle.why}"
        nearly = found.middle.sigma <= NEARLY_SIGMA_UM  # NaN is not
        return _verdict(found, found.middle if nearly else found.tip, why, coarse=True)
    boxes_only = aim == "loop" and found.middle.ok and found.reason == Reason.INCONSISTENT
    if boxes_only and found.middle.sigma <= NEARLY_SIGMA_UM and not _doubt_of_outline(found):
        return _verdict(found, found.middle, why, coarse=True)
    verdict = _verdict(found, found.tip, why)
    # A mount that is in view in few pictures has a tip all the same, on one circle.
    seen = found.reason != Reason.NO_PIN or found.tip.ok
    if seen and _is_coarse(verdict):
        # Move: another rotation from the same place would give the same answer
        return replace(verdict, coarse=True)
    x = verdict.offset_um[0]
    seldom = found.n_ok < SEEN_SELDOM * found.n_turned
    if seldom and x < 0.0 and verdict.along_sigma_um <= COARSE_SIGMA_UM:
        # Only a short part is in view. Its place across is unknown, but it must come further in
        return replace(verdict, offset_um=(max(x, -STEP_IN_UM), 0.0, 0.0), coarse=True)
    if not seen:
        raise SampleError(f"{found.why}; is a sample mounted, and the light right?")
    return verdict


def _tip_agrees(found: RotationValues) -> bool:
    """Return whether the tip supports the middle, which is computed from boxes."""
    if found.reason == Reason.INCONSISTENT:
        # The boxes are not of one loop, unless nearly all of them agree. Then the tip is wrong: it
        # jumps between two corners of the end
        return found.middle.used >= OUTLINE_ALONE * found.n_turned
    return found.ok or found.reason == Reason.UNCERTAIN


def _from_tip(verdict: Verdict, found: RotationValues) -> Verdict:
    """Take the place along the spindle from the tip, as far as a loop of this width is long."""
    x = found.tip.x - HALF_LENGTH * found.width
    if not math.isfinite(x):
        return replace(verdict, coarse=False)
    return replace(verdict, offset_um=(x, *verdict.offset_um[1:]))


def _doubt_of_outline(found: RotationValues) -> str:
    """Say why the middle of an outline may not be that of the loop; empty if it is."""
    used, turned = found.middle.used, found.n_turned
    if used < OUTLINE_SHARE * turned:
        return f"the whole outline of the loop is seen in {used} of {turned} pictures only"
    length, width = found.length, found.width
    low, high = ASPECTS
    if math.isfinite(width) and not low * width <= length <= high * width:
        return f"an outline {length:.0f} um long and {width:.0f} um wide is not that of a loop"
    return ""


def _judge_pin(found: RotationValues) -> Verdict:
    """Refuse a bare pin that is seen well, its end near the beam; else come nearer first."""
    # Away from the spindle a thin stem is out of focus, and the loop on it may be out of view.
    seen = found.n_ok >= SEEN_WELL * found.n_turned
    pins = found.n_pin >= SEEN_WELL * found.n_turned
    why = f"{found.why}, with {found.kind_share:.0%} of the votes"
    verdict = _verdict(found, found.tip, why)
    coarse = _is_coarse(verdict)
    near = max(map(abs, verdict.offset_um)) <= NEAR_PIN_UM
    if seen and pins and found.kind_share >= PIN_SHARE and (near or not coarse):
        raise SampleError(found.why)
    return replace(verdict, coarse=coarse)


def _is_coarse(verdict: Verdict) -> bool:
    """Say whether a place is good enough to move by."""
    return verdict.sigma_um <= COARSE_SIGMA_UM and all(map(math.isfinite, verdict.offset_um))


def _verdict(
    found: RotationValues,
    point: Place,
    why: str,
    *,
    known: bool = False,
    coarse: bool = False,
) -> Verdict:
    slack = min(LENGTH_SHARE * found.length, SLACK_MAX_UM)
    return Verdict(
        offset_um=(point.x, point.y, point.z),
        sigma_um=point.sigma,
        along_sigma_um=point.sigma_x,
        along_slack_um=slack if point is found.middle and found.length > 0.0 else 0.0,
        known=known,
        coarse=coarse,
        why=why,
    )


def _check_pictures(found: RotationValues) -> None:
    """Raise if the pictures cannot tell anything, whatever the sample."""
    turned, dark = found.n_turned, found.n_flat_image
    if not turned:
        raise HardwareError(
            "no picture has an angle of the spindle; do the clocks of camera and motors agree, is "
            f"the readback of the spindle posted every {GAP_MAX_DEG:g} deg at least, and does the "
            "camera send pictures?"
        )
    if dark > MANY_DARK * turned:
        raise HardwareError(
            f"flat image: {dark} pictures of the rotation have no light or no structure; did the "
            "back light go off?"
        )
    if found.reason == Reason.OTHER_SIDE:
        raise HardwareError(
            f"{found.why}; if the camera or its mirroring was changed, run calibrate_camera"
        )
    if found.frozen:
        raise HardwareError(
            f"the camera sends the same picture while the spindle turns ({turned} pictures); "
            "restart the video server"
        )
