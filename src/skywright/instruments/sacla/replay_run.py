"""A replay file of a run that is stored: its point values, and the frames that were kept of it."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.errors import ConfigError, DataError
from skywright.files.beside import sibling
from skywright.files.columns import ColumnReader
from skywright.files.readers import file_and_column
from skywright.instruments.sacla.join import Record, TagGrid
from skywright.instruments.sacla.layouts import (
    FRAME_TAG,
    FRAMES,
    MEASURING,
    SHOTS,
    TAG,
    detector_key,
)
from skywright.instruments.sacla.measuring import read_measuring, read_shot_rules
from skywright.instruments.sacla.replay_writer import ReplayWriter
from skywright.instruments.sacla.run_info import NO_THRESHOLD_EV, RunInfo
from skywright.instruments.sacla.shots import EQUIPMENT, MOTOR

LOW_TAG = (1 << 32) - 1
ROWS_KEY = "_verdict"
"""End of the name of a data key that the rows of shots have, and nothing else."""


def recorded_files(documents: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Path]:
    """Return the files with the rows of the shots of a run, one for each run of the facility.

    Parameters
    ----------
    documents
        Names and documents of the run.

    Raises
    ------
    DataError
        If the run has no shots.
    """
    found = [
        file_and_column(doc)[0]
        for name, doc in documents
        if name == "stream_resource" and doc["data_key"].endswith(ROWS_KEY)
    ]
    if not found:
        raise DataError("the run has no shots of SACLA in files")
    return list(dict.fromkeys(found))


def choose_file(files: Sequence[Path], facility_run: int | None) -> Path:
    """Return the file of a run of the facility.

    Raises
    ------
    ConfigError
        If there are several and none is named, or there is none of this number.
    DataError
        If a file cannot be read, or has no shots.
    """
    runs: dict[int, Path] = {}
    for path in files:
        with ColumnReader(path, TAG.path) as reader:
            # The last file of a recording may have shots of more than one run
            for run in dict.fromkeys(reader.read(f"{SHOTS}/run").tolist()):
                runs.setdefault(int(run), path)
    if not runs:
        raise DataError(f"{files[0]}: no shots")
    known = ", ".join(map(str, runs))
    if facility_run is None and len(runs) > 1:
        raise ConfigError(
            f"the recording has the runs {known} of the facility, and a replay file has one: "
            "choose it by --facility-run"
        )
    if facility_run is not None and facility_run not in runs:
        raise ConfigError(f"no run {facility_run} of the facility, expected one of {known}")
    return next(iter(runs.values())) if facility_run is None else runs[facility_run]


def replay_of(
    rows: Path,
    out: Path,
    shots: int | None = None,
    most_bytes: float = math.inf,
    beamline: int = 3,
    report: Callable[[str], None] = lambda _: None,
    facility_run: int | None = None,
) -> int:
    """Write a recording of the IOC as a replay file.

    Shots whose frames were not kept have their values alone there: a replay counts them as
    ``no_frame``.

    Parameters
    ----------
    rows
        The file of the rows of the shots; that of the frames lies beside it.
    out
        Of a new file.
    shots
        The first N shots; None: all.
    most_bytes
        Most bytes of frames; the file ends before the shot that would be more.
    beamline
        Its number, for the file.
    report
        Takes the message that the frames have reached their limit, or that the run shares its file
        with an earlier one, whose gain, photon energy and rules are used.
    facility_run
        The run of the facility; None: the first one in the file.

    Returns
    -------
    int
        Number of records.

    Raises
    ------
    DataError
        If no frames were kept, or the recording is one of an older version, which does not say how
        its pixels are measured.
    ConfigError
        If the new file exists, cannot be written, or cannot hold the run.
    HardwareError
        If the disk is full or fails.
    """
    kept = sibling(rows, "frames")
    if not kept.is_file():
        raise DataError(
            f"{rows}: no frames were kept of these shots; put the PV FramesEvery "
            "(sacla.frames_every) to 1 before the recording"
        )
    with ColumnReader(rows, TAG.path) as reader:
        keys = ("time", "run", *EQUIPMENT, MOTOR)
        rows_read = reader.count()  # more may come meanwhile
        columns = {key: reader.read(f"{SHOTS}/{key}", 0, rows_read) for key in keys}
        columns["tag"] = reader.read(TAG.path, 0, rows_read)
    first = columns["run"][:1]
    is_of_run = columns["run"] == (first if facility_run is None else facility_run)
    columns = {key: column[is_of_run][:shots] for key, column in columns.items()}
    if not len(columns["tag"]):
        raise DataError(f"{rows}: no shots")
    if columns["run"][0] != first[0]:
        report(f"run {facility_run}: measured as run {first[0]}, which begins its file")
    with ColumnReader(kept, FRAME_TAG.path) as frames:
        measuring = frames.attributes(FRAME_TAG.path).get(MEASURING)
        if not isinstance(measuring, dict):
            raise DataError(f"{kept}: does not say how pixels are measured (an older version)")
        info = _run_info(measuring, columns, kept)
        paths = _frame_paths(frames)
        info = replace(info, tiles={name: info.tiles[name] for name in info.tiles if name in paths})
        places = {tag: place for place, tag in enumerate(frames.read(FRAME_TAG.path).tolist())}
        shot_bytes = sum(4 * rows * width for rows, width in info.shapes.values())
        records, is_whole = 0, True
        with ReplayWriter(out, info, beamline) as writer:
            for row, identity in enumerate(columns["tag"].tolist()):
                tag, arrival = identity & LOW_TAG, float(columns["time"][row] - columns["time"][0])
                found: dict[str, Any] = {}
                if (place := places.get(identity)) is not None:
                    if writer.frame_bytes + shot_bytes > most_bytes:
                        report(f"the frames have reached {most_bytes / 1e9:g} GB")
                        is_whole = False
                        break
                    found = {
                        name: frames.read(paths[name], place, place + 1)[0]
                        for name in info.tiles
                        if frames.read(f"{paths[name]}_came", place, place + 1)[0]
                    }
                found |= {key: float(columns[key][row]) for key in info.channels[len(info.tiles) :]}
                for channel, payload in found.items():
                    writer.add(Record(channel, tag, info.run, payload), arrival)
                records += len(found)
            if is_whole:
                writer.finish()
    return records


def _frame_paths(frames: ColumnReader) -> dict[str, str]:
    """Return the path of the frames of each detector that the file has."""
    paths: dict[str, str] = {}
    with suppress(DataError):  # of the first number that no detector has
        for k in count():
            path = f"{FRAMES}/{detector_key(k)}"
            paths[frames.attributes(path)["detector"]] = path
    return paths


def _run_info(
    measuring: dict[str, Any], columns: Mapping[str, NDArray[Any]], kept: Path
) -> RunInfo:
    """Return the run of the shots."""
    shot_rules, step = read_shot_rules(measuring)
    detectors = read_measuring(measuring)
    cameras = [tile.detector for tile, rules in detectors if rules.threshold_ev == NO_THRESHOLD_EV]
    rules = {rules for tile, rules in detectors if tile.detector not in cameras}
    if len(rules) > 1:
        raise ConfigError(f"{kept}: detectors with different rules do not fit in a replay file")
    first, last = (int(columns["tag"][place]) & LOW_TAG for place in (0, -1))
    return RunInfo(
        run=int(columns["run"][0]),
        hightag=int(columns["tag"][0]) >> 32,
        grid=TagGrid(first, step, last),
        tiles={tile.detector: tile for tile, _ in detectors},
        shot_rules=shot_rules,
        pixel_rules=next(iter(rules), detectors[0][1]),
        cameras=frozenset(cameras),
        more_values=(MOTOR,) if np.isfinite(columns[MOTOR]).any() else (),
    )
