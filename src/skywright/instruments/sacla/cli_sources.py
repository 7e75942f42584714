"""Sources of ``skywright sacla live`` and ``record``, from the options of the command."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skywright.arguments import first_problem
from skywright.errors import ConfigError

if TYPE_CHECKING:
    from skywright.instruments.sacla.sources import ShotSource
    from skywright.instruments.sacla.sources.online_settings import OnlineSettings
    from skywright.instruments.sacla.sources.sacla import SaclaSource


def make_source(kind: str, **sources: "Callable[[], ShotSource]") -> "ShotSource":
    """Return the source of a kind, made by the function of that name."""
    if kind not in sources:
        raise ConfigError(f"source {kind!r}: expected sim, replay or sacla")
    return sources[kind]()


def replay_source(
    file: Path | None, speed: float, binned_by: str, shots: int | None
) -> "ShotSource":
    """Return a recorded file as a source, with the value that its shots are binned by."""
    from skywright.instruments.sacla.shots import more_values_for
    from skywright.instruments.sacla.sources.replay import ReplaySource

    if file is None:
        raise ConfigError("source replay: --file is missing")
    return ReplaySource(file, speed, more_values_for(binned_by), shots)


def simulated_source(
    shots: int | None, speed: float, seed: int, tiles: int, faults: Sequence[str]
) -> "ShotSource":
    """Return the simulated beamline as a source."""
    from skywright.instruments.sacla.sources.sim import SimSource
    from skywright.instruments.sacla.twin import OCTAL, SINGLE, Beamline, TwinSettings, parse_faults

    detectors = (SINGLE,) if tiles == 1 else OCTAL[:tiles]
    settings = TwinSettings(detectors, pool=24, faults=parse_faults(faults))
    return SimSource(Beamline(settings, seed), shots, speed)


def online_source(
    file: Path | None,
    beamline: int | None,
    detectors: Sequence[str] | None,
    equipment: Sequence[str] | None,
    shots: int | None,
) -> "SaclaSource":
    """Return SACLA's online data as a source; it ends with the run."""
    from skywright.instruments.sacla.sources.sacla import SaclaSource

    chosen: dict[str, Any] = {} if beamline is None else {"beamline": beamline}
    if detectors:
        chosen["detectors"] = tuple(detectors)
    ids = {}
    for text in equipment or ():
        role, equals, name = text.partition("=")
        if not equals:
            raise ConfigError(f"--equipment {text}: expected ROLE=ID")
        ids[role] = name
    return SaclaSource(online_settings(file, chosen, ids), shots, follow=False)


def online_settings(
    file: Path | None, chosen: Mapping[str, Any], equipment: Mapping[str, str]
) -> "OnlineSettings":
    """Read the settings of the online source.

    Parameters
    ----------
    file
        TOML; None: the defaults.
    chosen
        Settings that replace those of the file.
    equipment
        Equipment ids by role that replace those of the file.

    Raises
    ------
    ConfigError
        If the file cannot be read, or a setting is unknown or of a wrong type.
    """
    from pydantic import ValidationError

    from skywright.instruments.sacla.sources.online_settings import OnlineSettings

    where, values = "online settings", {}
    if file is not None:
        where = str(file)
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{where}: not readable ({error})") from None
    values |= chosen
    if equipment:
        values["equipment"] = values.get("equipment", {}) | dict(equipment)
    try:
        return OnlineSettings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {first_problem(error)}") from None
