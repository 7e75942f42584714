"""Instruments: what each one declares about itself, and how the others find the declarations.

An instrument is a package with an object ``INSTRUMENT``, an `Instrument`, in its ``__init__.py``.
`instruments` finds those of the packages in this directory, and those of packages installed
elsewhere that name theirs in the entry-point group ``skywright.instruments``. Everything that is
common to all instruments (command line, configuration, session, live page ...) loops over what is
found and imports no instrument by name.
"""

import logging
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from skywright.packages import not_installed, requirements_of, with_extra
from skywright.rooms import importable

ENTRY_POINTS = "skywright.instruments"
"""The entry-point group in which a package installed elsewhere names its `Instrument`."""

logger = logging.getLogger(__name__)

Declared = TypeVar("Declared")


@dataclass(frozen=True)
class Ioc:
    """An IOC of an instrument, with its defaults.

    Parameters
    ----------
    module
        Python module with a ``python -m`` entry, e.g. ``iocs.axis``.
    prefix
        PV prefix below the beamline's, with its colon, e.g. ``AXIS1:``.
    args
        Arguments of the module that make it simulate. The name of an IOC in braces stands for that
        IOC's full prefix.
    data_option
        Argument of the module whose value is a directory of files that another program writes and
        that tiled reads in place. Empty: there is none.
    """

    module: str
    prefix: str
    args: tuple[str, ...] = ()
    data_option: str = ""


@dataclass(frozen=True)
class NamedAnalysis:
    """An analysis that goes by a name.

    Parameters
    ----------
    kind
        ``module:Class``, a subclass of `skywright.analysis.Analysis`.
    configured
        ``module:function``: takes the devices' configuration of a run, by data key, and returns
        parameters of the analysis. Empty: the configuration says nothing to the analysis.
    live
        The session runs it on every fitting run while data are taken.
    settings
        Field or property of the instrument's settings that holds its parameters in a session.
        Empty: it has its defaults.
    after
        Name of the analysis of the same instrument whose rows it works on. Empty: it works on the
        rows of raw runs.
    stage
        Of an analysis that has `after`: ``module:Class``, a subclass of
        `skywright.analysis.second.SecondStage`.
    prepared
        Of the same: ``module:function``, takes the `skywright.config.Settings` and returns the
        parameters of `stage` in a session.
    """

    kind: str
    configured: str = ""
    live: bool = False
    settings: str = ""
    after: str = ""
    stage: str = ""
    prepared: str = ""


@dataclass(frozen=True)
class ServiceOffer:
    """A service of an instrument that `skywright up` starts if ``[services.NAME]`` is configured.

    Parameters
    ----------
    command
        The program and its arguments, e.g. ``("skywright", "epu", "serve")``. A program that is no
        server of skywright is none to offer: `up` awaits its ready line.
    title
        What it does, in one line.
    """

    command: tuple[str, ...]
    title: str = ""


@dataclass(frozen=True, eq=False)
class Instrument:
    """What the common rooms need to know of an instrument.

    Values that are ``module:name`` strings are imported when they are used, not before: a machine
    with only some packages installed can use that part of the instrument that needs no others.

    Parameters
    ----------
    name
        Of its packages, of its section in ``skywright.toml`` and of its command: lower case.
    title
        What it is, in a few words.
    summary
        The line beside its command in ``skywright --help``; by default the title.
    extra
        What ``pip install 'skywright[EXTRA]'`` brings for it; of a package installed elsewhere, an
        extra of that package.
    iocs
        IOCs by name; the names are unique among all instruments.
    settings
        ``module:Model``, the pydantic model of the section ``[NAME]`` of ``skywright.toml``, a
        subclass of `skywright.section.Section`. The module imports nothing heavy.
    analyses
        By name; the names are unique among all instruments.
    devices
        ``module:function``: takes a `skywright.session.context.SessionContext` and returns a
        dictionary of what the session shall have, by name: the devices of the IOCs that are
        configured, and devices that show results of live analyses.
    plans
        ``module:name`` of each plan that the session shall have.
    commands
        ``module:app``, a `typer.Typer`: the command ``skywright NAME``.
    demos
        Modules by name of the demo. Each has ``iocs()``, the IOCs to start, and ``run(session)``,
        which returns a list of `skywright.cli.demos.DemoResult`.
    views
        ``module:VIEW`` of each page view, a `dashboard.views.View`.
    kernels
        ``module:function`` of each function that compiles numba kernels by running them on small
        input. They run in several processes: no kernel is compiled by two of the functions.
    readers
        ``module:Class`` by the mimetype of files that other programs write.
    services
        By name, as in ``[services.NAME]`` of ``skywright.toml``.
    package
        Distribution that the instrument comes from; discovery fills it in.
    """

    name: str
    title: str
    summary: str = ""
    extra: str = ""
    iocs: Mapping[str, Ioc] = field(default_factory=dict)
    settings: str = ""
    analyses: Mapping[str, NamedAnalysis] = field(default_factory=dict)
    devices: str = ""
    plans: tuple[str, ...] = ()
    commands: str = ""
    demos: Mapping[str, str] = field(default_factory=dict)
    views: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    readers: Mapping[str, str] = field(default_factory=dict)
    services: Mapping[str, ServiceOffer] = field(default_factory=dict)
    package: str = "skywright"

    @property
    def to_install(self) -> str:
        """What pip installs for it: its package with its extra."""
        return with_extra(self.package, self.extra)


