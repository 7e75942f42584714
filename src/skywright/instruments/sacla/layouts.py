"""What is recorded of shots: a row for each shot, region sets, frames, and running images."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.acquire.columns_layout import ColumnsLayout, Rows
from skywright.errors import ConfigError
from skywright.files.columns import Column
from skywright.instruments.sacla.analyzed_shot import PROFILE, AnalyzedShot, RegionSet
from skywright.instruments.sacla.pixels import HISTOGRAM_BINS
from skywright.instruments.sacla.regions import Region
from skywright.instruments.sacla.shots import EQUIPMENT, MOTOR, ShotRules, Verdict

REGIONS_ROOM, REGIONS_MAX, CORNERS_MAX = 16, 64, 64
"""Regions that a row has room for, or a multiple of it; most regions; corners of one region."""
NAME_BYTES = 64
VERDICTS = tuple(verdict.value for verdict in Verdict)
"""Names of the codes of the column ``verdict``."""
SHOTS, REGIONS, FRAMES, IMAGES = "/entry/shots", "/entry/regions", "/entry/frames", "/entry/images"

TAG = Column(f"{SHOTS}/tag", "<i8", attrs={"description": "high tag * 2**32 + low tag"})
REGIONS_NUMBER = Column(f"{REGIONS}/regions_number", "<i4")


def room_for(regions: int) -> int:
    """Return the number of regions that a new file has room for, a multiple of 16."""
    return max(-(-regions // REGIONS_ROOM), 1) * REGIONS_ROOM


def shot_columns(
    room: int = REGIONS_ROOM, rings: Mapping[str, int] | None = None
) -> tuple[Column, ...]:
    """Return the columns of the rows of shots, without the tag.

    Parameters
    ----------
    room
        Number of regions that a row has room for.
    rings
        Rings of the radial profile of each shot, by detector; without them it is not recorded.
    """
    profiles = (
        Column(
            f"{SHOTS}/{detector_key(k)}_profile",
            "<f4",
            (count,),
            attrs={"units": "eV", "detector": name, "description": "mean of the pixels of a ring"},
        )
        for k, (name, count) in enumerate((rings or {}).items())
    )
    return (
        Column(f"{SHOTS}/time", "<f8", attrs={"units": "s"}),
        Column(f"{SHOTS}/run", "<i8", attrs={"description": "run of the facility"}),
        Column(f"{SHOTS}/verdict", "|u1", attrs={"names": list(VERDICTS)}),
        Column(f"{SHOTS}/accepted", "|u1", attrs={"description": "1: the shot is analyzed"}),
        Column(f"{SHOTS}/laser_on", "|u1"),
        *(Column(f"{SHOTS}/{key}", "<f8") for key in (*EQUIPMENT, MOTOR)),
        Column(f"{SHOTS}/stage", "<f8", attrs={"units": "ps", "description": "delay of the stage"}),
        Column(
            f"{SHOTS}/scanned",
            "<f8",
            attrs={"units": "ps", "description": "delay, corrected by the timing tool"},
        ),
        Column(f"{SHOTS}/regions_number", "<i4"),
        Column(f"{SHOTS}/sum_ev", "<f8", (room,), attrs={"units": "eV"}),
        Column(f"{SHOTS}/photons", "<i8", (room,), attrs={"description": "-1: missing"}),
        Column(
            f"{SHOTS}/photon_hist",
            "<i4",
            (room, HISTOGRAM_BINS),
            attrs={"description": "pixels with 0 .. 6 and with 7 or more photons; -1: missing"},
        ),
        *profiles,
    )


def region_columns(room: int = REGIONS_ROOM) -> tuple[Column, ...]:
    """Return the columns of the region sets, without their number."""
    return (
        Column(f"{REGIONS}/name", f"|S{NAME_BYTES}", (room,), 16),
        Column(f"{REGIONS}/detector", f"|S{NAME_BYTES}", (room,), 16),
        Column(f"{REGIONS}/corners", "<i4", (room,), 16),
        Column(f"{REGIONS}/points", "<f8", (room, CORNERS_MAX, 2), 16, {"units": "px"}),
    )


FRAME_TAG = Column(f"{FRAMES}/tag", "<i8")
IMAGE_NUMBER = Column(f"{IMAGES}/update", "<i8")
IMAGE_KEYS = ("mean", "mean_on", "mean_off", "var")


def check_room(regions: Sequence[Region], room: int = REGIONS_MAX) -> None:
    """Raise `ConfigError` if regions do not fit into a row with room for `room` of them."""
    if len(regions) > room:
        why = "" if room == REGIONS_MAX else " in the open file; end the recording first"
        raise ConfigError(f"{len(regions)} regions, expected at most {room}{why}")
    for region in regions:
        if len(region.points) > CORNERS_MAX:
            raise ConfigError(
                f"ROI {region.name}: {len(region.points)} corners, expected at most {CORNERS_MAX}"
            )
        for text in (region.name, region.detector):
            if len(text.encode()) > NAME_BYTES:
                raise ConfigError(f"ROI {text!r}: longer than {NAME_BYTES} bytes")


@dataclass
class Span:
    """The shots of one recording, for all its files.

    Parameters
    ----------
    first
        Shots of this run with a lower identity came before it began.
    count
        Number of shots; 0: until it is ended.
    run
        Run of the facility when it began. The tags of a later run may begin anew.
    taken
        Number of shots so far.
    """

    first: int = 0
    count: int = 0
    run: int = 0
    taken: int = 0
    _newest: int | None = None

    def take(self, shot: AnalyzedShot) -> bool:
        """Count a shot; return whether it belongs to the recording."""
        is_before = shot.run == self.run and shot.identity < self.first
        if is_before or (self.count and self.taken == self.count):
            return False
        self.taken += 1
        self._newest = shot.identity
        return True

    def holds(self, shot: AnalyzedShot) -> bool:
        """Return whether a shot is the one that was taken last."""
        return shot.identity == self._newest


class ShotsLayout(ColumnsLayout):
    """A row for each shot, accepted or not.

    Parameters
    ----------
    rules
        How the delay of the stage is computed.
    room, rings
        As for `shot_columns`.
    span
        Of the recording.
    """

    def __init__(
        self,
        rules: ShotRules,
        room: int = REGIONS_ROOM,
        rings: Mapping[str, int] | None = None,
        span: Span | None = None,
    ) -> None:
        super().__init__("shots", shot_columns(room, rings), TAG)
        self._rules, self._room, self._rings = rules, room, dict(rings or {})
        self._span = span or Span()

    def take(self, result: AnalyzedShot) -> Rows | None:
        """Return the row of a shot."""
        if not self._span.take(result):
            return None
        values = result.values
        row: dict[str, Any] = {
            "time": result.time,
            "run": result.run,
            "verdict": VERDICTS.index(result.verdict.value),
            "accepted": result.verdict is Verdict.ACCEPTED and not result.is_lost,
            "laser_on": values.get("laser_open", 0.0) > 0.5,
            **{key: values.get(key, np.nan) for key in (*EQUIPMENT, MOTOR)},
            "stage": self._rules.stage_delay(values),
            "scanned": result.delay,
            "regions_number": result.regions.number,
            "sum_ev": _padded(result, "sum_ev", np.nan, (self._room,)),
            "photons": _padded(result, "photons", -1, (self._room,)),
            "photon_hist": _padded(result, "photon_hist", -1, (self._room, HISTOGRAM_BINS)),
            **{
                f"{detector_key(k)}_profile": _padded(result, PROFILE + name, np.nan, (count,))
                for k, (name, count) in enumerate(self._rings.items())
            },
        }
        columns = {
            column.path: np.asarray(row[column.path.rsplit("/", 1)[1]], column.dtype)[None]
            for column in self.columns
        }
        return Rows(np.array([result.identity], np.int64), columns)


def _padded(shot: AnalyzedShot, key: str, missing: float, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return what was found, e.g. in each region; `missing` where there is nothing."""
    room = np.full(shape, missing)
    if shot.found is not None and key in shot.found:
        found = shot.found[key][: shape[0]]
        room[: len(found)] = found
    return room


