"""What can be seen of the spectrometer, by reading alone: nothing is put."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from ophyd import Component as Cpt
from ophyd import Device, EpicsSignalRO

from devices.camera_view import read_facts

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class SpectrumFacts:
    """What the spectrometer's IOC says at one moment.

    Parameters
    ----------
    pulse_id
        Pulse id of the newest pulse; -1 before the first.
    center, fwhm, center_error, fwhm_error
        Of its fit, in `unit`; NaN where `fit_status` says that there is none.
    fit_status, unit
        Names of the codes of `skywright.instruments.psss.processing`.
    average_pulses
        Pulses in the average.
    state, message
        ``processing`` or ``stopped``, and what it says for people.
    pulses, lost, unsent
        Counts since the start of the process.
    rate
        Pulses per second.
    """

    pulse_id: float = -1.0
    center: float = float("nan")
    fwhm: float = float("nan")
    center_error: float = float("nan")
    fwhm_error: float = float("nan")
    fit_status: str = ""
    unit: str = ""
    average_pulses: int = 0
    state: str = ""
    message: str = ""
    pulses: int = 0
    lost: int = 0
    unsent: int = 0
    rate: float = 0.0


class SpectrumView(Device):
    """The newest spectrum, its fit and the counts.

    Parameters
    ----------
    prefix
        Prefix of the PVs, with its colon.
    """

    x = Cpt(EpicsSignalRO, "SPECTRUM_X")
    y = Cpt(EpicsSignalRO, "SPECTRUM_Y")
    average = Cpt(EpicsSignalRO, "AVG_SPECTRUM_Y")
    pulse_id = Cpt(EpicsSignalRO, "PULSE_ID")
    center = Cpt(EpicsSignalRO, "SPECTRUM_CENTER")
    fwhm = Cpt(EpicsSignalRO, "SPECTRUM_FWHM")
    center_error = Cpt(EpicsSignalRO, "SPECTRUM_CENTER_ERR")
    fwhm_error = Cpt(EpicsSignalRO, "SPECTRUM_FWHM_ERR")
    fit_status = Cpt(EpicsSignalRO, "FIT_STATUS", string=True)
    unit = Cpt(EpicsSignalRO, "FIT_UNIT", string=True)
    average_pulses = Cpt(EpicsSignalRO, "AVG_PULSES")
    state = Cpt(EpicsSignalRO, "STATE", string=True)
    message = Cpt(EpicsSignalRO, "MESSAGE", string=True)
    pulses = Cpt(EpicsSignalRO, "N_PULSES")
    lost = Cpt(EpicsSignalRO, "N_LOST")
    unsent = Cpt(EpicsSignalRO, "N_UNSENT")
    rate = Cpt(EpicsSignalRO, "RATE")

    def facts(self, timeout_s: float = 2.0) -> SpectrumFacts:
        """Read what the IOC says.

        Raises
        ------
        TimeoutError
            If it does not answer.
        """
        return read_facts(self, SpectrumFacts, timeout_s)

    def spectra(self, timeout_s: float = 2.0) -> tuple[Floats, Floats, Floats]:
        """Read axis, newest spectrum and average, each (W,) float32; empty if they do not match.

        Raises
        ------
        TimeoutError
            If the IOC does not answer.
        """
        limits = {"timeout": timeout_s, "connection_timeout": timeout_s}
        x, y, average = (
            np.atleast_1d(np.asarray(signal.get(**limits), dtype=np.float32))
            for signal in (self.x, self.y, self.average)
        )
        if len(x) != len(y) or len(y) < 2:
            return np.empty(0, np.float32), np.empty(0, np.float32), np.empty(0, np.float32)
        return x, y, average if len(average) == len(y) else np.full_like(y, np.nan)
