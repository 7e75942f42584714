"""A view of the spectrometer that only reads PVs."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from devices.facts import FactsView

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class SpectrumFacts:
    """Values of the spectrometer's IOC at one moment.

    Parameters
    ----------
    pulse_id
        Pulse id of the newest pulse; -1 before the first.
    center, fwhm, center_error, fwhm_error
        Figures of its fit and their errors, in `unit`; NaN without a fit, see `fit_status`.
    fit_status, unit
        Names of the codes of `skywright.instruments.psss.processing`.
    average_pulses
        Number of pulses in the average.
    state, message
        ``processing`` or ``stopped``, and the message for people.
    pulses, lost, unsent
        Counts since the start of the process.
    rate
        Pulses per second.
    """

    pulse_id: Annotated[float, "PULSE_ID"] = -1.0
    center: Annotated[float, "SPECTRUM_CENTER"] = float("nan")
    fwhm: Annotated[float, "SPECTRUM_FWHM"] = float("nan")
    center_error: Annotated[float, "SPECTRUM_CENTER_ERR"] = float("nan")
    fwhm_error: Annotated[float, "SPECTRUM_FWHM_ERR"] = float("nan")
    fit_status: Annotated[str, "FIT_STATUS"] = ""
    unit: Annotated[str, "FIT_UNIT"] = ""
    average_pulses: Annotated[int, "AVG_PULSES"] = 0
    state: Annotated[str, "STATE"] = ""
    message: Annotated[str, "MESSAGE"] = ""
    pulses: Annotated[int, "N_PULSES"] = 0
    lost: Annotated[int, "N_LOST"] = 0
    unsent: Annotated[int, "N_UNSENT"] = 0
    rate: Annotated[float, "RATE"] = 0.0


class SpectrumView(FactsView[SpectrumFacts]):
    """The newest spectrum, its fit and the counts.

    Parameters
    ----------
    prefix
        Prefix of the PVs, with its colon.
    """

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix, SpectrumFacts)
        self._spectra = [self.signal(pv) for pv in ("SPECTRUM_X", "SPECTRUM_Y", "AVG_SPECTRUM_Y")]

    def spectra(self) -> tuple[Floats, Floats, Floats]:
        """Read axis, newest spectrum and average, each (W,) float32; empty if they do not match.

        Raises
        ------
        TimeoutError
            If the IOC does not answer.
        """
        x, y, average = (
            np.atleast_1d(np.asarray(self.get(signal), dtype=np.float32))
            for signal in self._spectra
        )
        if len(x) != len(y) or len(y) < 2:
            return np.empty(0, np.float32), np.empty(0, np.float32), np.empty(0, np.float32)
        return x, y, average if len(average) == len(y) else np.full_like(y, np.nan)
