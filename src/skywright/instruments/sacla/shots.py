"""Shots: what is known of one, which are analyzed, and why the others are not."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

REQUIRED = ("i0", "beam", "laser_open", "laser_close", "delay")
"""Point detectors without which a shot is not analyzed."""
EQUIPMENT = (*REQUIRED, "timing")
MOTOR = "motor"
"""Key of one more value of each shot, by which shots may be binned; only some sources have it."""
BINNED_BY = ("delay", "stage", "timing", "i0", MOTOR)
"""What shots may be binned by: the corrected delay, that of the stage alone, or a value."""

COUNTS = (
    *("records", "other_run", "late", "duplicate", "shots_expected", "no_frame", "no_value"),
    *("beam_off", "i0_low", "laser_ambiguous", "accepted", "accepted_on", "accepted_off"),
    *("no_timing", "out_of_range"),
)
"""Records and shots by reason: keys of `ShotPipeline.counts`."""
VALUES_REGIONS_MAX = 999
"""Most regions of the analysis `ShotValues`."""
CURVES = (
    *("on_n", "on_mean", "on_sem", "off_n", "off_mean", "off_sem", "diff", "diff_sem"),
    *("on_ratio", "on_ratio_sem", "off_ratio", "off_ratio_sem"),
)
"""Curves of the regions: keys of the results of `ShotCurves`."""


def more_values_for(binned_by: str) -> tuple[str, ...]:
    """Return the values beside `EQUIPMENT` that a source must have for bins of `binned_by`."""
    return () if binned_by in ("stage", *EQUIPMENT) else (binned_by,)


class Verdict(Enum):
    """Whether a shot is analyzed; the first reason that holds."""

    NO_FRAME = "no_frame"
    NO_VALUE = "no_value"
    BEAM_OFF = "beam_off"
    I0_LOW = "i0_low"
    LASER_AMBIGUOUS = "laser_ambiguous"
    ACCEPTED = "accepted"


@dataclass(frozen=True)
class ShotRules:
    """Filters of shots, and how their delay is computed.

    Parameters
    ----------
    i0_min, beam_min
        Shots at or below are left out.
    ps_per_pulse, t0_pulse
        Of the delay stage.
    ps_per_px, tt_ref_px
        Of the timing tool's camera.
    """

    i0_min: float
    beam_min: float
    ps_per_pulse: float
    t0_pulse: float
    ps_per_px: float
    tt_ref_px: float

    def judge(self, values: Mapping[str, float], has_frames: bool) -> Verdict:
        """Say whether a shot is analyzed; a missing value is absent or NaN."""
        if not has_frames:
            return Verdict.NO_FRAME
        if any(math.isnan(values.get(key, math.nan)) for key in REQUIRED):
            return Verdict.NO_VALUE
        if values["beam"] <= self.beam_min:
            return Verdict.BEAM_OFF
        if values["i0"] <= self.i0_min:
            return Verdict.I0_LOW
        if (values["laser_open"] > 0.5) == (values["laser_close"] > 0.5):
            return Verdict.LASER_AMBIGUOUS
        return Verdict.ACCEPTED

    def stage_delay(self, values: Mapping[str, float]) -> float:
        """Return the delay of the stage alone, in ps; NaN if it is missing."""
        return (values.get("delay", math.nan) - self.t0_pulse) * self.ps_per_pulse

    def scanned(self, values: Mapping[str, float], binned_by: str) -> float:
        """Return what a shot is binned by, one of `BINNED_BY`; NaN if it is missing."""
        if binned_by == "delay":
            return self.delay(values)
        if binned_by == "stage":
            return self.stage_delay(values)
        return values.get(binned_by, math.nan)

    def delay(self, values: Mapping[str, float]) -> float:
        """Return the delay corrected by the timing tool, in ps; NaN if a value is missing."""
        return (
            self.stage_delay(values)
            + (values.get("timing", math.nan) - self.tt_ref_px) * self.ps_per_px
        )
