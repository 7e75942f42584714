"""The section ``[bpm]`` of ``skywright.toml``."""

from pydantic import Field, JsonValue

from skywright.section import Section


class BpmSettings(Section):
    """What differs between beamlines."""

    position: dict[str, JsonValue] = Field(default={})
    """Parameters of the analysis `bpm_position`, e.g. ``{"scale_mm": 2.5}``."""