class RegionsLayout(ColumnsLayout):
    """A row for each set of regions that some shot has.

    Parameters
    ----------
    room
        Number of regions that a row has room for.
    """

    def __init__(self, room: int = REGIONS_ROOM) -> None:
        super().__init__("region sets", region_columns(room), REGIONS_NUMBER)
        self._room, self._last = room, -1

    def take(self, result: AnalyzedShot) -> Rows | None:
        """Return the row of a set when the first shot has it."""
        if result.regions.number == self._last:
            return None
        self._last = result.regions.number
        return region_rows(result.regions, self._room)


def region_rows(regions: RegionSet, room: int = REGIONS_ROOM) -> Rows:
    """Return a set of regions as one row."""
    names = np.zeros((1, room), f"S{NAME_BYTES}")
    detectors = np.zeros((1, room), f"S{NAME_BYTES}")
    corners = np.zeros((1, room), np.int32)
    points = np.full((1, room, CORNERS_MAX, 2), np.nan)
    for k, region in enumerate(regions.regions):
        names[0, k], detectors[0, k] = region.name.encode(), region.detector.encode()
        corners[0, k] = len(region.points)
        points[0, k, : len(region.points)] = region.points
    found = {"name": names, "detector": detectors, "corners": corners, "points": points}
    return Rows(
        np.array([regions.number], np.int32),
        {column.path: found[column.path.rsplit("/", 1)[1]] for column in region_columns(room)},
    )


