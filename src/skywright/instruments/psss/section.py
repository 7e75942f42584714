"""The section ``[psss]`` of ``skywright.toml``."""

from typing import Any

from pydantic import Field, JsonValue, field_validator

from skywright.arguments import make_from
from skywright.section import Section, checks


class PsssSettings(Section):
    """What differs between beamlines for the single-shot spectrometer."""

    spectra: dict[str, JsonValue] = Field(default={})
    """Parameters of the analysis `psss_spectra` that replace what the spectrometer's configuration
    says, e.g. ``{"smoothing": "none", "resolution_ev": 0.1}``."""

    @field_validator("spectra")
    @classmethod
    def _analysis_takes_them(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value:
            with checks():
                from skywright.instruments.psss.analysis import SpectrumStatistics

                # The spectrometer says later how wide its pictures are. An axis that turns round is
                # right for narrow ones.
                make_from(SpectrumStatistics, {"columns": 2, **value})
        return value
