"""Reads the parameters of the analyses of a run from its configuration of the spectrometer."""

from collections.abc import Mapping
from typing import Any

MARK = "signal_per_row"
"""Signal that only the spectrometer has: its data key is ``NAME_signal_per_row``, with the device's
name. The names of this and of all signals read here are those in
`devices.psss.spectrometer.Psss`."""
SAME_NAME = ("smoothing", "fit", "weighting", MARK)
"""Parameters that have the name of their signal."""


def spectra_parameters(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of `skywright.instruments.psss.analysis.SpectrumStatistics` for a run.

    Parameters
    ----------
    configuration
        Configuration of the devices, by data key. The spectrometer's has ``NAME_width``,
        ``NAME_height``, ``NAME_axis`` (coefficients; empty: pixels) and the settings of the
        processing at stage. If ``NAME_settings_file`` is not empty, that file has the settings of
        each pulse.

    Returns
    -------
    dict
        Parameters; empty unless there is exactly one spectrometer in the configuration.
    """
    values = _of_device(configuration)
    found = {name: values[name] for name in SAME_NAME if name in values}
    for name, parameter in (("width", "columns"), ("height", "rows")):
        if values.get(name):
            found[parameter] = int(values[name])
    if values.get("settings_file"):  # the settings in the configuration are only those at stage
        given: dict[str, Any] = {name: found[name] for name in ("columns", "rows") if name in found}
        return {**given, "settings": str(values["settings_file"])}
    if values.get("saturation"):
        found["saturation"] = float(values["saturation"])
    axis = values.get("axis")
    if axis is not None and len(axis):
        found["axis"] = [float(coefficient) for coefficient in axis]
    return found


def picture_parameters(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of `skywright.instruments.psss.analysis.PictureSpectra` for a run.

    They are those of `spectra_parameters`, and the ROI if the run has no file of settings; there is
    no background among them.
    """
    values, found = _of_device(configuration), spectra_parameters(configuration)
    if values and "settings" not in found:
        found["roi"] = [int(values[f"roi_{edge}"]) for edge in ("ymin", "ymax")]
    return found


def _of_device(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spectrometer's values by keys without its name; {} unless there is exactly one."""
    devices = [key.removesuffix(MARK) for key in configuration if key.endswith(f"_{MARK}")]
    if len(devices) != 1:
        return {}
    return {
        key.removeprefix(devices[0]): value
        for key, value in configuration.items()
        if key.startswith(devices[0])
    }
