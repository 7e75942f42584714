"""Shots of a source, joined by tag and analyzed: a source for the owner.

A record takes this path: `ShotSource` -> `AnalyzedShots._take_record` -> `ShotPipeline.add` ->
`TagJoin`. The shot that it is a part of goes on: `ShotPipeline._judge` -> `Frames.place` ->
`Workers.analyze` -> `ShotPipeline._take_answers` -> `ShotPipeline._release` -> `Owner._receive`;
`skywright.acquire` has the rest. Without images to analyze it goes from `_judge` to `_release`.

The source's thread does all this. The thread ``sacla-poll`` takes answers of the workers too. Both
hold the lock of `AnalyzedShots`.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.acquire.counters import Counters, sum_counts
from skywright.acquire.source import Report
from skywright.errors import HardwareError
from skywright.instruments.sacla.analyzed_shot import AnalyzedShot, RegionSet
from skywright.instruments.sacla.frames import SharedFrames
from skywright.instruments.sacla.image_series import results
from skywright.instruments.sacla.join import Record
from skywright.instruments.sacla.live import make_ring
from skywright.instruments.sacla.measuring import describe_measuring
from skywright.instruments.sacla.pipeline import ShotPipeline
from skywright.instruments.sacla.recording import Recording
from skywright.instruments.sacla.regions import Region
from skywright.instruments.sacla.run_info import RunInfo
from skywright.instruments.sacla.shot_curves import DEFAULT_HITS, Hits
from skywright.instruments.sacla.shot_images import ShotImages
from skywright.instruments.sacla.sources import ShotSource
from skywright.waiting import pause

logger = logging.getLogger(__name__)

POLL_S = 0.05
"""Period at which the results of the workers are taken, s."""
POLLER_LIMIT_S = 5.0
"""Longest wait for the end of the thread that takes them, s."""
SHORT_BLOCK, MIDDLE_BLOCK, FEW_TILES = 32, 64, 2
"""Running images are updated after a short block of tags for up to `FEW_TILES` tiles, else after a
middle one: twice or once a second at 60 Hz. An update of eight tiles takes about 0.3 s of a
processor."""


class AnalyzedShots:
    """Joins the records of a source, analyzes the images in workers, and yields whole shots.

    Shots come in order of their tags, accepted or not. All methods may be called from any thread.

    Parameters
    ----------
    source
        Of the records; closed with this object.
    regions, edges, window, workers, profiles, hits
        As for `ShotPipeline`.

    Attributes
    ----------
    info
        The run of the shots that are delivered.
    run_begins
        Called between the last shot of a run and the first shot of the next. `info` is that of the
        next run, the running images are those of the run before. If the next run continues the last
        block, the running images do not include that block yet.
    """

    period_s = 0.0

    def __init__(
        self,
        source: ShotSource,
        regions: Sequence[Region],
        edges: NDArray[np.float64],
        window: int = 120,
        workers: int = 1,
        profiles: bool = False,
        hits: Hits = DEFAULT_HITS,
    ) -> None:
        self.name, self.info = source.name, source.info
        self.run_begins: Callable[[], None] = lambda: None
        self._source = source
        self._counters = Counters()
        self._deliver: Callable[[AnalyzedShot], None] = lambda _: None
        self._report: Report = _log
        self._lock = threading.RLock()
        """Held while the pipeline is used; shots are delivered under it."""
        self._stopping = threading.Event()
        self._poller: threading.Thread | None = None
        self._failure = ""
        """The first error since the last shot that was analyzed; empty: none."""
        self._window, self._workers, self._profiles = window, workers, profiles
        self.hits = hits
        self._frames, self._pipeline = self._make_pipeline(self.info, regions, edges)
        self._pipeline.wait_for_workers()

    # ---- the interface of a source

    @property
    def lost(self) -> Mapping[str, int]:
        """Records lost by the source or of no shot, and shots that are not analyzed, by cause."""
        refused = self._pipeline.refused.items()
        records = {f"records {reason}": count for reason, count in refused if count}
        shots = {reason: count for reason, count in self._pipeline.lost.copy().items() if count}
        return sum_counts(self._source.lost, records, shots, self._counters.as_dict())

    @property
    def trouble(self) -> str:
        """What does not work in source and analysis now; empty if everything does."""
        return "; ".join(text for text in (self._source.trouble, self._failure) if text)

    def start(self, deliver: Callable[[AnalyzedShot], None], report: Report) -> None:
        """Begin to deliver shots."""
        self._deliver, self._report = deliver, report
        self._failure = ""
        self._stopping.clear()
        self._source.start(self._take_record, report)
        if self._poller is None:
            self._poller = threading.Thread(target=self._poll, name="sacla-poll", daemon=True)
            self._poller.start()

    def stop(self) -> None:
        """Stop.

        Incomplete shots are delivered after the next start; records that were lost during the stop
        are missing in them.
        """
        self._end_poller()
        self._source.stop()

    def _end_poller(self) -> None:
        # The poller must not take this for the end of the source, at which no more records come.
        self._stopping.set()
        if self._poller is not None and self._poller is not threading.current_thread():
            self._poller.join(POLLER_LIMIT_S)
            if not self._poller.is_alive():
                self._poller = None

    def set_period(self, seconds: float) -> None:
        """Change nothing: the accelerator decides."""

    def close(self) -> None:
        """Stop, end the workers and free the memory, whatever the source does."""
        try:
            self._end_poller()
            self._source.close()
        finally:
            with self._lock:
                try:
                    self._pipeline.close()
                finally:
                    self._frames.unlink()

    # ---- settings and results

    @property
    def region_set(self) -> RegionSet:
        """The regions of the next shot."""
        return self._pipeline.region_set

    def change_regions(self, regions: Sequence[Region]) -> RegionSet:
        """Sum over other regions from the next shot on."""
        with self._lock:
            return self._pipeline.change_regions(regions)

    def reset(self) -> None:
        """Begin curves and running images anew with the next shot."""
        with self._lock:
            self._pipeline.reset_images()
            self._pipeline.change_regions(self._pipeline.regions)

    def change_bins(
        self, edges: NDArray[np.float64] | None = None, binned_by: str | None = None
    ) -> None:
        """Bin otherwise from the next shot on; what is None stays.

        Raises
        ------
        ConfigError
            If the source has no such value to bin shots by.
        """
        with self._lock:
            pipeline = self._pipeline
            self._source.info.check_binned_by(binned_by or pipeline.binned_by)
            pipeline.change_bins(
                pipeline.edges if edges is None else edges, binned_by or pipeline.binned_by
            )

    @property
    def binned_by(self) -> str:
        """What the bins are of, one of `BINNED_BY`."""
        return self._pipeline.binned_by

    @property
    def edges(self) -> NDArray[np.float64]:
        """(bins + 1,) edges of the bins, in the unit of the binned value; ps for a delay."""
        return self._pipeline.edges

    @property
    def rings(self) -> Mapping[str, int]:
        """Rings of the profile of each shot by detector; empty where it is not computed."""
        return self._pipeline.rings

    @property
    def measuring(self) -> dict[str, Any]:
        """How the pixels of the present run are measured, JSON values."""
        info = self.info  # when a run begins, the pipeline is still that of the one before
        return describe_measuring(info, _block_tags(info))

    @property
    def next_identity(self) -> int:
        """An identity above those of all shots of which a record has come."""
        pipeline = self._pipeline
        info = pipeline.info  # not `self.info`: when a run begins, the join is of the one before
        highest = pipeline.join.highest
        return 0 if highest is None else info.identity(highest) + 1

    def counts(self) -> dict[str, int]:
        """Return records and shots so far, by reason."""
        with self._lock:
            return self._pipeline.counts

    def curves(self) -> dict[str, Any]:
        """Return the curves of the present regions and bins: the results of `ShotCurves`."""
        with self._lock:
            return self._pipeline.curves.result()

    def mean_image(self, detector: str) -> tuple[NDArray[np.float64], int]:
        """Return the running mean of a detector, eV, and the number of its shots.

        The present run may lack a detector of the run before: then there are no shots.
        """
        with self._lock:
            present = self._pipeline.images_of(detector)
            images = present.snapshot() if present is not None else None
        if images is None:
            return np.zeros((0, 0)), 0
        found = images.result()
        return found["mean"], int(found["n_on"] + found["n_off"])

    def shots_in_image(self, detector: str) -> int:
        """Return the number of shots in the running images of a detector; 0 if it has none."""
        with self._lock:
            images = self._pipeline.images_of(detector)
            return images.members if images is not None else 0

    def start_recording(self, number: int, count: int = 0) -> Recording:
        """Record the shots from the next one on (`AnalyzedShot.recording`).

        Parameters
        ----------
        number
            Of the recording, from 1 on.
        count
            Number of shots, accepted or not; 0: until `end_recording`.
        """
        with self._lock:
            return self._pipeline.start_recording(number, count)

    def end_recording(self, recording: Recording, limit_s: float) -> bool:
        """End a recording with the newest shot, and wait until all is known of its shots.

        Shots go on meanwhile.

        Returns
        -------
        bool
            Whether it came to that within the limit.
        """
        deadline = time.monotonic() + limit_s
        is_ended = False
        while time.monotonic() < deadline:
            with self._lock:
                try:
                    if not is_ended:
                        self._pipeline.end_recording()
                        is_ended = True
                    self._pipeline.poll()
                    if self._pipeline.is_recorded(recording.number):
                        return True
                except Exception as error:  # of a worker: it is tried again
                    self._fail(error)
            pause(POLL_S / 2)
        return False

    def recorded_images(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Return the running images of the recording, up to the last whole block.

        Yields
        ------
        name, results
            Of each detector; all are of the same shots. They are computed as they are taken.
            Nothing when the recording has no accepted shot yet.
        """
        held = deque[tuple[str, ShotImages]]()
        more = True
        while more:  # one by one, so that shots and display wait for one tile only
            with self._lock:
                series = self._pipeline.recorded
                more = series is not None and series.merge(1)
                if series is not None and not more:
                    held = series.snapshots()
        return results(held)

    def release_images(self) -> None:
        """Free the images of a recording that has ended."""
        with self._lock:
            self._pipeline.recorded = None

    @property
    def recording(self) -> Recording | None:
        """The recording of the next shot; None if it belongs to none."""
        return self._pipeline.recording

    # ---- from record to shot

    def _take_record(self, record: Record[Any]) -> None:
        with self._lock:
            try:
                if self._source.info is not self.info:
                    self._begin_run(self._source.info)
                self._pipeline.add(record)
            except Exception as error:
                self._fail(error)

    def _begin_run(self, info: RunInfo) -> None:
        """Hand on what is left of a run, and begin the next one.

        If that fails, `info` and the pipeline are still those of the run before, so that the next
        record tries it again.
        """
        before, old = self.info, (self._pipeline, self._frames)
        highest, first = self._pipeline.join.highest, info.identity(info.grid.first)
        last = -1 if highest is None else before.identity(highest)
        is_alike, block_tags = info.is_measured_as(before), self._pipeline.block_tags
        is_same_block = is_alike and last < first and last // block_tags == first // block_tags
        if is_same_block:
            self._pipeline.flush()
        else:
            self._pipeline.finish()
        # The ring of the run before has its memory until the new pipeline is there.
        made = (
            None
            if is_alike
            else self._make_pipeline(info, (), self.edges, self.binned_by, reserve=False)
        )
        self.info = info
        if (before.hightag, before.run) != (info.hightag, info.run):
            self._failure = ""
            try:
                self.run_begins()
            except Exception as error:  # the run is analyzed all the same
                self._fail(error)
        if made is None:
            self._pipeline.begin(info)
            if first <= last:
                # Blocks of tags are folded in their order; earlier ones would be refused.
                self.reset()
                text = f"run {info.run}: curves and images begin anew, because its tags do"
                self._report(text, False)
            return
        # Its worker processes need seconds to start; shots gather for them meanwhile.
        self._frames, self._pipeline = made
        dropped = self._pipeline.follow(old[0])
        old[0].close()
        old[1].unlink()
        self._report(
            f"run {info.run}: curves and images begin anew, because detectors, gain, photon "
            f"energy or rules have changed; its detectors are {', '.join(info.tiles)}"
            + "".join(f"; region {name} is removed: its mask does not fit" for name in dropped),
            bool(dropped),
        )

    def _make_pipeline(
        self,
        info: RunInfo,
        regions: Sequence[Region],
        edges: NDArray[np.float64],
        binned_by: str = "delay",
        reserve: bool = True,
    ) -> tuple[SharedFrames, ShotPipeline]:
        frames = make_ring(info, reserve)
        try:
            return frames, ShotPipeline(
                info,
                regions,
                edges,
                self._window,
                frames,
                self._workers,
                keep_rows=False,
                block_tags=_block_tags(info),
                on_shot=self._hand_on,
                profiles=self._profiles,
                binned_by=binned_by,
                hits=self.hits,
                partial=True,
            )
        except BaseException:
            frames.unlink()
            raise

    def _hand_on(self, shot: AnalyzedShot) -> None:
        if shot.found is not None:
            self._failure = ""
        self._deliver(shot)

    def _poll(self) -> None:
        while not self._stopping.wait(POLL_S):
            with self._lock:
                try:
                    if self._source.is_running:
                        self._pipeline.poll()
                    else:
                        self._pipeline.finish()
                except Exception as error:
                    self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Count an error; the first one since the last shot that was analyzed is reported."""
        self._counters.add("not analyzed")
        if not self._failure:
            self._failure = f"analysis: {error}"
            logger.warning("sacla: %s", error, exc_info=not isinstance(error, HardwareError))
            self._report(self._failure)


def _log(message: str, alarm: bool = True, /) -> None:
    logger.log(logging.WARNING if alarm else logging.INFO, message)


def _block_tags(info: RunInfo) -> int:
    return SHORT_BLOCK if len(info.tiles) <= FEW_TILES else MIDDLE_BLOCK
