"""The section ``[panoseti]`` of ``skywright.toml``."""

from pydantic import Field, JsonValue

from skywright.section import Section


class PanosetiSettings(Section):
    """What differs between observatories."""

    flashes: dict[str, JsonValue] = Field(default={})
    """Parameters of the analysis `panoseti_flashes` that runs while data are taken, e.g.
    ``{"threshold_adc": 120.0}``."""
