"""What is recorded of shots: a row for each shot, region sets, frames, and running images."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.acquire.columns_layout import ColumnsLayout, Rows
from skywright.errors import ConfigError
from skywright.files.columns import Column
from skywright.instruments.sacla.analyzed_shot import PROFILE, AnalyzedShot, RegionSet
from skywright.instruments.sacla.pixels import HISTOGRAM_BINS
from skywright.instruments.sacla.regions import Mask, Region
from skywright.instruments.sacla.shots import EQUIPMENT, MOTOR, ShotRules, Verdict
from skywright.instruments.sacla.stored_frame import pixels_of

REGIONS_ROOM = 16
"""A row has room for a multiple of this number of regions."""
REGIONS_MAX = 64
CORNERS_MAX = 64
"""Largest number of corners of one region."""
NAME_BYTES = 64
VERDICTS = tuple(verdict.value for verdict in Verdict)
"""Names of the codes of the column ``verdict``."""
SHOTS, REGIONS, FRAMES, IMAGES = "/entry/shots", "/entry/regions", "/entry/frames", "/entry/images"

TAG = Column(f"{SHOTS}/tag", "<i8", attrs={"description": "high tag * 2**32 + low tag"})
REGIONS_NUMBER = Column(f"{REGIONS}/regions_number", "<i4")

VALUE_ATTRS = {
    "i0": {"units": "V"},
    "delay": {"units": "pulse", "description": "position of the delay stage"},
    "timing": {"units": "px"},
    "stage": {"units": "ps", "description": "delay of the stage"},
    "scanned": {"units": "ps", "description": "delay, corrected by the timing tool"},
}
"""Units and meaning of values of a shot."""


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
        Column(f"{SHOTS}/accepted", "|u1", attrs={"description": "1: the shot is accepted"}),
        Column(f"{SHOTS}/laser_on", "|u1"),
        *(
            Column(f"{SHOTS}/{key}", "<f8", attrs=VALUE_ATTRS.get(key, {}))
            for key in (*EQUIPMENT, MOTOR, "stage", "scanned")
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


def mask_room(shapes: Iterable[tuple[int, int]]) -> int:
    """Return the bytes that a mask of any of these tiles has room in, a bit for each pixel."""
    return max((-(-rows * columns // 8) for rows, columns in shapes), default=0)


def region_columns(room: int = REGIONS_ROOM, mask_bytes: int = 0) -> tuple[Column, ...]:
    """Return the columns of the region sets, without their number.

    Parameters
    ----------
    room
        Number of regions that a row has room for.
    mask_bytes
        Room for the mask of each (`mask_room`); 0: masks are not recorded.
    """
    masks = (
        Column(f"{REGIONS}/mask_shape", "<i4", (room, 2), 16),
        Column(
            f"{REGIONS}/mask",
            "|u1",
            (room, mask_bytes),
            1,
            {"description": "a bit for each pixel, row by row; the highest one is the first"},
        ),
    )
    return (
        Column(f"{REGIONS}/name", f"|S{NAME_BYTES}", (room,), 16),
        Column(f"{REGIONS}/detector", f"|S{NAME_BYTES}", (room,), 16),
        Column(f"{REGIONS}/corners", "<i4", (room,), 16),
        Column(f"{REGIONS}/points", "<f8", (room, CORNERS_MAX, 2), 16, {"units": "px"}),
        *(masks if mask_bytes else ()),
    )


FRAME_VALUES = ("i0", "scanned", "stage", "timing", MOTOR)
"""Values of a shot that are stored with its frames too, so that images can be binned."""
FRAME_TAG = Column(f"{FRAMES}/tag", "<i8")
MEASURING = "measuring"
"""Attribute of the tags of frames."""
IMAGE_NUMBER = Column(f"{IMAGES}/update", "<i8")
IMAGE_COUNTS = ("n_on", "n_off")
"""Shots with and without the pump laser in the images of a detector; also their largest numbers."""
IMAGE_KEYS = ("mean", "mean_on", "mean_off", "diff", "var", "max")
"""Running images of each detector, eV; `var` in eV^2."""


def check_room(
    regions: Sequence[Region], room: int = REGIONS_MAX, mask_bytes: int | None = None
) -> None:
    """Raise `ConfigError` if regions do not fit into a row.

    Parameters
    ----------
    regions
        The regions.
    room, mask_bytes
        As for `region_columns`; without them there is no open file.
    """
    if len(regions) > room:
        why = "" if room == REGIONS_MAX else " in the open file; end the recording first"
        raise ConfigError(f"{len(regions)} regions, expected at most {room}{why}")
    for region in regions:
        if region.mask and mask_bytes is not None and len(region.mask.bits) > mask_bytes:
            raise ConfigError(
                f"ROI {region.name}: the open file has no room for masks of this size; "
                "end the recording first"
            )
        if len(region.points) > CORNERS_MAX:
            raise ConfigError(
                f"ROI {region.name}: {len(region.points)} corners, expected at most {CORNERS_MAX}"
            )
        for text in (region.name, region.detector):
            if len(text.encode()) > NAME_BYTES:
                raise ConfigError(f"ROI {text!r}: longer than {NAME_BYTES} bytes")


class ShotsLayout(ColumnsLayout):
    """A row for each shot, accepted or not.

    Parameters
    ----------
    rules
        How the delay of the stage is computed.
    room, rings
        As for `shot_columns`.
    recording
        Number of the recording whose shots are taken.
    """

    def __init__(
        self,
        rules: ShotRules,
        room: int = REGIONS_ROOM,
        rings: Mapping[str, int] | None = None,
        recording: int = 0,
    ) -> None:
        super().__init__("shots", shot_columns(room, rings), TAG)
        self._rules, self._room, self._rings = rules, room, dict(rings or {})
        self._recording = recording

    def row_group(self, result: AnalyzedShot) -> Rows | None:
        """Return the row of a shot."""
        if result.recording != self._recording:
            return None
        values = result.values
        row: dict[str, Any] = {
            "time": result.time,
            "run": result.run,
            "verdict": VERDICTS.index(result.verdict.value),
            "accepted": is_accepted(result),
            "laser_on": result.is_laser_on,
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
        return one_row(self, result.identity, row)


def one_row(layout: ColumnsLayout, identity: int, row: Mapping[str, Any]) -> Rows:
    """Return one row from the values of the columns, by their names."""
    columns = {
        column.path: np.asarray(row[column.name], column.dtype)[None] for column in layout.columns
    }
    return Rows(np.array([identity], layout.identity.dtype), columns)


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
    room, mask_bytes
        As for `region_columns`.
    recording
        Number of the recording whose shots are taken.
    """

    def __init__(self, room: int = REGIONS_ROOM, mask_bytes: int = 0, recording: int = 0) -> None:
        super().__init__("region sets", region_columns(room, mask_bytes), REGIONS_NUMBER)
        self._room, self._mask_bytes = room, mask_bytes
        self._last, self._recording = -1, recording

    def row_group(self, result: AnalyzedShot) -> Rows | None:
        """Return the row of a set when the first shot has it."""
        if result.recording != self._recording or result.regions.number == self._last:
            return None
        self._last = result.regions.number
        return region_rows(result.regions, self._room, self._mask_bytes)


