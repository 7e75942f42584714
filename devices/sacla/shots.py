"""The source of shots as a device: it flies, and sums up the shots of a point of a scan."""

import json
import math
import time
import uuid
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bluesky.protocols import Status
from ophyd import Component as Cpt
from ophyd import EpicsSignal, EpicsSignalRO, Kind, Signal
from ophyd.status import DeviceStatus

from devices.file_stream import FilePlugin, FileStream, FlyerStream
from devices.file_stream_device import FileStreamDevice
from devices.guarded import Setting
from devices.sacla.columns import frame_columns, image_columns, region_columns, shot_columns
from skywright.errors import ConfigError, DataError, HardwareError
from skywright.files.beside import sibling
from skywright.files.readers import HDF5, open_reader
from skywright.instruments.sacla.layouts import SHOTS, TAG, VERDICTS
from skywright.instruments.sacla.moments import Moments
from skywright.waiting import pause

NAN = float("nan")
BESIDE = ("regions", "images", "frames")
"""Kinds of the files that the IOC opens beside that of the rows; the last one only if it keeps
frames."""
ANY_DELAY = math.inf
"""Not NaN: a signal that is set to NaN never has the value it was set to, so the set never ends."""
SHOTS_MIN = 10
"""Least number of shots with laser, and without, before the error of a point is used. With normal
noise, n shots give an error to 1 / sqrt(2 (n - 1)), here 24 %. With fewer shots it is sometimes far
too small, and would end the point."""


class Plugin(FilePlugin):
    """The file plugin with the number of rows that are visible."""

    captured = Cpt(EpicsSignalRO, "NumCaptured_RBV", kind=Kind.omitted, auto_monitor=True)