@cache
def instruments() -> Mapping[str, Instrument]:
    """Find all instruments, once per process.

    Returns
    -------
    Mapping
        Instruments by name: those of skywright in alphabetical order, then those of other packages.
        One that cannot be imported, or that uses a name of another one, is logged as an error and
        left out.
    """
    found: dict[str, Instrument] = {}
    for origin, load in _candidates():
        try:
            instrument = load()
            why = _objection(instrument, found.values())
        except Exception as error:  # whatever another package raises: the others work
            logger.error("instrument %s cannot be used: %s", origin, error)
            logger.debug("because of", exc_info=True)
            continue
        if why:
            logger.error("instrument %s is left out: %s", origin, why)
        else:
            found[instrument.name] = instrument
    return found


def declared(of: Callable[[Instrument], Mapping[str, Declared]]) -> dict[str, Declared]:
    """Return what all instruments declare, by name, such as ``declared(lambda each: each.demos)``.

    Parameters
    ----------
    of
        Takes an instrument and returns what it declares, by name.
    """
    return {name: value for each in instruments().values() for name, value in of(each).items()}


def resolve(target: str) -> Any:
    """Import what ``module:name`` names.

    Raises
    ------
    ImportError, AttributeError
        If there is no such module, or nothing of that name in it.
    """
    module, _, name = importable(target).partition(":")
    return getattr(import_module(module), name)


def missing_packages(instrument: Instrument) -> list[str]:
    """Return the names of packages of the instrument's extra that are not installed."""
    return not_installed(requirements_of(instrument.package, [instrument.extra]))


def _candidates() -> Iterator[tuple[str, Any]]:
    """Yield where each instrument is declared, and a function that imports the declaration."""
    for module in pkgutil.iter_modules(__path__):
        if module.ispkg:
            name = f"{__name__}.{module.name}"
            yield name, lambda name=name: import_module(name).INSTRUMENT
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        yield point.value, lambda point=point: _from_elsewhere(point)


def _from_elsewhere(point: EntryPoint) -> Instrument:
    instrument: Instrument = point.load()
    if isinstance(instrument, Instrument) and point.dist:
        return replace(instrument, package=point.dist.name)
    return instrument


def _objection(instrument: Any, others: Any) -> str:
    """Say why an instrument cannot be used beside the others; empty if it can."""
    if not isinstance(instrument, Instrument):
        return f"expected a skywright.instruments.Instrument, found {type(instrument).__name__}"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", instrument.name):
        return f"its name {instrument.name!r} has other characters than a-z, 0-9 and _"
    for other in others:
        if other.name == instrument.name:
            return f"another instrument has the name {instrument.name}"
        for kind in ("iocs", "analyses", "demos", "readers", "services"):
            both = sorted(set(getattr(instrument, kind)) & set(getattr(other, kind)))
            if both:
                return f"{kind} {', '.join(both)}: the instrument {other.name} has these names"
    return ""
