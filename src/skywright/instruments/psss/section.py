"""The section ``[psss]`` of ``skywright.toml``."""

from typing import Annotated

from pydantic import Field, JsonValue

from skywright.section import Section, taken_by

# The spectrometer says later how wide its pictures are. An axis that turns round is right for
# narrow ones.
SPECTRA = taken_by("skywright.instruments.psss.analysis:SpectrumStatistics", columns=2)


class PsssSettings(Section):
    """What differs between beamlines for the single-shot spectrometer."""

    spectra: Annotated[dict[str, JsonValue], SPECTRA] = Field(default={})
    """Parameters of the analysis `psss_spectra` that replace what the spectrometer's configuration
    says, e.g. ``{"smoothing": "none", "resolution_ev": 0.1}``."""