def read_regions(row: Mapping[str, NDArray[Any]]) -> tuple[Region, ...]:
    """Return the regions of one row.

    Parameters
    ----------
    row
        ``name``, ``detector`` (room,) bytes, ``corners`` (room,), ``points`` (room, 64, 2).
    """
    return tuple(
        Region(
            row["name"][k].decode(),
            row["detector"][k].decode(),
            tuple((float(x), float(y)) for x, y in row["points"][k, :corners]),
        )
        for k, corners in enumerate(row["corners"])
        if corners
    )


def detector_key(number: int) -> str:
    """Return the name of a detector in data keys: d1, d2 ..."""
    return f"d{number + 1}"


class FramesLayout(ColumnsLayout):
    """The frames of some shots, as the source gives them.

    Parameters
    ----------
    shapes
        (rows, columns) by detector.
    span
        Of the recording; the rows of its shots are taken before their frames.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]], span: Span | None = None) -> None:
        self._span = span or Span()
        self.paths = {name: f"{FRAMES}/{detector_key(k)}" for k, name in enumerate(shapes)}
        columns = [
            Column(self.paths[name], "<f4", shape, 1, {"units": "ADU", "detector": name})
            for name, shape in shapes.items()
        ]
        super().__init__("frames", columns, FRAME_TAG)
        self._shapes = dict(shapes)

    def take(self, result: AnalyzedShot) -> Rows | None:
        """Return the frames of a shot that has those of all detectors of the file."""
        if not self._span.holds(result):
            return None
        if not result.frames.keys() >= self._shapes.keys():
            return None
        columns = {
            self.paths[name]: frame_of(result.frames[name], shape)[None]
            for name, shape in self._shapes.items()
        }
        return Rows(np.array([result.identity], np.int64), columns)


def frame_of(frame: Any, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return the pixels of a frame, which may still be in a file."""
    if isinstance(frame, np.ndarray):
        return frame
    pixels = np.empty(shape, np.float32)
    frame.read_into(pixels)
    return pixels


class ImagesLayout(ColumnsLayout):
    """Running images of all detectors: `IMAGE_KEYS` of each, and the numbers of shots.

    Its results are ``(update number, images)``; the images are pairs of a detector's name and its
    results of `ShotImages`, computed as they are taken.

    Parameters
    ----------
    shapes
        (rows, columns) by detector.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        columns = [
            Column(f"{IMAGES}/{detector_key(k)}_{key}", "<f4", shape, 1, {"detector": name})
            for k, (name, shape) in enumerate(shapes.items())
            for key in IMAGE_KEYS
        ]
        counts = [Column(f"{IMAGES}/{key}", "<i8", (), 64) for key in ("n_on", "n_off")]
        super().__init__("images", (*columns, *counts), IMAGE_NUMBER)
        self._shapes = dict(shapes)

    def take(self, result: tuple[int, Iterable[tuple[str, Mapping[str, Any]]]]) -> Rows | None:
        """Return one row; None when a detector of the file is no part of the run any more."""
        number, images = result
        keys = {name: detector_key(k) for k, name in enumerate(self._shapes)}
        columns: dict[str, Any] = {}
        for name, found in images:
            if name in keys:
                detector = keys.pop(name)
                for key in IMAGE_KEYS:
                    image = np.asarray(found[key], np.float32)
                    columns[f"{IMAGES}/{detector}_{key}"] = image[np.newaxis]
                for key in ("n_on", "n_off"):
                    columns.setdefault(f"{IMAGES}/{key}", np.array([found[key]], np.int64))
        if keys or not columns:
            return None
        return Rows(np.array([number], np.int64), columns)