def region_rows(regions: RegionSet, room: int = REGIONS_ROOM, mask_bytes: int = 0) -> Rows:
    """Return a set of regions as one row (`region_columns`)."""
    names = np.zeros((1, room), f"S{NAME_BYTES}")
    detectors = np.zeros((1, room), f"S{NAME_BYTES}")
    corners = np.zeros((1, room), np.int32)
    points = np.full((1, room, CORNERS_MAX, 2), np.nan)
    masks, shapes = np.zeros((1, room, mask_bytes), np.uint8), np.zeros((1, room, 2), np.int32)
    for k, region in enumerate(regions.regions):
        names[0, k], detectors[0, k] = region.name.encode(), region.detector.encode()
        corners[0, k] = len(region.points)
        if region.mask is None:
            points[0, k, : len(region.points)] = region.points
        else:
            shapes[0, k] = region.mask.shape
            masks[0, k, : len(region.mask.bits)] = np.frombuffer(region.mask.bits, np.uint8)
    found = {
        "name": names,
        "detector": detectors,
        "corners": corners,
        "points": points,
        "mask_shape": shapes,
        "mask": masks,
    }
    columns = region_columns(room, mask_bytes)
    return Rows(
        np.array([regions.number], np.int32),
        {column.path: found[column.name] for column in columns},
    )


def read_regions(row: Mapping[str, NDArray[Any]]) -> tuple[Region, ...]:
    """Return the regions of one row.

    Parameters
    ----------
    row
        ``name``, ``detector`` (room,) bytes, ``corners`` (room,), ``points`` (room, 64, 2), and
        ``mask_shape`` (room, 2), ``mask`` (room, bytes) where masks are recorded.
    """
    return tuple(
        Region(
            name.decode(),
            row["detector"][k].decode(),
            tuple((float(x), float(y)) for x, y in row["points"][k, : row["corners"][k]]),
            _read_mask(row, k),
        )
        for k, name in enumerate(row["name"])
        if name
    )


def _read_mask(row: Mapping[str, NDArray[Any]], k: int) -> Mask | None:
    if "mask" not in row or not row["mask_shape"][k].any():
        return None
    rows, columns = row["mask_shape"][k].tolist()
    return Mask((rows, columns), row["mask"][k, : mask_room([(rows, columns)])].tobytes())


def detector_key(number: int) -> str:
    """Return the name of a detector in data keys: d1, d2 ..."""
    return f"d{number + 1}"


def detector_counts(detectors: int) -> tuple[str, ...]:
    """Return the names of the numbers of shots in the images of each detector."""
    return tuple(f"{detector_key(k)}_{key}" for k in range(detectors) for key in IMAGE_COUNTS)


