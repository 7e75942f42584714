"""Settings of the source that reads SACLA's online data."""

from typing import Annotated

from pydantic import ConfigDict, Field

from skywright.instruments.sacla.shots import EQUIPMENT, MOTOR
from skywright.section import PathValue, Section

Tags = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]
BL = "{bl}"
FINITE = ConfigDict(allow_inf_nan=False)


class EquipmentIds(Section):
    """Equipment id of each role; ``{bl}`` stands for the beamline's number."""

    i0: str = f"xfel_bl_{BL}_st_2_pd_user_5_fitting_peak/voltage"
    """Pulse energy at the sample."""
    beam: str = f"xfel_mon_bpm_bl{BL}_0_3_beamstatus/summary"
    """1: there is beam. Its name differs between beamlines."""
    laser_open: str = f"xfel_bl_{BL}_lh1_shutter_1_open_valid/status"
    laser_close: str = f"xfel_bl_{BL}_lh1_shutter_1_close_valid/status"
    delay: str = f"xfel_bl_{BL}_st_2_motor_1/position"
    """Delay stage, pulses."""
    timing: str = ""
    """Position of the timing tool's edge, camera pixels. Empty: there is no timing tool."""

    motor: str = ""
    """One more value of each shot, by which shots may be binned. Empty: there is none."""

    def of_beamline(self, beamline: int) -> dict[str, str]:
        """Return the ids by role."""
        roles = (*EQUIPMENT, MOTOR) if self.motor else EQUIPMENT
        return {role: getattr(self, role).replace(BL, str(beamline)) for role in roles}


class ShotRuleSettings(Section):
    """Filters of shots, and how the delay is computed; see `ShotRules`."""

    model_config = FINITE

    i0_min: float = 0.05
    beam_min: float = 0.5
    ps_per_pulse: float = 6.666e-3
    t0_pulse: float = 0.0
    ps_per_px: float = 2.4431e-3
    tt_ref_px: float = 0.0


class PixelRuleSettings(Section):
    """How pixels count; see `PixelRules`."""

    model_config = FINITE

    photon_ev: Annotated[float, Field(gt=0)] | None = None
    """None: the photon energy that is configured for the run."""
    ev_per_electron: Annotated[float, Field(gt=0)] = 3.65
    threshold_ev: float = 1000.0
    radial_cx: float | None = None
    radial_cy: float | None = None
    """None: the center of the first detector."""
    radial_dr: Annotated[float, Field(gt=0)] = 2.0


class OnlineSettings(Section):
    """What is read at a beamline, and how long data are awaited."""

    model_config = FINITE

    beamline: Annotated[int, Field(ge=1, le=3)] = 3
    reference: str = f"xfel_bl_{BL}_tc_bm_2_pd/charge"
    """Equipment whose newest tag says how far the accelerator is."""
    detectors: tuple[str, ...] = ()
    """Detector ids. Empty: the eight tiles that `octal` matches."""
    octal: str = r"^MPCCD-8.*-[1-8]$"
    """Regular expression of the octal's tiles; exactly eight detectors must match."""
    equipment: EquipmentIds = EquipmentIds()
    shots: ShotRuleSettings = ShotRuleSettings()
    pixels: PixelRuleSettings = PixelRuleSettings()
    masks: dict[str, PathValue] = Field(default={})
    """NPY file by detector id: (rows, columns), not 0 where a pixel is bad."""
    tag_step: Annotated[int, Field(ge=1)] | None = None
    """Tags from one image to the next; the first detector's images say which tags are shots. None:
    found in the run's list of tags."""
    catch_up_tags: Tags = 40
    """The run under way is read from its start if it began at most this number of tags ago, else
    from the newest tag; keep it below the length of the ring buffer. A run that follows is read
    from its start if it began at most 600 tags ago."""
    wait_tags: Annotated[int, Field(ge=1)] = 90
    """A value or image is given up when the newest tag is this far ahead of its own."""
    ring_tags: Annotated[int, Field(ge=2)] = 100
    """Least number of tags that the ring buffer holds. An image that is not in it never came if the
    newest one is at most half of this number ahead; else it came and is overwritten."""
    buffer_mb: Annotated[float, Field(gt=0)] = 256.0
    """Images that wait for the analysis; when it is full the readers wait."""
    connect_s: Seconds = 10.0
    """Longest wait for a run, for its detectors, and for its images, each."""
    poll_s: Seconds = 0.01
    """Time between two questions for an image that is not there yet."""
    database_s: Seconds = 0.1
    """Time between two rounds of questions to the database."""
    check_s: Seconds = 0.25
    """An image that is awaited for this time may be missing: the newest one is looked at."""
    retry_s: Seconds = 2.0
    """Time between two attempts to reach a detector that is absent."""
    silent_s: Seconds = 5.0
    """A detector without new images for this time is reported, and so is a database that does not
    answer; a run that has ended waits as long for its last data when no new tags come."""
