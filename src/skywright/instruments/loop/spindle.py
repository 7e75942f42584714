"""Follow a run's documents to the angle of the spindle at each of its pictures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from event_model import unpack_event_page
from numpy.typing import NDArray

from skywright.errors import DataError
from skywright.files.columns import ColumnReader
from skywright.files.readers import file_and_column
from skywright.instruments.loop.timing import Floats, Trace, angles_at

Document = Mapping[str, Any]
TURNS = "spindle_turns"
"""Key of start documents: False where the spindle rests, so that there is no rotation to fit."""
SAME_PLACE_UM = 1.0
TRACE_ROW = "/entry/oscillation/row"


@dataclass
class RunSpindle:
    """What one raw run tells of its spindle and its pictures.

    The angle comes from a flyer's trace, ``NAME_time``, ``NAME_angle`` and ``NAME_sweep`` (older
    runs lack it) in a file, by time; or, in a step scan, from the readings of the data key that the
    start document names as ``angle_key``, by sequence number. Pictures of a step scan
    whose place (the readings of ``place_keys``) is not that of the last one show the sample
    elsewhere: they have no angle.
    """

    start: Document
    shape: tuple[int, ...] = ()
    _image: str = ""
    _spindle: str = ""
    """Data keys of the pictures, and of a flyer's spindle without ``_time`` and ``_angle``."""
    _places: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By data key: file and dataset."""
    _counts: dict[str, int] = field(default_factory=dict)
    """By data key: rows announced."""
    _resources: dict[str, str] = field(default_factory=dict)
    """By uid of a resource: its data key."""
    _steps: dict[int, tuple[float, Floats]] = field(default_factory=dict)
    _sequence: list[int] = field(default_factory=list)
    _step_descriptors: set[str] = field(default_factory=set)

    @property
    def turns(self) -> bool:
        """Whether the run has a spindle that is meant to turn."""
        return bool(self._spindle or self._step_descriptors) and self.is_meant_to_turn

    @property
    def is_meant_to_turn(self) -> bool:
        """Whether the plan turns the spindle, if there is one."""
        return bool(self.start.get(TURNS, True))

    @property
    def images(self) -> tuple[str, str] | None:
        """File and dataset of the pictures."""
        return self._places.get(self._image)

    def __call__(self, name: str, doc: Document) -> None:
        """Take in one document of this run."""
        if name == "event_page":
            for event in unpack_event_page(doc):  # type: ignore[arg-type]
                self._event(event)
        elif take := getattr(self, f"_{name}", None):
            take(doc)

    def _descriptor(self, doc: Document) -> None:
        keys = doc["data_keys"]
        for key, described in keys.items():
            stem = key.removesuffix("_angle")
            if stem != key and {f"{stem}_time", f"{stem}_open"} <= keys.keys():
                self._spindle = stem
            if key.endswith("_image") and not self._image:
                self._image, self.shape = key, tuple(described["shape"])
        if self.start.get("angle_key") in keys and self._image in keys:
            self._step_descriptors.add(doc["uid"])

    def _stream_resource(self, doc: Document) -> None:
        key = self._resources[doc["uid"]] = doc["data_key"]
        path, dataset = file_and_column(doc)
        self._places[key] = str(path), dataset

    def _stream_datum(self, doc: Document) -> None:
        key, rows = self._resources.get(doc["stream_resource"], ""), doc["indices"]
        self._counts[key] = rows["stop"]
        if key == self._image:
            # Rows of a file belong to events by sequence number; after a resume two rows can.
            first = doc["seq_nums"]["start"]
            self._sequence += range(first, first + rows["stop"] - rows["start"])

    def _event(self, doc: Document) -> None:
        if doc["descriptor"] in self._step_descriptors:
            data = doc["data"]
            place = np.array([float(data[key]) for key in self.start.get("place_keys", ())])
            self._steps[doc["seq_num"]] = float(data[self.start["angle_key"]]), place

    def trace(self) -> Trace | None:
        """Return the readings of the spindle; None before there are two.

        Raise `DataError` if the file cannot be read.
        """
        keys = [f"{self._spindle}_{name}" for name in ("time", "angle", "sweep")]
        keys = keys if keys[2] in self._places else keys[:2]
        count = min(self._counts.get(key, 0) for key in keys)
        if count < 2:
            return None
        path = self._places[keys[0]][0]
        readings = _read(path, TRACE_ROW, [self._places[key][1] for key in keys], count)
        known = np.isfinite(readings).all(axis=0)
        return Trace(*(each[known] for each in readings)) if known.sum() > 1 else None

    def rows(self, identities: NDArray[np.int64]) -> NDArray[np.intp]:
        """Return the rows, (n,) intp, in their file of pictures with these frame numbers.

        An analysis may have skipped some.

        Raises
        ------
        DataError
            If the file cannot be read or lacks one of them.
        """
        key = f"{self._image.removesuffix('_image')}_frame_number"
        count = self._counts.get(key, 0)
        if count in (0, len(identities)):  # not numbered, or none was skipped
            return np.arange(len(identities))
        path, column = self._places[key]
        (written,) = _read(path, column, [column], count)
        rows = np.searchsorted(written, identities)
        if not np.array_equal(written[np.minimum(rows, count - 1)], identities):
            raise DataError(f"{path}: {column} lacks pictures that were analyzed")
        return rows

    def angles(
        self, times: Floats, rows: NDArray[np.intp], trace: Trace | None, delay_s: float
    ) -> Floats:
        """Return the angle at pictures, deg, (n,) float64; NaN where it is not known.

        Parameters
        ----------
        times, rows
            Time stamps of the pictures, in the order of the file, and their rows in it; (n,).
        trace
            Of a flyer; None takes the angles of steps.
        delay_s
            By which the time stamps are late.
        """
        if trace is None:
            return self._step_angles(rows)
        angle, known = angles_at(trace, times, delay_s)
        return np.where(known, angle, np.nan)

    def _step_angles(self, rows: NDArray[np.intp]) -> Floats:
        angles = np.full(len(rows), np.nan)
        numbers = [self._sequence[row] for row in rows if row < len(self._sequence)]
        known = [(k, *self._steps[n]) for k, n in enumerate(numbers) if n in self._steps]
        for k, angle, place in known:
            if np.allclose(place, known[-1][2], atol=SAME_PLACE_UM, rtol=0.0):
                angles[k] = angle
        return angles


def _read(path: str, identity: str, datasets: list[str], count: int) -> list[NDArray[Any]]:
    """Read the first `count` rows of some columns; `identity` tells how many rows are whole."""
    with ColumnReader(Path(path), identity) as reader:
        if (whole := reader.count()) < count:
            raise DataError(f"{path}: has {whole} rows, {count} were announced")
        return [reader.read(dataset, 0, count) for dataset in datasets]


def turns_both_ways(trace: Trace) -> bool:
    """Say whether sweeps went forward and backward, so that a delay can be fitted."""
    steps = np.diff(trace.phi_deg)[np.diff(trace.sweep) == 0]
    return bool(min(steps[steps > 0].sum(), -steps[steps < 0].sum()) > 90.0)
