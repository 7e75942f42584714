"""Analyses by name, for live analysis, `skywright reprocess` and a cluster."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from skywright.analysis import Analysis
from skywright.analysis.second import SecondStage
from skywright.arguments import did_you_mean, make_from
from skywright.errors import ConfigError
from skywright.instruments import NamedAnalysis, declared, instruments, resolve

if TYPE_CHECKING:  # a cluster's worker needs no configuration
    from skywright.config import Settings

Made = TypeVar("Made")

COMMON = {
    "picture_statistics": NamedAnalysis("skywright.analysis.picture_statistics:PictureStatistics"),
}
"""Analyses that belong to no instrument."""


def named_analyses() -> dict[str, NamedAnalysis]:
    """Return the analyses by name: those of all instruments and the common ones."""
    return COMMON | declared(lambda instrument: instrument.analyses)


def is_configured_by_devices(name: str) -> bool:
    """Return whether the analysis `name` takes parameters from the devices' configuration."""
    analyses = named_analyses()
    return name in analyses and bool(analyses[name].configured)


def analysis_class(name: str) -> type[Analysis[Any]]:
    """Import an analysis.

    Parameters
    ----------
    name
        One of `named_analyses`, or ``module:Class`` of an importable module.

    Raises
    ------
    ConfigError
        If there is no such analysis.
    """
    analyses = named_analyses()
    target = analyses[name].kind if name in analyses else name
    known = f"known are {', '.join(sorted(analyses))}, or name one as module:Class"
    if ":" not in target:
        hint = f"{did_you_mean(name, analyses)} {known}".lstrip()
        raise ConfigError(f"no analysis {name!r}; {hint}")
    found = _imported(target, f"; {known}")
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
        As for `analysis_class`.
    parameters
        Parameters of the analysis; they override the values from the device configuration.
    configuration
        Configuration of the devices of a run, by data key; some analyses find parameters in it.

    Raises
    ------
    ConfigError
        If there is no such analysis or it does not take the parameters.
    """
    kind = analysis_class(name)
    if configuration and is_configured_by_devices(name):
        found = resolve(named_analyses()[name].configured)(configuration)
        parameters = {**found, **(parameters or {})}
    return _made(name, kind, parameters or {})


def _made(name: str, kind: Callable[..., Made], parameters: dict[str, Any]) -> Made:
    """Return `kind` with these parameters; `ConfigError` names the analysis if one is wrong."""
    try:
        return make_from(kind, parameters)
    except ConfigError as error:
        raise ConfigError(f"analysis {name}: {error}") from error


def is_second_stage(name: str) -> bool:
    """Return whether `name`, which may be ``module:Class``, names a second-stage analysis.

    Raises
    ------
    ConfigError
        If it cannot be imported.
    """
    return _second_stage_class(name) is not None


def first_stage_of(name: str, default: str | None = None) -> str:
    """Return the name of the analysis whose rows a second-stage analysis works on.

    Parameters
    ----------
    name
        Name of the second-stage analysis.
    default
        Result for an analysis given as ``module:Class``, which names no first stage.

    Raises
    ------
    ConfigError
        If `name` is ``module:Class`` and there is no default.
    """
    named = named_analyses().get(name)
    first = named.after if named is not None else default
    if first is None:
        raise ConfigError(
            f"analysis {name} does not say whose rows it takes: name a derived run that has them"
        )
    return first


def configured_parameters(name: str, settings: "Settings") -> dict[str, Any]:
    """Return the parameters that the configuration gives an analysis, or a second-stage one.

    Parameters
    ----------
    name
        As for `analysis_class`; an analysis that belongs to no instrument has its defaults.
    settings
        The configuration.
    """
    for instrument in instruments().values():
        named = instrument.analyses.get(name)
        if named is not None and named.prepared:
            return dict(resolve(named.prepared)(settings))
        if named is not None and named.settings:
            return dict(getattr(getattr(settings, instrument.name), named.settings))
    return {}


def make_second_stage(name: str, parameters: dict[str, Any] | None = None) -> SecondStage:
    """Return a second-stage analysis.

    Parameters
    ----------
    name
        One of `named_analyses` that has a stage, or ``module:Class`` of an importable module.
    parameters
        Parameters of the second-stage analysis.

    Raises
    ------
    ConfigError
        If there is no such stage or it does not take the parameters.
    """
    kind = _second_stage_class(name)
    if kind is None:
        raise ConfigError(f"analysis {name} works on the rows of no other analysis")
    return _made(name, kind, parameters or {})


def _second_stage_class(name: str) -> type[SecondStage] | None:
    """Import a second-stage analysis; return None if `name` is none."""
    named = named_analyses().get(name)
    target = named.stage if named is not None else name
    kind = _imported(target) if ":" in target else None
    return kind if isinstance(kind, type) and issubclass(kind, SecondStage) else None


def _imported(target: str, note: str = "") -> Any:
    """Import what ``module:Class`` names; `ConfigError`, which ends with the note, if it cannot."""
    try:
        return resolve(target)
    except Exception as error:  # a module of the user's may raise any
        is_absent = isinstance(error, ImportError | AttributeError)
        why = f"{error}" if is_absent else f"{type(error).__name__}: {error}"
        raise ConfigError(f"analysis {target!r} cannot be imported ({why}){note}") from error
