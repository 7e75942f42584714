"""The section ``[panoseti]`` of ``skywright.toml``."""

from typing import Any

from pydantic import Field, JsonValue, field_validator

from skywright.arguments import make_from
from skywright.section import Section, checks


class PanosetiSettings(Section):
    """What differs between observatories."""

    flashes: dict[str, JsonValue] = Field(default={})
    """Parameters of the analysis `panoseti_flashes` that runs while data are taken, e.g.
    ``{"threshold_adc": 120.0}``."""

    @field_validator("flashes")
    @classmethod
    def _analysis_takes_them(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value:
            with checks():
                from skywright.instruments.panoseti.flash_analysis import FlashCandidates

                make_from(FlashCandidates, value)
        return value
