"""The section ``[psss]`` of ``skywright.toml``."""

from typing import Annotated

from pydantic import Field, JsonValue

from skywright.section import Section, parameters_of

# The width of the pictures is not known yet. So an axis is checked for two columns only: one that
# rises and then falls in wide pictures may rise throughout in narrow ones.
SPECTRA = parameters_of("skywright.instruments.psss.analysis:SpectrumStatistics", columns=2)


class PsssSettings(Section):
    """What differs between beamlines for the single-shot spectrometer."""

    spectra: Annotated[dict[str, JsonValue], SPECTRA] = Field(default={})
    """Parameters of the analysis `psss_spectra` that replace what the spectrometer's configuration
    says, e.g. ``{"smoothing": "none", "resolution_ev": 0.1}``."""