class Shots(FileStreamDevice):
    """Every shot from `stage` to `unstage`, joined by tag and analyzed by the IOC.

    `rows` is a flyer: shots are recorded from `stage` on; from kickoff on silence of the IOC is an
    error; complete waits for the prepared number of shots and closes the files. `trigger` takes the
    shots of one point of a scan: it is done when the standard error of `diff`, laser on minus off,
    is at most `wanted_error`, or when `shots_per_point` shots have come in which the region is
    measured.

    Parameters
    ----------
    prefix
        Prefix of the PVs, with its colon.
    assets
        Directory below which the IOC writes; a dated directory in it is made for each day.
    name
        Name of the device.

    Attributes
    ----------
    rows, region_sets, images, frames
        Streams: a row for each shot, the regions that they were summed over, running images, and
        the frames that the IOC keeps.
    """

    row_name = "shot"

    message = Cpt(EpicsSignalRO, "Message_RBV", kind=Kind.omitted, string=True)
    run_number = Cpt(EpicsSignalRO, "Run_RBV", kind=Kind.config)
    detectors = Cpt(EpicsSignalRO, "Detectors_RBV", kind=Kind.config, string=True)
    measuring = Cpt(EpicsSignalRO, "Measuring_RBV", kind=Kind.config, string=True)
    shapes = Cpt(EpicsSignalRO, "Shapes_RBV", kind=Kind.omitted)
    profile_rings = Cpt(EpicsSignalRO, "ProfileRings_RBV", kind=Kind.omitted)
    rate = Cpt(EpicsSignalRO, "Rate_RBV", kind=Kind.omitted)
    next_identity = Cpt(EpicsSignalRO, "NextTag_RBV", kind=Kind.omitted)
    regions = Cpt(Setting, "Regions", kind=Kind.config, string=True)
    regions_number = Cpt(EpicsSignalRO, "RegionsNumber_RBV", kind=Kind.omitted)
    bins = Cpt(Setting, "Bins", kind=Kind.config, string=True)
    binned_by = Cpt(Setting, "BinnedBy", kind=Kind.config, string=True)
    mask_bytes = Cpt(EpicsSignalRO, "MaskBytes_RBV", kind=Kind.omitted)
    hits = Cpt(EpicsSignalRO, "Hits_RBV", kind=Kind.config, string=True)
    frames_every = Cpt(Setting, "FramesEvery", kind=Kind.config)
    reset = Cpt(EpicsSignal, "Reset", kind=Kind.omitted, put_complete=True)
    region_rows = Cpt(EpicsSignalRO, "RegionRows_RBV", kind=Kind.omitted, auto_monitor=True)
    files = Cpt(EpicsSignalRO, "Files_RBV", kind=Kind.omitted, string=True)
    image_rows = Cpt(EpicsSignalRO, "ImageRows_RBV", kind=Kind.omitted, auto_monitor=True)
    frame_rows = Cpt(EpicsSignalRO, "FrameRows_RBV", kind=Kind.omitted, auto_monitor=True)
    plugin = Cpt(Plugin, "HDF1:", kind=Kind.omitted)
    true_effect = Cpt(EpicsSignalRO, "SIM:Effect_RBV", kind=Kind.omitted)
    true_width = Cpt(EpicsSignalRO, "SIM:Width_RBV", kind=Kind.omitted)

    silence_limit = Cpt(Signal, value=10.0, kind=Kind.config, metadata={"units": "s"})
    """Longest time without a shot, s, before the plan fails; 0: no limit. In a point of a scan, the
    longest time without a shot that counts."""
    settle_time = Cpt(Signal, value=0.3, kind=Kind.config, metadata={"units": "s"})
    """Pause before a point, s. Shots taken before the end of the pause do not count."""
    shots_per_point = Cpt(Signal, value=100, kind=Kind.config)
    wanted_error = Cpt(Signal, value=0.0, kind=Kind.config)
    """Standard error of `diff` at which a point ends, divided by the mean without laser; 0: a point
    takes `shots_per_point`."""
    region = Cpt(Signal, value=0, kind=Kind.config)
    """Position in the region set of the region that a scan measures."""
    wanted_stage_delay = Cpt(Signal, value=ANY_DELAY, kind=Kind.omitted)
    """Shots of a point have this delay of the stage, ps; infinity: any."""
    stage_tolerance = Cpt(Signal, value=0.02, kind=Kind.config, metadata={"units": "ps"})

    mean_on = Cpt(Signal, value=NAN, kind=Kind.normal)
    mean_off = Cpt(Signal, value=NAN, kind=Kind.normal)
    diff = Cpt(Signal, value=NAN, kind=Kind.normal)
    diff_error = Cpt(Signal, value=NAN, kind=Kind.normal)
    effect = Cpt(Signal, value=NAN, kind=Kind.hinted)
    """`diff` divided by the mean without laser of the same point."""
    effect_error = Cpt(Signal, value=NAN, kind=Kind.hinted)
    n_on = Cpt(Signal, value=0, kind=Kind.normal)
    n_off = Cpt(Signal, value=0, kind=Kind.normal)
    mean_delay = Cpt(Signal, value=NAN, kind=Kind.normal)

    def __init__(self, prefix: str, *, assets: Path, name: str = "sacla", **kwargs: Any) -> None:
        super().__init__(prefix, assets=assets, name=name, **kwargs)
        self.rows = FlyerStream(
            self,
            f"{name}_shots",
            self.plugin,
            lambda: shot_columns(len(self._regions()), self._rings()),
            ("scanned",),
            lambda: self._files_of("", 0),
        )
        columns_beside: tuple[Callable[[], Any], ...] = (
            lambda: region_columns(len(self._regions()), int(self._read_now(self.mask_bytes))),
            lambda: image_columns(self._shapes()),
            lambda: frame_columns(self._shapes()),
        )
        self.region_sets, self.images, self.frames = (
            FileStream(
                self,
                f"{name}_{kind}",
                self.plugin,
                columns,
                files=partial(self._files_of, kind, place),
            )
            for place, (kind, columns) in enumerate(zip(BESIDE, columns_beside, strict=True), 1)
        )
        self._row_at = 0.0
        """Time of the last shot in the file, or of kickoff."""
        self._follow(self.rows, self.plugin.captured)
        self._follow(self.region_sets, self.region_rows)
        self._follow(self.images, self.image_rows)
        self._follow(self.frames, self.frame_rows)

    # ---- staging

    def _open(self) -> None:
        has_frames = bool(self._read_signal(self.frames_every))
        beside_rows = [
            (stream, captured)
            for stream, captured in self._followed[1:]
            if stream is not self.frames or has_frames
        ]
        name = f"{self.name}-{uuid.uuid4()}"
        self._record(self.rows, self.plugin.captured, name, beside_rows)
        path = Path(self.rows.file)
        for kind, (stream, _) in zip(BESIDE, beside_rows, strict=False):
            stream.begin(str(sibling(path, kind)))

    def unstage(self) -> list[Any]:
        """Close the files; does not fail when the IOC is gone."""
        self.plugin.requested_rows = 0
        return super().unstage()

    def close_files(self) -> Status:
        """Return a status that is done when all rows, images and frames are visible."""
        return self.in_background(self._close_files)

    def _close_files(self) -> None:
        self._flying = False
        self._put(self.plugin.capture, 0)
        for stream, captured in self._followed:
            if stream.file:
                self._wait_for_rows(stream, captured)

    def _files_of(self, kind: str, place: int) -> list[tuple[str, int]]:
        """Return the files of a stream, one for each run of the facility, with their first rows.

        Parameters
        ----------
        kind
            One of `BESIDE`; empty for the files of the rows.
        place
            Place of the stream among the counts in ``Files_RBV``.
        """
        try:
            # Asked, not monitored: it must be at least as new as the number of rows.
            text = str(self._read_now(self.files))
        except HardwareError:
            self._set_fault("it does not answer")
            self._check_fault()
            raise
        recorded, parts = Path(self.rows.file), json.loads(text)
        if not parts or parts[0][0] != recorded.name:
            self._set_fault("it has another recording, or was restarted")
            self._check_fault()
            raise DataError(f"{self.name}: the recording has ended")
        found = []
        for name, first in parts:
            path = recorded.parent / name
            found.append((str(sibling(path, kind) if kind else path), int(first[place])))
        return found

    def _store_row_count(self, stream: FileStream, rows: int) -> None:
        # Only the number of shots shows that the IOC was restarted: the counts of the other files
        # may still be those of the previous recording.
        if stream is self.rows:
            if rows > stream.rows:
                self._row_at = time.monotonic()
            super()._store_row_count(stream, rows)
        else:
            stream.rows = rows

    def _message_signals(self) -> tuple[EpicsSignalRO, ...]:
        return self.plugin.write_message, self.message

    def _shapes(self) -> list[tuple[int, int]]:
        values = np.atleast_1d(self._read_now(self.shapes)).astype(int)
        return [(int(rows), int(columns)) for rows, columns in values.reshape(-1, 2)]

    def _regions(self) -> list[str]:
        """Return the regions, as text; a new file has room for them."""
        return str(self._read_now(self.regions)).split()

    def _rings(self) -> list[int]:
        """Return the rings of the profile of each detector; empty where it is not recorded."""
        return [int(count) for count in np.atleast_1d(self._read_now(self.profile_rings)) if count]

    # ---- fly

    def prepare_rows(self, shots: int) -> None:
        """Set the number of shots of the next recording; call it before `stage`.

        Parameters
        ----------
        shots
            Number of shots that `complete` waits for; 0: shots come until `complete`.
        """
        self.plugin.requested_rows = int(shots)

    def start_flying(self) -> None:
        """Expect shots from now on."""
        self._row_at = time.monotonic()
        super().start_flying()

    def raise_if_silent(self) -> None:
        """Raise if shots are expected and the IOC is silent, or no shot comes."""
        super().raise_if_silent()
        limit = float(self.silence_limit.get())
        is_late = limit and time.monotonic() - self._row_at > limit
        if is_late and self._expects_rows() and self.rows.rows < self.plugin.requested_rows:
            raise self._no_shot(limit)

    def finish_flying(self) -> None:
        """Wait for the shots that were prepared, if any; then close the files."""
        while self.rows.rows < self.plugin.requested_rows:
            self._wait_for_shot(
                self.rows.rows, lambda: self.rows.rows >= self.plugin.requested_rows
            )
        self._close_files()

    def _wait_for_shot(self, rows: int, reached: Callable[[], bool]) -> None:
        """Wait until the recording has more than `rows` shots; fail when none comes."""
        limit = float(self.silence_limit.get())
        deadline = time.monotonic() + (limit or math.inf)
        self._wait(
            lambda: reached() or self.rows.rows > rows or time.monotonic() > deadline,
        )
        if self.rows.rows == rows and not reached():
            raise self._no_shot(limit)

    def _no_shot(self, limit: float) -> HardwareError:
        return HardwareError(f"{self.name}: no shot in the file for {limit:g} s; {self._reason()}")

    # ---- a point of a scan

    def trigger(self) -> DeviceStatus:
        """Take the shots of a point; done when they are in the file and summed up.

        A point ends without values when its recording ends, as after a pause and an abort.
        """
        return self.in_background(self._take_point)

    def _take_point(self) -> None:
        self._check_staged()
        recording = self.rows.file
        wanted, most = float(self.wanted_error.get()), int(self.shots_per_point.get())
        if most < 1:
            raise ConfigError(f"{self.name}.shots_per_point = {most}, expected at least 1")
        region, regions = int(self.region.get()), len(self._regions())
        if not 0 <= region < regions:
            raise ConfigError(f"{self.name}.region = {region}, expected 0 to {regions - 1}")
        pause(float(self.settle_time.get()))
        # Before the identity, which is of this run or a later one. A shot that comes meanwhile has
        # a row after these; whether it counts is decided by its identity.
        run, row = int(self._read_now(self.run_number)), self.rows.rows
        first = float(self._read_now(self.next_identity))
        point = Point(region, run, first, *self._stage_range())
        limit, counted_at = float(self.silence_limit.get()), time.monotonic()
        while not (point.count >= most or (wanted and point.relative_error() <= wanted)):
            known, count = row, point.count
            self._wait_for_shot(row, lambda: self.rows.file != recording)
            row = self.rows.rows
            try:
                for file, start, stop in self.rows.segments(known, row):
                    point.read(Path(file), start, stop, most)
            except DataError as error:
                if self.rows.file == recording:
                    text = f"{self.name}: the file of the IOC cannot be read here: {error}"
                    raise HardwareError(text) from error
            if self.rows.file != recording:
                return
            if point.count > count:
                counted_at = time.monotonic()
            elif limit and time.monotonic() - counted_at > limit:
                seen = point.describe_seen()
                raise HardwareError(f"{self.name}: no shot counts for {limit:g} s; {seen}")
        for name, value in point.values().items():
            getattr(self, name).put(value)

    def _stage_range(self) -> tuple[float, float]:
        """Return the lowest and the highest delay of the stage that shots of the point have."""
        delay, tolerance = float(self.wanted_stage_delay.get()), float(self.stage_tolerance.get())
        if not math.isfinite(delay):
            return -math.inf, math.inf
        return delay - tolerance, delay + tolerance


