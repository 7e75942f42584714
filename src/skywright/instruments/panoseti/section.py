"""The section ``[panoseti]`` of ``skywright.toml``."""

from typing import Annotated

from pydantic import Field, JsonValue

from skywright.section import Section, parameters_of

FLASHES = parameters_of("skywright.instruments.panoseti.flash_analysis:FlashCandidates")


class PanosetiSettings(Section):
    """What differs between observatories."""

    flashes: Annotated[dict[str, JsonValue], FLASHES] = Field(default={})
    """Parameters of the analysis `panoseti_flashes` that runs while data are taken, e.g.
    ``{"threshold_adc": 120.0}``."""
