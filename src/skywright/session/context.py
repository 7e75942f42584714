"""Makes the live analyses, devices and plans of the configured instruments for a session."""

import atexit
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skywright.analysis.named import configured_parameters
from skywright.callbacks.live import LiveAnalysis
from skywright.callbacks.reports import Reports
from skywright.config import Settings
from skywright.errors import SkywrightError
from skywright.instruments import Instrument, instruments, missing_packages, resolve

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SessionContext:
    """What an instrument's devices are made from.

    Parameters
    ----------
    settings
        The configuration.
    live
        Live analyses of the session by name; empty if only the devices are made (`load_devices`).
    """

    settings: Settings
    live: Mapping[str, Reports] = field(default_factory=dict)

    @property
    def assets(self) -> Path:
        """Directory of the files that IOCs and analyses write."""
        return self.settings.assets


def configured_instruments(settings: Settings) -> dict[str, Instrument]:
    """Return the instruments with a configured IOC, and those that declare no IOC.

    An IOC is an instrument's if it has the name or the module of one that the instrument declares:
    a second camera is ``[iocs.axis2]`` with ``module = "iocs.axis"``. The session makes devices for
    the names that instruments declare; the user makes those of further IOCs.
    """
    configured = set(settings.iocs) | {ioc.module for ioc in settings.iocs.values()}
    return {
        name: instrument
        for name, instrument in instruments().items()
        if not instrument.iocs
        or configured & (set(instrument.iocs) | {ioc.module for ioc in instrument.iocs.values()})
    }


def make_analyses(settings: Settings, engine: Any) -> dict[str, Reports]:
    """Make the live analyses of the configured instruments; no worker starts.

    They are subscribed to the RunEngine `engine`, and closed when the session ends.

    Returns
    -------
    dict
        By name. One that cannot be imported or made is logged as an error and left out.

    Raises
    ------
    ConfigError
        If an analysis does not take its parameters in the configuration.
    """
    made: dict[str, Reports] = {}
    for instrument in configured_instruments(settings).values():
        for name, analysis in instrument.analyses.items():
            if not analysis.live or analysis.after:
                continue
            with _left_out_if_it_fails(instrument, f"analysis {name}"):
                # Import it here: `LiveAnalysis` would raise an ImportError as a ConfigError
                resolve(analysis.kind)
                live = LiveAnalysis(
                    name,
                    configured_parameters(name, settings),
                    journal=settings.journals,
                    assets=settings.assets,
                    second=_second_stages(instrument, name, settings),
                )
                engine.subscribe(live)
                atexit.register(live.close)
                made |= {name: live, **live.second_reports}
    return made


def _second_stages(
    instrument: Instrument, first: str, settings: Settings
) -> dict[str, dict[str, Any]]:
    """Return the parameters of the live second-stage analyses after `first`, by name."""
    parameters = {}
    for name, analysis in instrument.analyses.items():
        if analysis.live and analysis.after == first:
            with _left_out_if_it_fails(instrument, f"analysis {name}"):
                resolve(analysis.stage)
                parameters[name] = configured_parameters(name, settings)
    return parameters


def live_analyses(namespace: Mapping[str, Any]) -> list[LiveAnalysis]:
    """Return the live analyses of a session's namespace; each includes its second-stage ones."""
    return [value for value in namespace.values() if isinstance(value, LiveAnalysis)]


def make_devices(context: SessionContext) -> dict[str, Any]:
    """Return what the configured instruments put into the session, by name.

    What cannot be imported or made is logged as an error and left out.

    Raises
    ------
    SkywrightError
        What an instrument raises on purpose, such as `ConfigError`.
    """
    found: dict[str, Any] = {}
    for instrument in configured_instruments(context.settings).values():
        if instrument.devices:
            with _left_out_if_it_fails(instrument, "devices"):
                found |= resolve(instrument.devices)(context)
    return found


def find_plans(settings: Settings) -> dict[str, Any]:
    """Return the plans of the configured instruments by name.

    What cannot be imported is logged as an error and left out.

    Raises
    ------
    SkywrightError
        What an instrument raises on purpose, such as `ConfigError`.
    """
    found = {}
    for instrument in configured_instruments(settings).values():
        for target in instrument.plans:
            with _left_out_if_it_fails(instrument, target):
                found[target.partition(":")[2]] = resolve(target)
    return found


@contextmanager
def _left_out_if_it_fails(instrument: Instrument, what: str) -> Iterator[None]:
    """Log an error in a part of an instrument, and what to install if that is the cause.

    `SkywrightError`, such as `ConfigError`, is raised: an instrument raises it on purpose.
    """
    try:
        yield
    except SkywrightError:
        raise
    except Exception as error:  # whatever another package raises, the other instruments work
        todo = ""
        if missing := missing_packages(instrument):
            names = ", ".join(missing)
            todo = f"; not installed: {names}: pip install '{instrument.to_install}'"
        reason = f"{type(error).__name__}: {error}{todo}"
        logger.error("instrument %s: %s is left out: %s", instrument.name, what, reason)
        logger.debug("because of", exc_info=error)
