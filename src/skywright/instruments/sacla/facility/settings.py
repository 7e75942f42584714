"""Settings of the simulated facility."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from skywright.instruments.sacla.twin import SINGLE, Faults, TwinSettings
from skywright.section import Section

Fraction = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]
Pixels = Annotated[int, Field(ge=1, le=16_384)]
EQUIPMENT_IDS = {
    "upstream": "xfel_bl_{bl}_tc_bm_2_pd/charge",
    "i0": "xfel_bl_{bl}_st_2_pd_user_5_fitting_peak/voltage",
    "beam": "xfel_mon_bpm_bl{bl}_0_3_beamstatus/summary",
    "laser_open": "xfel_bl_{bl}_lh1_shutter_1_open_valid/status",
    "laser_close": "xfel_bl_{bl}_lh1_shutter_1_close_valid/status",
    "delay": "xfel_bl_{bl}_st_2_motor_1/position",
    "timing": "xfel_bl_{bl}_st_1_timing_tool/pixel",
}
"""Equipment ids by role. That of the timing tool is our own: each experiment has another one."""


class FacilitySettings(Section):
    """The simulated beamline, and how its servers behave."""

    beamline: Annotated[int, Field(ge=1, le=3)] = 3
    detectors: tuple[str, ...] = (SINGLE,)
    """Ids of MPCCD tiles."""
    cameras: tuple[str, ...] = ()
    """Ids of detectors without gain and geometry."""
    shape: tuple[Pixels, Pixels] = (1024, 512)
    """(rows, columns) of each detector."""
    rate_hz: Annotated[float, Field(gt=0)] = 30.0
    tag_step: Annotated[int, Field(ge=1)] = 2
    """Tags from one shot to the next."""
    seed: Annotated[int, Field(ge=0)] = 0
    pool: Annotated[int, Field(ge=1)] = 24
    """Images rendered before the run, of each detector."""
    ring_images: Annotated[int, Field(ge=1)] = 100
    """Images that the ring buffer of a detector holds."""
    history: Annotated[int, Field(ge=1)] = 36_000
    """Values of an equipment, and stored images of a detector, that are kept."""
    image_lag_s: Seconds = 0.0
    """Added to the time from the shot to the image in the ring, about 0.1 s."""
    database_lag_s: Seconds = 0.0
    """Added to the time from the shot to its values in the database, 0.1 s to 0.6 s."""
    call_s: Seconds = 0.0
    """Time that every call takes."""
    future: Literal["error", "wait", "newest"] = "error"
    """What a reader does that is asked for an image which is not there yet: it fails, waits for it,
    or gives the newest image with its tag."""
    missing: Fraction = 0.0
    """Probability that an image or a value never comes."""
    no_value: Fraction = 0.0
    """Probability of ``not-converged``, ``saturated``, empty text or None in place of a number."""
    beam_off: Fraction = 0.02
    bad_pixels: Fraction = 0.0
    """Fraction of the pixels that are hot; if there are any, a column is dead too. The facility
    tells nobody which they are."""
    laser_moving: Fraction = 0.0
    """Probability that both flags of the laser's shutter are false."""
    every: dict[str, Annotated[int, Field(ge=1)]] = Field(default={})
    """Role of an equipment, or id of a detector: it has data at each N-th shot only."""
    shots: int | None = None
    """The accelerator stops after this number of shots; None: never."""
    manual: bool = False
    """Time stands still until a control client moves it on."""
    running: bool = True
    """Whether the first run begins with the first shot; else the run is stopped."""

    @field_validator("every")
    @classmethod
    def _check_every(cls, every: dict[str, int], info: ValidationInfo) -> dict[str, int]:
        known = (*EQUIPMENT_IDS, *info.data.get("detectors", ()), *info.data.get("cameras", ()))
        if unknown := [name for name in every if name not in known]:
            raise ValueError(f"no {unknown[0]!r}; there are {', '.join(known)}")
        return every

    @property
    def twin(self) -> TwinSettings:
        """The experiment."""
        return TwinSettings(
            detectors=(*self.detectors, *self.cameras),
            shape=self.shape,
            rate_hz=self.rate_hz,
            tag_step=self.tag_step,
            pool=self.pool,
            beam_off=self.beam_off,
            bad_pixels=self.bad_pixels,
            faults=Faults(missing=self.missing, no_value=self.no_value),
        )

    def equipment(self) -> dict[str, str]:
        """Return the equipment ids by role."""
        return {role: name.format(bl=self.beamline) for role, name in EQUIPMENT_IDS.items()}