class Point:
    """Shots of one point of a scan in which the region is measured, and their means.

    Shots of different sets of regions are not averaged: those of the newest set count.

    Parameters
    ----------
    region
        Position in the region set.
    run, first
        Shots of this run of the facility with a lower identity came before the point. The tags of a
        later run may begin anew.
    low, high
        Of the delay of the stage, ps.
    """

    def __init__(self, region: int, run: int, first: float, low: float, high: float) -> None:
        self._region, self._run, self._first = region, run, first
        self._low, self._high = low, high
        self._set_number = -1
        """Number of the set of regions."""
        self._shots = np.empty((3, 0))
        """Sum / I0, 1 with laser, and delay of each shot."""
        self._verdicts: Counter[str] = Counter()
        self._stages = math.inf, -math.inf
        """Lowest and highest delay of the stage in the shots in which the region is measured."""

    @property
    def count(self) -> int:
        """Number of shots."""
        return self._shots.shape[1]

    def read(self, path: Path, start: int, stop: int, most: int) -> None:
        """Add the shots of some rows of the file, up to `most` in all."""
        with open_reader(HDF5, path, TAG.path) as reader:
            rows = {key: reader.read(f"{SHOTS}/{key}", start, stop) for key in _READ}
        is_new = (rows["tag"] >= self._first) | (rows["run"] > self._run)
        self._verdicts.update(VERDICTS[code] for code in rows["verdict"][is_new].tolist())
        # A region may be measured in a shot that is not accepted: it lacks the frame of another
        # detector. It is not measured in accepted shots of a run that lacks its detector.
        chosen = (rows["photons"][:, self._region] >= 0) & is_new
        newest = int(rows["regions_number"][chosen].max(initial=self._set_number))
        if newest > self._set_number:
            self._set_number = newest
            self._shots = self._shots[:, :0]
        chosen &= rows["regions_number"] == newest
        low, high = self._stages
        stages = rows["stage"][chosen]
        self._stages = stages.min(initial=low), stages.max(initial=high)
        if math.isfinite(self._low):
            chosen &= (rows["stage"] >= self._low) & (rows["stage"] <= self._high)
        sums = rows["sum_ev"][chosen, self._region]
        with np.errstate(divide="ignore", invalid="ignore"):
            norm = sums / rows["i0"][chosen]
        found = np.stack([norm, rows["laser_on"][chosen] == 1, rows["scanned"][chosen]])
        self._shots = np.concatenate([self._shots, found[:, : most - self.count]], axis=1)

    def describe_seen(self) -> str:
        """Return how many shots have come since the point began, and why they do not count."""
        counts = ", ".join(f"{count} {name}" for name, count in self._verdicts.most_common())
        text = f"since the point began: {counts or 'no shot'}"
        low, high = self._stages
        if low > high and self._verdicts["accepted"]:
            text += "; the region is measured in none of them"
        if low <= high and (low < self._low or high > self._high):
            text += f"; the stage is at {low:.4g} to {high:.4g} ps in the shots in which the "
            text += f"region is measured, expected {self._low:.4g} to {self._high:.4g} ps"
        return text

    def values(self) -> dict[str, float]:
        """Return means of sum / I0, eV/V, with the standard error of their difference.

        `effect` and `effect_error` are the difference and its error as parts of the mean without
        laser; they are NaN where that mean is zero or unknown.
        """
        (off, on), (off_error, on_error), (n_off, n_on) = self._sides()
        delays = self._shots[2]
        delay = float(np.nanmean(delays)) if np.isfinite(delays).any() else NAN
        difference, error = on - off, math.hypot(on_error, off_error)
        return {
            "mean_on": on,
            "mean_off": off,
            "diff": difference,
            "diff_error": error,
            "effect": difference / off if off else NAN,
            "effect_error": error / abs(off) if off else NAN,
            "n_on": n_on,
            "n_off": n_off,
            "mean_delay": delay,
        }

    def relative_error(self) -> float:
        """Return the standard error of the difference, divided by the mean without laser.

        It is infinite with too few shots.
        """
        (off, _), errors, counts = self._sides()
        if min(counts) < SHOTS_MIN or not off:
            return math.inf
        return math.hypot(*errors) / abs(off)

    def _sides(self) -> tuple[Any, Any, Any]:
        moments = Moments.of(self._shots[:1], self._shots[1].astype(int), 2)
        means, errors = moments.means()[0], moments.standard_errors()[0]
        return means.tolist(), errors.tolist(), moments.count.tolist()


_READ = (
    *("tag", "run", "verdict", "laser_on", "i0", "stage", "scanned"),
    *("regions_number", "sum_ev", "photons"),
)
