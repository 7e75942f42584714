"""A run directory: its files, its configuration without passwords, its markers."""

import json
import logging
import math
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skywright.errors import DataError
from skywright.instruments.panoseti.live.activity import grew_recently, hashpipe_runs
from skywright.instruments.panoseti.products import (
    RunName,
    is_pff_name,
    module_id,
    parse_file_name,
    parse_run_name,
)

logger = logging.getLogger(__name__)

ENDED_MARKER = "recording_ended"
MARKERS = (ENDED_MARKER, "collect_complete", "run_complete")
"""In the order in which they appear; each holds the local time."""
CONFIG_BYTES_MAX = 200_000
"""A longer file, as JSON, is not in a start document."""
SECRET_KEY = re.compile(
    r"passw|passphrase|secret|token|credential|api_?key|pwd|(?<![a-z])pw(?![a-z])"
    r"|(?<!by)pass(?![a-z])|auth(?!ors?(?![a-z]))",
    re.IGNORECASE,
)
"""Keys that name a secret; ``bypass`` and ``author`` do not."""
URL_USER = re.compile(r"[^\s:/@]*:(?!//)\S*@|(?<=//)[^/@\s]*@")
"""User and password of a URL, with or without its scheme.

Passwords hold ``@`` and ``/``, so all up to the last ``@`` counts as one.
"""


@dataclass(frozen=True)
class Telescope:
    """One module as ``obs_config.json`` has it; angles in degrees, altitude in metres.

    What the configuration lacks is None.
    """

    module: int
    name: str
    dome: str
    latitude_deg: float | None
    longitude_deg: float | None
    altitude_m: float | None
    azimuth_deg: float | None
    elevation_deg: float | None
    position_angle_deg: float | None


@dataclass(frozen=True)
class RunDirectory:
    """A run.

    Attributes
    ----------
    path
        A run directory that holds files, or ``DATA_DIR/RUN.pffd`` of a node, whose files are in
        ``DATA_DIR/module_<N>/RUN.pffd``.
    name
        What its name says.
    """

    path: Path
    name: RunName

    @property
    def directories(self) -> list[Path]:
        """Where its files and configurations may be, ``module_<N>`` before collected copies."""
        parent = self.path.parent
        if parent.name.startswith("module_"):
            parent = parent.parent
        beside = (path / self.path.name for path in sorted(parent.glob("module_*")))
        found = [*beside, self.path, parent / self.path.name]
        # Not `Path.is_dir`, which raises where a directory may not be entered.
        return [path for path in dict.fromkeys(found) if os.path.isdir(path)]  # noqa: PTH112

    def find(self, name: str) -> Path | None:
        """Return the first of its files with this name; None if there is none."""
        # Not `Path.is_file`, which raises where a directory may not be entered.
        return next(filter(os.path.isfile, (path / name for path in self.directories)), None)

    def files(self) -> dict[tuple[int, str], list[Path]]:
        """Return the files by module and product, in the order of their sequence numbers.

        Of files of one name, such as a collected copy and what it is a copy of, only one.
        """
        by_name: dict[str, Path] = {}
        for directory in self.directories:
            try:
                paths = list(directory.iterdir())
            except OSError as error:
                logger.error("%s: %s", directory, error.strerror)
                continue
            for path in paths:
                if is_pff_name(path.name):
                    by_name.setdefault(path.name, path)
        found: dict[tuple[int, str], list[Path]] = {}
        pairs = [(parse_file_name(path), path) for path in by_name.values()]
        for name, path in sorted(pairs, key=lambda pair: (pair[0].seqno, pair[1].name)):
            found.setdefault((name.module, name.product.name), []).append(path)
        return dict(sorted(found.items()))

    def has_frames(self) -> bool:
        """Return whether one of its files of images has content."""
        for path in (path for paths in self.files().values() for path in paths):
            with suppress(OSError):  # it is moved when it is collected
                if path.stat().st_size:
                    return True
        return False

    def configs(self) -> dict[str, Any]:
        """Return its JSON files by name without ending; passwords are left out.

        A file that is no JSON is logged and left out.
        """
        found: dict[str, Any] = {}
        for directory in self.directories:
            for path in sorted(directory.glob("*.json")):
                try:
                    found.setdefault(path.stem, without_secrets(json.loads(path.read_bytes())))
                except (OSError, ValueError, RecursionError) as error:
                    logger.error("%s: %s", path, error)
        return found

    def metadata(self) -> dict[str, Any]:
        """Return what the start document of a run in the catalog has of this one.

        Its name and its configuration, without passwords. Keys there hold neither dots nor
        slashes: these become underscores. A file above `CONFIG_BYTES_MAX` is named only.
        """
        configs = {
            name: config
            if len(json.dumps(config)) <= CONFIG_BYTES_MAX
            else f"left out: more than {CONFIG_BYTES_MAX} bytes"
            for name, config in self.configs().items()
        }
        return {"pff_run": self.path.name, "run_configs": _with_plain_keys(configs)}

    def markers(self) -> dict[str, str]:
        """Return the text of each marker that is there."""
        # The text holds a local time, in any language and encoding.
        return {
            marker: path.read_text("utf-8", "replace").strip()
            for marker in MARKERS
            if (path := self.find(marker)) is not None
        }


