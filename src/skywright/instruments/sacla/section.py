"""The section ``[sacla]`` of ``skywright.toml``."""

from typing import Any

from pydantic import Field, JsonValue, field_validator

from skywright.arguments import make_from
from skywright.section import Section, checks


class SaclaSettings(Section):
    """What differs between experiments."""

    curves: dict[str, JsonValue] = Field(default={})
    """Parameters of the analysis `sacla_curves` that the device does not give."""
    values: dict[str, JsonValue] = Field(default={})
    """Parameters of the analysis `sacla_values` that the device does not give: its histograms."""
    ngrab: int = Field(default=500, ge=1, le=2000)
    """Newest shots in the scatter plots of the page."""
    plot_every: float = Field(default=1.0, ge=0.2, le=60.0)
    """Time between two updates of the page, s."""

    @field_validator("curves")
    @classmethod
    def _curves_take_them(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value:
            with checks():
                from skywright.instruments.sacla.shot_curves import ShotCurves

                make_from(ShotCurves, value)
        return value

    @field_validator("values")
    @classmethod
    def _values_take_them(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value:
            with checks():
                from skywright.instruments.sacla.shot_values import REGIONS_MAX, ShotValues

                # A histogram may be of any region; the device says later how many there are.
                make_from(ShotValues, {"regions": REGIONS_MAX, **value})
        return value
