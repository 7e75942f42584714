"""PVs of an existing IOC to which the service puts its results, or from which it reads settings."""

OLD_PUT_NAMES = ("output", "center", "fwhm", "ymin", "ymax", "axis")
"""The keys of `PUT_NAMES` that the old service had; an IOC need not have the others."""
PUT_NAMES = {
    "output": "SPECTRUM_Y",
    "center": "SPECTRUM_CENTER",
    "fwhm": "SPECTRUM_FWHM",
    "ymin": "SPC_ROI_YMIN",
    "ymax": "SPC_ROI_YMAX",
    "axis": "SPECTRUM_X",
    "com": "SPECTRUM_COM",
    "std": "SPECTRUM_STD",
    "center_error": "SPECTRUM_CENTER_ERR",
    "fwhm_error": "SPECTRUM_FWHM_ERR",
    "quantile_width": "SPECTRUM_QWIDTH",
    "relative_width": "SPECTRUM_RES",
    "brightness": "SPECTRUM_BRT",
    "pulse_energy": "PULSE_ENERGY",
    "offset": "SPECTRUM_OFFSET",
    "amplitude": "SPECTRUM_AMPLITUDE",
    "intensity": "SPECTRUM_INTENSITY",
    "chi2": "SPECTRUM_CHI2",
    "quality": "SPECTRUM_QUALITY",
    "fit_status": "FIT_STATUS",
    "fit_unit": "FIT_UNIT",
    "pulse_id": "PULSE_ID",
    "average_y": "AVG_SPECTRUM_Y",
    "average_center": "AVG_CENTER",
    "average_fwhm": "AVG_FWHM",
    "average_pulses": "AVG_PULSES",
    "state": "STATE",
    "message": "MESSAGE",
    "pulses": "N_PULSES",
    "processed": "N_PROCESSED",
    "sent": "N_SENT",
    "unsent": "N_UNSENT",
    "lost": "N_LOST",
    "failures": "N_FAILURES",
    "rate": "RATE",
}
"""PVs of an existing IOC: the name of the argument without ``--`` and ``-pv``, and the suffix of
the default, which is that of the hosted PV."""