class FramesLayout(ColumnsLayout):
    """The frames of some shots, as the source gives them; those that did not come are NaN.

    A detector that has another shape in a later run counts as one whose frame did not come: all
    rows of a stream have one shape.

    Parameters
    ----------
    shapes
        (rows, columns) by detector.
    rules
        How the delay of the stage is computed; None: it is missing.
    recording
        Number of the recording whose shots are taken.
    measuring
        Of `describe_measuring`: an attribute of the tags, so that the file can be analyzed again.
    every
        The first of every N shots that have a frame of a detector of the file is recorded. Of the
        others no frame is read.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]],
        rules: ShotRules | None = None,
        recording: int = 0,
        measuring: Mapping[str, Any] | None = None,
        every: int = 1,
    ) -> None:
        self._rules, self._recording = rules, recording
        self._every, self._shots = every, 0
        """Every N-th shot is recorded; number of shots so far that have a frame."""
        paths = {name: f"{FRAMES}/{detector_key(k)}" for k, name in enumerate(shapes)}
        columns = [
            Column(f"{FRAMES}/time", "<f8", attrs={"units": "s"}),
            Column(f"{FRAMES}/accepted", "|u1", attrs={"description": "1: the shot is accepted"}),
            Column(
                f"{FRAMES}/analyzed", "|u1", attrs={"description": "1: its frames are in images"}
            ),
            Column(f"{FRAMES}/laser_on", "|u1"),
            *(
                Column(f"{FRAMES}/{key}", "<f8", attrs=VALUE_ATTRS.get(key, {}))
                for key in FRAME_VALUES
            ),
            *(
                Column(f"{path}_came", "|u1", attrs={"description": "0: the frame did not come"})
                for path in paths.values()
            ),
            *(
                Column(path, "<f4", shapes[name], 1, {"units": "ADU", "detector": name})
                for name, path in paths.items()
            ),
        ]
        attrs = {} if measuring is None else {MEASURING: dict(measuring)}
        super().__init__("frames", columns, replace(FRAME_TAG, attrs=attrs))
        self._shapes = dict(shapes)

    def row_group(self, result: AnalyzedShot) -> Rows | None:
        """Return the row of a shot; None if it has no frame of a detector of the file.

        None also for the shots between those of which `every` keeps the frames.
        """
        if result.recording != self._recording:
            return None
        came = {
            name: frame
            for name, frame in result.frames.items()
            if name in self._shapes and frame.shape == self._shapes[name]
        }
        if not came:
            return None
        self._shots += 1
        if (self._shots - 1) % self._every:
            return None
        row: dict[str, Any] = {
            **dict.fromkeys(FRAME_VALUES, np.nan),
            **result.values,
            "time": result.time,
            "accepted": is_accepted(result),
            "analyzed": is_analyzed(result),
            "laser_on": result.is_laser_on,
            "scanned": result.delay,
            "stage": self._rules.stage_delay(result.values) if self._rules else np.nan,
        }
        for k, (name, shape) in enumerate(self._shapes.items()):
            key, is_there = detector_key(k), name in came
            row[f"{key}_came"] = is_there
            row[key] = pixels_of(came[name]) if is_there else np.full(shape, np.nan, np.float32)
        return one_row(self, result.identity, row)


def is_accepted(shot: AnalyzedShot) -> bool:
    """Return whether a shot is accepted, and its images are analyzed."""
    return shot.verdict is Verdict.ACCEPTED and not shot.is_lost


def is_analyzed(shot: AnalyzedShot) -> bool:
    """Return whether the frames that a shot has are analyzed."""
    return is_accepted(shot) or (shot.is_partial and not shot.is_lost)


class ImagesLayout(ColumnsLayout):
    """Running images of all detectors: `IMAGE_KEYS` of each, and the numbers of shots.

    Its results are ``(update number, images)``; the images are pairs of a detector's name and its
    results of `ShotImages`, computed as they are taken. The images of a detector that a later run
    lacks, or that has another shape in it, are NaN and its numbers of shots 0.

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
        names = [*IMAGE_COUNTS, *detector_counts(len(shapes))]
        counts = [Column(f"{IMAGES}/{name}", "<i8", (), 64) for name in names]
        super().__init__("images", (*columns, *counts), IMAGE_NUMBER)
        self._shapes = dict(shapes)

    def row_group(self, result: tuple[int, Iterable[tuple[str, Mapping[str, Any]]]]) -> Rows | None:
        """Return one row; None when there are images of no detector of the file."""
        number, images = result
        keys = {name: detector_key(k) for k, name in enumerate(self._shapes)}
        row: dict[str, Any] = dict.fromkeys((*IMAGE_COUNTS, *detector_counts(len(keys))), 0)
        for name, shape in self._shapes.items():
            missing = np.full(shape, np.nan, np.float32)
            row.update({f"{keys[name]}_{key}": missing for key in IMAGE_KEYS})
        is_empty = True
        for name, found in images:
            if name not in keys or found["mean"].shape != self._shapes[name]:
                continue
            is_empty = False
            row.update({f"{keys[name]}_{key}": found[key] for key in (*IMAGE_KEYS, *IMAGE_COUNTS)})
            row.update({key: max(row[key], found[key]) for key in IMAGE_COUNTS})
        if is_empty:
            return None
        return one_row(self, number, row)