def open_run_directory(path: Path | str) -> RunDirectory:
    """Return the run directory at `path`.

    Raises
    ------
    DataError
        If it is no directory.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path} is no directory")
    return RunDirectory(path, parse_run_name(path))


def _with_plain_keys(value: Any) -> Any:
    """Return a JSON value whose keys are allowed in documents."""
    if isinstance(value, dict):
        return {re.sub("[./]", "_", key): _with_plain_keys(each) for key, each in value.items()}
    return [_with_plain_keys(each) for each in value] if isinstance(value, list) else value


def run_of(data_dir: Path, run: str) -> RunDirectory:
    """Return a run of a data directory by its name; `data_dir` may be the run directory itself."""
    path = data_dir if data_dir.name == run else data_dir / run
    return RunDirectory(path, parse_run_name(path))


def is_under_way(data_dir: Path, run: str) -> bool:
    """Return whether a run goes on.

    It has no marker, and one of its files has grown in the last 10 s or Hashpipe runs here.
    """
    directory = run_of(data_dir, run)
    if directory.markers():
        return False
    return any(map(grew_recently, directory.directories)) or hashpipe_runs()


def without_secrets(value: Any) -> Any:
    """Return a JSON value without passwords: neither in URLs nor under a key that names one."""
    if isinstance(value, dict):
        kept = ((key, inner) for key, inner in value.items() if not SECRET_KEY.search(key))
        return {key: without_secrets(inner) for key, inner in kept}
    if isinstance(value, list):
        return [without_secrets(inner) for inner in value]
    return URL_USER.sub("", value) if isinstance(value, str) else value


def telescopes_of(obs_config: Any) -> list[Telescope]:
    """Return the modules of an ``obs_config.json``.

    What is no dome or module, and a module without an address, is logged and left out.
    """
    found = []
    for dome in _objects(obs_config, "domes"):
        for module in _objects(dome, "modules"):
            try:
                number = module_id(str(module.get("ip_addr", "")))
            except DataError as error:
                logger.error("obs_config: %s", error)
                continue
            found.append(
                Telescope(
                    module=number,
                    name=str(module.get("name", "")),
                    dome=str(dome.get("name", "")),
                    latitude_deg=_number(dome, "obslat"),
                    longitude_deg=_number(dome, "obslon"),
                    altitude_m=_number(dome, "obsalt"),
                    azimuth_deg=_number(module, "azimuth"),
                    elevation_deg=_number(module, "elevation"),
                    position_angle_deg=_number(module, "position_angle"),
                )
            )
    return found


def _objects(settings: Any, key: str) -> list[dict[str, Any]]:
    """Return the objects in a list of an ``obs_config.json``; none if it is absent."""
    values = settings.get(key, []) if isinstance(settings, dict) else None
    if not isinstance(values, list):
        logger.error("obs_config.json: %s is %.40r, expected a list", key, values)
        return []
    objects = [value for value in values if isinstance(value, dict)]
    if len(objects) < len(values):
        odd = next(value for value in values if not isinstance(value, dict))
        logger.error("obs_config.json: %s holds %.40r, expected objects", key, odd)
    return objects


def _number(settings: dict[str, Any], key: str) -> float | None:
    """Return a number of an ``obs_config.json``; None if it is absent or no number."""
    value = settings.get(key)
    if value is None:
        return None
    try:
        if math.isfinite(number := float(value)):
            return number
    except (TypeError, ValueError, OverflowError):  # OverflowError: an integer of 400 digits
        pass
    name = settings.get("name", "")
    logger.error("obs_config.json: %s of %r is %.40r, expected a number", key, name, value)
    return None
