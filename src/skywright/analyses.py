"""The analyses that go by name: live, in `skywright reprocess`, and on a cluster."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from skywright.analysis import Analysis
from skywright.errors import ConfigError

ANALYSES = {
    "loop_detection": "skywright.loop.analysis:LoopDetection",
    "loop_rotation": "skywright.loop.rotation:LoopRotation",
    "picture_statistics": "skywright.picture_statistics:PictureStatistics",
    "psss_pictures": "skywright.psss.analysis:PictureSpectra",
    "psss_spectra": "skywright.psss.analysis:SpectrumStatistics",
}
CONFIGURED = {
    "psss_pictures": "skywright.psss.configured:picture_parameters",
    "psss_spectra": "skywright.psss.configured:spectra_parameters",
}
"""Functions that find an analysis's parameters in the devices' configuration of a run."""


def analysis_class(name: str) -> type[Analysis[Any]]:
    """Import an analysis.

    Parameters
    ----------
    name
        One of `ANALYSES`, or ``module:Class`` of an importable module.

    Raises
    ------
    ConfigError
        If there is no such analysis.
    """
    target = ANALYSES.get(name, name)
    module, _, attribute = target.partition(":")
    known = f"known are {', '.join(sorted(ANALYSES))}, or name one as module:Class"
    if not attribute:
        raise ConfigError(f"no analysis {name!r}; {known}")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"analysis {target!r} cannot be imported ({error}); {known}") from error
    if not (isinstance(found, type) and issubclass(found, Analysis)):
        raise ConfigError(f"analysis {target!r} is no subclass of skywright.analysis.Analysis")
    return found


def make_analysis(
    name: str,
    parameters: dict[str, Any] | None = None,
    configuration: Mapping[str, Any] | None = None,
) -> Analysis[Any]:
    """Return a fresh analysis.

    Parameters
    ----------
    name
        As of `analysis_class`.
    parameters
        The analysis's own; they hold against what the configuration says.
    configuration
        Of the devices of a run, by data key; some analyses find parameters in it.

    Raises
    ------
    ConfigError
        If there is no such analysis or it does not take the parameters.
    """
    kind = analysis_class(name)
    if configuration and name in CONFIGURED:
        module, _, function = CONFIGURED[name].partition(":")
        found = getattr(import_module(module), function)(configuration)
        parameters = {**found, **(parameters or {})}
    try:
        return kind(**(parameters or {}))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"analysis {name}: parameters {parameters}: {error}") from error
