"""Where the telescopes of a run are and point to, as its ``obs_config.json`` has it."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.panoseti.rundir import RunDirectory, Telescope, run_of, telescopes_of

FILE_NAME = "obs_config.json"
EQUATOR_M, SQUARED_ECCENTRICITY = 6_378_137.0, 6.694379990141e-3
"""Of the ellipsoid WGS 84."""


def telescopes_in(run: RunDirectory) -> list[Telescope]:
    """Return the telescopes of a run, as far as its configuration has them."""
    return telescopes_of(run.configs().get("obs_config", {}))


class RunTelescopes:
    """The telescopes of the newest run of a data directory.

    Parameters
    ----------
    data_dir
        Data directory of a node, or a run directory.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._state: tuple[Path, int] | None = None
        self._found: dict[int, Telescope] = {}

    def of(self, run: str) -> Mapping[int, Telescope]:
        """Return the telescopes of a run by module; the file is read again if it has changed."""
        directory = run_of(self._data_dir, run)
        path, state = directory.find(FILE_NAME) if run else None, None
        if path is not None:
            with suppress(OSError):  # it is gone meanwhile
                state = path, path.stat().st_mtime_ns
        if state != self._state:
            self._state = state
            found = telescopes_in(directory) if state else []
            self._found = {telescope.module: telescope for telescope in found}
        return self._found


def telescopes_text(telescopes: Sequence[Telescope]) -> str:
    """Return telescopes as JSON, as a run in the catalog has them; `flash_parameters` reads it."""
    return json.dumps([asdict(each) for each in telescopes])


def flash_parameters(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the baselines of a run for `FlashCandidates`.

    Parameters
    ----------
    configuration
        By data key; ``NAME_telescopes``, from `telescopes_text`, is used.
    """
    for key, value in configuration.items():
        if key.endswith("_telescopes"):
            telescopes = [Telescope(**each) for each in json.loads(str(value))]
            return {"baselines_m": [[a, b, m] for (a, b), m in baselines_m(telescopes).items()]}
    return {}


def baselines_m(telescopes: Sequence[Telescope]) -> dict[tuple[int, int], float]:
    """Return the distance of each pair of modules, m; a module without a position is left out.

    Modules of one dome have the position of the dome, and the distance 0, which is left out.
    """
    places = {each.module: place for each in telescopes if (place := _place(each)) is not None}
    distances = {
        (a, b): round(float(np.linalg.norm(places[a] - places[b])), 3)
        for a, b in combinations(sorted(places), 2)
    }
    return {pair: meters for pair, meters in distances.items() if meters}


def _place(telescope: Telescope) -> NDArray[np.float64] | None:
    """Return x, y, z from the center of the earth, m; None if latitude or longitude is absent."""
    if telescope.latitude_deg is None or telescope.longitude_deg is None:
        return None
    latitude, longitude = np.radians([telescope.latitude_deg, telescope.longitude_deg])
    height = telescope.altitude_m or 0.0
    normal = EQUATOR_M / np.sqrt(1 - SQUARED_ECCENTRICITY * np.sin(latitude) ** 2)
    across = (normal + height) * np.cos(latitude)
    up = (normal * (1 - SQUARED_ECCENTRICITY) + height) * np.sin(latitude)
    return np.array([across * np.cos(longitude), across * np.sin(longitude), up])
