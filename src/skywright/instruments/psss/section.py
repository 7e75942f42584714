"""The section ``[psss]`` of ``skywright.toml``."""

from contextlib import suppress
from typing import Any

from pydantic import Field, JsonValue, field_validator

from skywright.arguments import check_keys
from skywright.errors import ConfigError
from skywright.section import Section


class PsssSettings(Section):
    """What differs between beamlines for the single-shot spectrometer."""

    spectra: dict[str, JsonValue] = Field(default={})
    """Parameters of the analysis `psss_spectra` that replace what the spectrometer's configuration
    says, e.g. ``{"smoothing": "none", "resolution_ev": 0.1}``."""

    @field_validator("spectra")
    @classmethod
    def _analysis_takes_them(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value:
            try:
                with suppress(ImportError):  # not on this machine: it analyzes no spectra
                    from skywright.instruments.psss.analysis import SpectrumStatistics
                    from skywright.instruments.psss.settings import Settings

                    check_keys(value, SpectrumStatistics, Settings)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return value
