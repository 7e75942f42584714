"""The owner of shots: what is recorded of them, and what is newest."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from skywright.acquire.acquisition import OwnerState
from skywright.acquire.columns_layout import Rows
from skywright.acquire.counters import sum_counts
from skywright.acquire.owner import Owner
from skywright.acquire.recorder import Recorder
from skywright.files.beside import sibling
from skywright.instruments.sacla.analyzed_shot import AnalyzedShot
from skywright.instruments.sacla.analyzed_source import AnalyzedShots
from skywright.instruments.sacla.layouts import (
    REGIONS_MAX,
    FramesLayout,
    ImagesLayout,
    RegionsLayout,
    ShotsLayout,
    check_room,
    mask_room,
    room_for,
)
from skywright.instruments.sacla.recording import Recording
from skywright.instruments.sacla.regions import Region
from skywright.processes.memory import trim_heaps
from skywright.waiting import pause

IMAGE_PERIOD_S = 10.0
"""Time between two running images on disk."""
RECENT = 2000
"""Analyzed shots, also partial ones, that are kept for plots."""
RATE_S = 2.0
STORE_S = 30.0
"""Longest wait for rows to be written at the end of a recording."""
PARTS_MAX = 64
"""Most runs of the facility with files of their own in one recording; later ones share the last."""


class FilePart(NamedTuple):
    """The files of one run of the facility in a recording.

    Attributes
    ----------
    name
        Of the file of rows; the other files lie beside it (`sibling`).
    first
        Number of rows, region sets, images and frames in the files before.
    """

    name: str
    first: tuple[int, ...]


class Recent(NamedTuple):
    """What plots need of an analyzed shot."""

    tag: int
    i0: float
    delay: float
    laser_on: bool
    sums: tuple[float, ...]
    """Over each region, eV."""
    regions: tuple[Region, ...]


class _PublishingOwner(Owner[AnalyzedShot, AnalyzedShot]):
    """Publishes the shots of a `ShotOwner`; its message has the trouble of source and recording."""

    recording_trouble = ""
    """What of the shots the present recording cannot store; empty: nothing."""
    images: Recorder[Any, Rows]
    """Stores the running images; set before the first use. Those that it loses count as lost."""

    @property
    def lost(self) -> dict[str, int]:
        """Number of lost shots, records and running images, by cause."""
        return sum_counts(super().lost, self.images.lost)

    def status_message(self, result: AnalyzedShot) -> tuple[str, bool] | None:
        """Return the message after a shot."""
        trouble = self.source.trouble  # type: ignore[attr-defined]  # of `AnalyzedShots`
        troubles = [text for text in (trouble, self.recording_trouble) if text]
        if troubles:
            return "; ".join(troubles), True
        return super().status_message(result)


class ShotOwner:
    """Owns analyzed shots and records them.

    A recording has four files, each with a recorder: `rows` has a row for each shot, `region_sets`
    the region sets of these rows, `images` the running images, and `frames` the frames of one in
    `frames_every` shots that have any. When the facility begins a run, the recording goes on in
    four new files of the same columns.

    Parameters
    ----------
    source
        Closed with this object.
    changed
        Called from any thread after something has changed; must return at once.
    frames_every
        Of the recorded shots that have a frame of a detector of the file, the frames of the first
        of every N are kept; 0: none. The count begins anew with each file.
    frames_bytes
        Limit of the frames of one recording, bytes.
    image_period_s
        Time between two running images on disk.
    """

    def __init__(
        self,
        source: AnalyzedShots,
        changed: Callable[[], None] | None = None,
        frames_every: int = 0,
        frames_bytes: int = 20_000_000_000,
        image_period_s: float = IMAGE_PERIOD_S,
    ) -> None:
        self.source = source
        self._image_period_s = image_period_s
        shapes = self.shapes
        self.frames_every, self._frames_bytes = frames_every, frames_bytes
        layout = ShotsLayout(source.info.shot_rules)
        self.rows: Recorder[AnalyzedShot, Rows] = Recorder(layout, changed=changed)
        self.region_sets: Recorder[AnalyzedShot, Rows] = Recorder(RegionsLayout(), changed=changed)
        self.frames: Recorder[AnalyzedShot, Rows] = Recorder(FramesLayout(shapes), changed=changed)
        self.images: Recorder[Any, Rows] = Recorder(ImagesLayout(shapes), changed=changed)
        self._all: tuple[Recorder[Any, Any], ...] = (
            self.rows,
            self.region_sets,
            self.images,
            self.frames,
        )
        """In the order of `FilePart.first`."""
        self.owner = _PublishingOwner(
            source,
            endpoints=[self],
            recorders=[self.region_sets, self.rows, self.frames],
            changed=changed,
            name="sacla",
            item_name="shot",
        )
        self.owner.images = self.images
        self.recent: deque[Recent] = deque(maxlen=RECENT)
        """Also of the regions before; see `recent_shots`."""
        self.newest_frames: dict[str, Any] = {}
        """The newest frame of each detector."""
        self._arrivals: deque[float] = deque(maxlen=4096)
        self._updates = itertools.count()
        self._keeps_every = 1
        """`frames_every` when the recording began."""
        self._frames_left = 0
        """Number of shots whose frames may still be recorded, from `frames_bytes`."""
        self._rings: Mapping[str, int] = {}
        self._file_shapes: Mapping[str, tuple[int, int]] = shapes
        """Shapes of the frames and images in the files. A detector that has another shape in a
        later run is not recorded."""
        self._room, self._mask_bytes = REGIONS_MAX, 0
        self._recording: Recording | None = None
        self._number = 0
        """Of the newest recording."""
        self._writes_images = threading.Event()
        """Set while a thread writes running images, each `image_period_s` after the one before."""
        self._is_open = False
        self._writer: threading.Thread | None = None
        self._files_lock = threading.RLock()
        """Held while files are opened or closed; never while waiting for the source."""
        self._parts: list[FilePart] = []
        self._parts_lock = threading.Lock()
        """Held while the counts of one part become those of the next one."""
        self._path = Path()
        self._taken_before = 0
        """Shots in the parts before the present one."""
        source.run_begins = self._open_next_part

    @property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """(rows, columns) by detector of the present run."""
        return self.source.info.shapes

    def offer(self, result: AnalyzedShot) -> None:
        """Keep what is newest."""
        self._arrivals.append(time.monotonic())
        self.newest_frames.update(result.frames)
        if result.found is not None:
            self.recent.append(
                Recent(
                    result.tag,
                    result.values["i0"],
                    result.delay,
                    result.is_laser_on,
                    tuple(result.found["sum_ev"].tolist()),
                    result.regions.regions,
                )
            )

    def recent_shots(self) -> tuple[tuple[Region, ...], list[Recent]]:
        """Return the present regions, and the recent shots that were summed over them."""
        regions = self.source.region_set.regions
        return regions, [shot for shot in list(self.recent) if shot.regions == regions]

    def change_regions(self, regions: Sequence[Region]) -> None:
        """Sum over other regions from the next shot on.

        Raises
        ------
        ConfigError
            If the open file has no room for that many, or a region does not fit the run.
        """
        check_room(regions, *((self._room, self._mask_bytes) if self._is_open else ()))
        self.source.change_regions(regions)

    def state(self) -> OwnerState[AnalyzedShot]:
        """Return the present state."""
        return self.owner.state()

    @property
    def rate_hz(self) -> float:
        """Shots per second, over the last seconds."""
        since = time.monotonic() - RATE_S
        return sum(arrival >= since for arrival in list(self._arrivals)) / RATE_S

    def reset(self) -> None:
        """Begin curves, images and plots anew: the region set gets a new number."""
        self.source.reset()
        self.recent.clear()

    # ---- recordings

    def start_recording(self, path: Path, count: int = 0) -> str:
        """Record every shot that comes from now on.

        Parameters
        ----------
        path
            Of the rows; the other files lie beside it (`sibling`).
        count
            Number of shots of the recording; 0: until it is stopped.

        Returns
        -------
        str
            Why it failed; empty when it did not.
        """
        self.stop_recording()
        self.reset()
        with self._files_lock:
            error = self._open(path)
        if error:
            return error
        try:
            self.owner.acquire()
            self._recording = self.source.start_recording(self._number, count)
            if not self._recording.taken:  # a run may have begun since the files were opened
                self._set_layouts()
        except BaseException:
            self.stop_recording()
            raise
        self._writes_images.set()
        self._writer = threading.Thread(target=self._write_images, name="sacla-images", daemon=True)
        self._writer.start()
        return ""

    def _open(self, path: Path) -> str:
        source = self.source
        self._path, self._taken_before = path, 0
        self._number += 1
        regions = source.region_set.regions
        self._room = room_for(len(regions))
        self._mask_bytes = self._room_for_masks(regions)
        self._updates = itertools.count()
        # Regions and detectors may be others than at the recording before.
        self._rings, self._file_shapes = source.rings, self.shapes
        wanted: list[Recorder[Any, Any]] = [self.rows, self.region_sets, self.images]
        self._keeps_every = self.frames_every or 1
        if self.frames_every:
            shot_bytes = 4 * sum(rows * columns for rows, columns in self.shapes.values())
            self._frames_left = max(self._frames_bytes // max(shot_bytes, 1), 1)
            wanted.append(self.frames)
        for recorder in self._all:  # `start` does it for those that are opened only
            recorder.forget_error()
        error = self._open_part(path, wanted, [], (0,) * len(self._all))
        self._is_open = not error
        return error

    def _room_for_masks(self, regions: Sequence[Region]) -> int:
        masks = [region.mask.shape for region in regions if region.mask]  # also of absent detectors
        return mask_room([*self.shapes.values(), *masks]) if masks else 0

    @property
    def mask_bytes(self) -> int:
        """Bytes of a mask in the open recording, else in one that begins now; 0: no masks."""
        if self._is_open:
            return self._mask_bytes
        return self._room_for_masks(self.source.region_set.regions)

    def _open_part(
        self,
        path: Path,
        wanted: Sequence[Recorder[Any, Any]],
        before: Sequence[FilePart],
        first: tuple[int, ...],
    ) -> str:
        """Open the files of a part; all recorders are stopped. Return why it failed, else ""."""
        self._set_layouts()
        self.region_sets.layout = RegionsLayout(self._room, self._mask_bytes, self._number)
        self.images.layout = ImagesLayout(self._file_shapes)
        names = {self.region_sets: "regions", self.frames: "frames", self.images: "images"}
        error = ""
        with self._parts_lock:
            for recorder in self._all:  # also of one that is not opened: its rows are in `first`
                recorder.rows_readable = 0
            for recorder in wanted:
                name = names.get(recorder)
                most = self._frames_left if recorder is self.frames else 0
                error = error or recorder.start(sibling(path, name) if name else path, most)
            self._parts = [*before, FilePart(path.name, first)]
        if error:
            for recorder in self._all:
                recorder.stop()
        return error

    def _set_layouts(self) -> None:
        """Set the layouts of the present run; files that have no row yet are made with them."""
        number, rules = self._number, self.source.info.shot_rules
        measuring = self.source.measuring
        self.rows.layout = ShotsLayout(rules, self._room, self._rings, number)
        self.frames.layout = FramesLayout(
            self._file_shapes, rules, number, measuring, self._keeps_every
        )

    def _open_next_part(self) -> None:
        """Go on in new files, between the last shot of a run and the first one of the next."""
        recording = self.source.recording
        if recording is None or recording.is_full or not self._is_open:
            return
        self._check_shapes()
        taken = recording.taken
        if taken == self._taken_before:  # the files become those of the next run
            self._set_layouts()
            return
        if len(self._parts) >= PARTS_MAX:
            return
        self._offer_images()
        with self._files_lock:
            if not self._is_open:
                return
            wanted = [recorder for recorder in self._all if recorder.path is not None]
            for recorder in wanted:
                recorder.stop()
            self._taken_before = taken
            if self.frames in wanted:
                self._frames_left -= self.frames.rows_readable
                if self._frames_left <= 0:  # the last ones were in its queue; 0 would be no limit
                    wanted.remove(self.frames)
            counts = self.progress()[1]
            path = self._path.with_stem(
                f"{self._path.stem}_{len(self._parts) + 1}_run{self.source.info.run}"
            )
            error = self._open_part(path, wanted, self._parts, counts)
            if error:
                self._is_open = False
        if error:
            self.owner.stop_acquisition()
            self.owner.report(f"the recording ended with the run before: {error}")

    def _check_shapes(self) -> None:
        """Name in the message the detectors whose shape in this run is not that in the files."""
        shapes, files = self.shapes, self._file_shapes
        changed = [name for name in files if shapes.get(name, files[name]) != files[name]]
        self.owner.recording_trouble = (
            f"run {self.source.info.run}: the frames and images of {', '.join(changed)} are not "
            "recorded, because their shape has changed; begin a new recording"
            if changed
            else ""
        )

    def progress(self) -> tuple[tuple[FilePart, ...], tuple[int, ...]]:
        """Return the parts of the recording, and how much of it readers can see.

        Returns
        -------
        parts
            One for each run of the facility, in order.
        counts
            Numbers of rows, region sets, images and frames in all parts.
        """
        with self._parts_lock:
            first = self._parts[-1].first if self._parts else (0,) * len(self._all)
            return tuple(self._parts), tuple(
                before + recorder.rows_readable
                for before, recorder in zip(first, self._all, strict=True)
            )

    def stop_recording(self) -> None:
        """End the recording; all its shots, and images up to the last one, are in the files then.

        What a disk does not take in time counts as lost. Shots that come meanwhile are not
        recorded, and wait for nothing.
        """
        recording, self._recording = self._recording, None
        self._writes_images.clear()
        if self._writer is not None:
            self._writer.join(STORE_S)
            self._writer = None
        if recording is not None and not self.source.end_recording(recording, STORE_S):
            self.owner.report(f"shots of the recording are not analyzed after {STORE_S:g} s")
        acquisition = self.owner.stop_acquisition()
        if acquisition is not None:
            acquisition.done.wait(STORE_S)
        if recording is not None and self._is_open:
            self._offer_images()
        self.source.release_images()
        with self._files_lock:
            for recorder in self._all:
                recorder.stop()
            self._is_open = False
        self.owner.recording_trouble = ""

    @property
    def is_recording(self) -> bool:
        """Whether a recording is open, also one that has all its shots."""
        return self._is_open

    @property
    def error(self) -> str:
        """Errors of the files of the present or last recording; empty if there is none."""
        return "; ".join(recorder.error for recorder in self._all if recorder.error)

    def _write_images(self) -> None:
        due = time.monotonic() + self._image_period_s
        stored = threading.Event()
        stored.set()
        while self._writes_images.is_set():
            pause(0.2)
            # While the disk hangs no further image waits: the last one needs the room in the queue
            if time.monotonic() >= due and stored.is_set():
                due = time.monotonic() + self._image_period_s
                self._offer_images()
                stored.clear()
                self.images.call_when_visible(stored.set)
                trim_heaps()

    def _offer_images(self) -> None:
        self.images.offer((next(self._updates), self.source.recorded_images()))

    def close(self) -> None:
        """Stop for good; what was taken is in the files."""
        self.stop_recording()
        self.owner.close()
        for recorder in self._all:
            recorder.close()
