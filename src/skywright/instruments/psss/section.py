"""The section ``[psss]`` of ``skywright.toml``."""

from pydantic import Field, JsonValue

from skywright.section import Section


class PsssSettings(Section):
    """What differs between beamlines for the single-shot spectrometer."""

    spectra: dict[str, JsonValue] = Field(default={})
    """Parameters of the analysis `psss_spectra` that replace what the spectrometer's configuration
    says, e.g. ``{"smoothing": "none", "resolution_ev": 0.1}``."""
