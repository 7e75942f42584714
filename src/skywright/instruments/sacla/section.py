"""The section ``[sacla]`` of ``skywright.toml``."""

from typing import Annotated

from pydantic import Field, JsonValue

from skywright.instruments.sacla.shots import VALUES_REGIONS_MAX
from skywright.section import Section, parameters_of

CURVES = parameters_of("skywright.instruments.sacla.shot_curves:ShotCurves")
# A histogram may be of any region; the device says later how many there are.
VALUES = parameters_of(
    "skywright.instruments.sacla.shot_values:ShotValues", regions=VALUES_REGIONS_MAX
)


class SaclaSettings(Section):
    """What differs between experiments."""

    curves: Annotated[dict[str, JsonValue], CURVES] = Field(default={})
    """Parameters of the analysis `sacla_curves` that the device does not give."""
    values: Annotated[dict[str, JsonValue], VALUES] = Field(default={})
    """Parameters of the analysis `sacla_values` that the device does not give: its histograms."""
    ngrab: int = Field(default=500, ge=1, le=2000)
    """Newest shots in the scatter plots of the page."""
    plot_every: float = Field(default=1.0, ge=0.2, le=60.0)
    """Time between two updates of the page, s."""
