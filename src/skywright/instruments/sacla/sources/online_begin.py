"""Facts of a run before its first shot is read: detectors, tags of shots, rules."""

import logging
import re
from collections.abc import Mapping, Sequence
from math import gcd, lcm
from typing import Any

import numpy as np

from skywright.errors import ConfigError
from skywright.instruments.sacla.join import TagGrid
from skywright.instruments.sacla.regions import read_npy
from skywright.instruments.sacla.run_info import RunInfo
from skywright.instruments.sacla.shots import MOTOR, ShotRules
from skywright.instruments.sacla.sources.online_api import OnlineApi
from skywright.instruments.sacla.sources.online_settings import OnlineSettings
from skywright.instruments.sacla.tile import PixelRules, Tile, check_scale, count_rings

logger = logging.getLogger(__name__)

OCTAL_TILES = 8
NEWEST_TAGS = 64
"""Tags of a detector from which the tag step is found."""
TAGS_MIN = 4


def choose_detectors(settings: OnlineSettings, known: Sequence[str]) -> tuple[str, ...]:
    """Return the ids of the detectors to be read.

    Parameters
    ----------
    settings
        Names them, or has the pattern of the octal.
    known
        Those of the run.

    Raises
    ------
    ConfigError
        If none are named and the pattern does not match exactly eight.
    """
    if settings.detectors:
        return settings.detectors
    tiles = sorted(name for name in known if re.search(settings.octal, name))
    if len(tiles) != OCTAL_TILES:
        raise ConfigError(
            f"source sacla: {len(tiles)} detectors match {settings.octal}, expected "
            f"{OCTAL_TILES}; choose with the setting detectors (the run has "
            f"{', '.join(known) or 'none'})"
        )
    return tuple(tiles)


def make_tile(detector: str, facts: Mapping[str, Any], settings: OnlineSettings) -> Tile:
    """Return a detector: gain and size as it says itself, bad pixels from a file.

    Raises
    ------
    ConfigError
        If the file cannot be read, or has another shape, or the gain makes no sense.
    """
    shape = (int(facts["ysize"]), int(facts["xsize"]))
    path = settings.masks.get(detector)
    bad = np.zeros(shape, bool)
    if path is not None:
        try:
            bad = read_npy(path) != 0
        except (OSError, ValueError) as error:
            raise ConfigError(f"mask of {detector}, {path}: not readable ({error})") from None
        if bad.shape != shape:
            raise ConfigError(f"mask of {detector}, {path}: {bad.shape}, expected {shape}")
    gain = float(facts.get("mp_absgain", 1.0))
    check_scale(f"{detector}: mp_absgain", gain)
    return Tile(detector, gain, bad)


def find_steps(
    api: OnlineApi, settings: OnlineSettings, run: int, detectors: Sequence[str]
) -> tuple[int, int] | None:
    """Find the tags at which all detectors have images, from the run's lists of tags.

    Parameters
    ----------
    api, settings
        The facility's modules; the beamline.
    run
        Run number.
    detectors
        Those that are read. One whose list cannot be read is left out, and so is one
        with fewer than `TAGS_MIN` images when another one is ``settings.wait_tags`` tags ahead.

    Returns
    -------
    tuple or None
        A tag with images of all detectors (of the slowest one if there is none), and the number of
        tags between such images; None while the run has too few tags. A detector that has stopped
        meanwhile counts as if it had gone on.
    """
    lists = []
    for detector in detectors:
        try:
            tags = np.sort(api.dbpy.read_taglist_bydetid(settings.beamline, run, detector))
        except Exception as error:  # the facility's modules have one exception for everything
            logger.info("%s: its tags are not known: %s", detector, error)
        else:
            lists.append(tags.tolist())
    begun = min((tags[0] for tags in lists if tags), default=0)
    reached = max((tags[-1] for tags in lists if tags), default=0)
    found = []
    for tags in lists:
        if len(tags) >= TAGS_MIN:
            step = gcd(*np.diff(tags[-NEWEST_TAGS:]).tolist())
            found.append((tags[-1], max(step, 1)))
        elif reached - max(tags, default=begun) < settings.wait_tags:
            return None
    if not found:
        return None
    # Detectors of different rates have images together at some tags of the slowest one.
    newest, slowest = max(found, key=lambda pair: pair[1])
    period = lcm(*(step for _, step in found))
    newest += (reached - newest) // period * period
    for tag in range(newest, newest - period, -slowest):
        if all((tag - other) % step == 0 for other, step in found):
            return tag, period
    return newest, period


def make_grid(start: int, catch_up_tags: int, tag: int, step: int, shots: int | None) -> TagGrid:
    """Return the tags that are shots.

    Parameters
    ----------
    start
        First tag of the run.
    catch_up_tags
        A run that began more than this number of tags ago is read from the newest tag, not its
        start.
    tag, step
        From `find_steps`.
    shots
        Number of shots; None: until the run ends.
    """
    least = start if tag - start <= catch_up_tags else tag + 1
    first = least + (tag - least) % step
    grid = TagGrid(first, step)
    return grid if shots is None else grid.cut(shots)


def make_info(
    api: OnlineApi,
    settings: OnlineSettings,
    run: int,
    grid: TagGrid,
    facts: Mapping[str, Mapping[str, Any]],
) -> RunInfo:
    """Return the facts of a run.

    Parameters
    ----------
    api, settings
        The facility's modules; rules.
    run
        Run number.
    grid
        Its shots.
    facts
        What each detector says of itself.

    Raises
    ------
    ConfigError
        If a mask cannot be read, or a gain, an energy or the width of the rings makes no sense.
    """
    tiles = {name: make_tile(name, about, settings) for name, about in facts.items()}
    pixels = settings.pixels
    photon_ev = pixels.photon_ev
    if photon_ev is None:
        photon_ev = 1000.0 * api.dbpy.read_config_photonenergy_in_keV(settings.beamline, run)
    for key, energy in (("photon_ev", photon_ev), ("ev_per_electron", pixels.ev_per_electron)):
        check_scale(f"run {run}: {key}", energy)
    rows, columns = next(iter(tiles.values())).bad.shape
    rules = PixelRules(
        photon_ev=photon_ev,
        ev_per_electron=pixels.ev_per_electron,
        threshold_ev=pixels.threshold_ev,
        radial_cx=columns / 2 if pixels.radial_cx is None else pixels.radial_cx,
        radial_cy=rows / 2 if pixels.radial_cy is None else pixels.radial_cy,
        radial_dr=pixels.radial_dr,
    )
    for tile in tiles.values():  # else the report at the end would fail
        rows, columns = tile.bad.shape
        count_rings((rows, columns), rules.radial_cx, rules.radial_cy, rules.radial_dr)
    return RunInfo(
        run=run,
        hightag=int(api.dbpy.read_hightagnumber(settings.beamline, run)),
        grid=grid,
        tiles=tiles,
        shot_rules=ShotRules(**settings.shots.model_dump()),
        pixel_rules=rules,
        more_values=(MOTOR,) if settings.equipment.motor else (),
        cameras=frozenset(name for name, about in facts.items() if "mp_absgain" not in about),
    )
