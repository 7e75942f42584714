"""Shots of a source, joined by tag and analyzed: a source for the owner."""

import logging
import threading
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
from skywright.instruments.sacla.join import Record
from skywright.instruments.sacla.live import make_ring
from skywright.instruments.sacla.pipeline import ShotPipeline
from skywright.instruments.sacla.regions import Region
from skywright.instruments.sacla.shot_images import ShotImages
from skywright.instruments.sacla.sources import ShotSource

logger = logging.getLogger(__name__)

POLL_S = 0.05
"""Time between looks at what the workers have found."""
SHORT_BLOCK, FEW_TILES = 32, 2
"""Tags after which the running images of few tiles are brought up to date; to pass on those of
many tiles takes longer, and they wait for a block of the usual size."""


class AnalyzedShots:
    """Joins the records of a source, analyzes the images in workers, and yields whole shots.

    Shots come in order of their tags, accepted or not. All methods may be called from any thread.

    Parameters
    ----------
    source
        Of the records; closed with this object.
    regions, edges, window, workers, profiles
        As for `ShotPipeline`.

    Attributes
    ----------
    info
        The run of the shots that are delivered.
    run_begins
        Called after the last shot of a run, before the first one of the next; `info` is that of
        the next one, the running images are still those of the one before.
    """

    def __init__(
        self,
        source: ShotSource,
        regions: Sequence[Region],
        edges: NDArray[np.float64],
        window: int = 120,
        workers: int = 1,
        profiles: bool = False,
    ) -> None:
        self.name, self.info = source.name, source.info
        self.run_begins: Callable[[], None] = lambda: None
        self._source = source
        self._counters = Counters()
        self._deliver: Callable[[AnalyzedShot], None] = lambda _: None
        self._report: Report = logger.warning
        self._lock = threading.RLock()
        """Held while the pipeline is used; shots are delivered under it."""
        self._stopping = threading.Event()
        self._poller: threading.Thread | None = None
        self._failed = False
        self._window, self._workers, self._profiles = window, workers, profiles
        self._frames, self._pipeline = self._make_pipeline(regions, edges)
        self._pipeline.wait_for_workers()

    # ---- the interface of a source

    @property
    def lost(self) -> Mapping[str, int]:
        """Records that belong to no shot, and those that the source lost, by cause."""
        refused = self._pipeline.refused.items()
        records = {f"records {reason}": count for reason, count in refused if count}
        return sum_counts(self._source.lost, records, self._counters.as_dict())

    def start(self, deliver: Callable[[AnalyzedShot], None], report: Report) -> None:
        """Begin to deliver shots."""
        self._deliver, self._report = deliver, report
        self._stopping.clear()
        self._source.start(self._take, report)
        if self._poller is None:
            self._poller = threading.Thread(target=self._poll, name="sacla-poll", daemon=True)
            self._poller.start()

    def stop(self) -> None:
        """Stop; shots that wait for records are delivered with what they have when it goes on."""
        self._source.stop()
        self._stopping.set()
        if self._poller is not None and self._poller is not threading.current_thread():
            self._poller.join(5.0)
            self._poller = None

    def set_period(self, seconds: float) -> float:
        """Return 0: the accelerator decides."""
        return 0.0

    def close(self) -> None:
        """Stop, and end the workers."""
        self.stop()
        self._source.close()
        self._pipeline.close()
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

    def restart(self) -> None:
        """Begin curves and running images anew with the next shot."""
        with self._lock:
            self._pipeline.restart_images()
            self._pipeline.change_regions(self._pipeline.regions)

    def change_bins(
        self, edges: NDArray[np.float64] | None = None, binned_by: str | None = None
    ) -> None:
        """Bin otherwise from the next shot on; what is None stays."""
        with self._lock:
            pipeline = self._pipeline
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
        images = self._pipeline.images.items()
        return {name: each.rings.length for name, each in images if each.rings is not None}

    @property
    def next_identity(self) -> int:
        """Above the identity of every shot of which a record has come."""
        highest = self._pipeline.join.highest
        return 0 if highest is None else self.info.identity(highest) + 1

    def counts(self) -> dict[str, int]:
        """Return records and shots so far, by reason."""
        with self._lock:
            return self._pipeline.counts

    def curves(self) -> dict[str, Any]:
        """Return the curves of the present regions and bins: the results of `ShotCurves`."""
        with self._lock:
            return self._pipeline.curves.result()

    def mean_image(self, detector: str) -> tuple[NDArray[np.float64], int]:
        """Return the running mean of a detector, eV, and the number of its shots."""
        with self._lock:
            images = self._pipeline.images_of(detector).snapshot()
        found = images.result()
        return found["mean"], int(found["n_on"] + found["n_off"])

    def images(self, *, complete: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
        """Return the running images: of each detector its name and the results of `ShotImages`.

        All are of the same shots. They are computed one detector after the other, as they are
        taken, because those of eight tiles need 170 MB and a second, in which shots go on.

        Parameters
        ----------
        complete
            Up to the newest shot, at the end of a recording; else up to the last whole block.
        """
        with self._lock:
            if complete:
                self._pipeline.complete_images()
        more = True
        while more:  # one by one, so that shots and display wait for one tile only
            with self._lock:
                more = self._pipeline.merge_part()
                if not more:
                    images = self._pipeline.images.items()
                    held = deque((name, each.snapshot()) for name, each in images)
        return _results(held)

    # ---- from record to shot

    def _take(self, record: Record[Any]) -> None:
        with self._lock:
            try:
                if self._source.info is not self.info:
                    self._begin_run()
                self._pipeline.add(record)
            except Exception as error:
                self._fail(error)

    def _begin_run(self) -> None:
        """Hand on what is left of a run, and begin the next one."""
        before, self.info = self.info, self._source.info
        self._pipeline.finish()
        if (before.hightag, before.run) != (self.info.hightag, self.info.run):
            try:
                self.run_begins()
            except Exception as error:  # the run is analyzed all the same
                self._fail(error)
        if self.info.is_measured_as(before):
            highest = self._pipeline.join.highest
            self._pipeline.begin(self.info)
            first = self.info.identity(self.info.grid.first)
            if highest is not None and first <= before.identity(highest):
                # Blocks of tags are folded in their order; earlier ones would be refused.
                self.restart()
                self._report(
                    f"run {self.info.run}: curves and images begin anew, because its tags do"
                )
            return
        regions = [each for each in self._pipeline.regions if each.detector in self.info.tiles]
        old = self._pipeline, self._frames
        self._frames, self._pipeline = self._make_pipeline(
            regions, self._pipeline.edges, self._pipeline.binned_by
        )
        # Its worker processes need seconds to start; shots gather for them meanwhile.
        self._pipeline.follow(old[0])
        old[0].close()
        old[1].unlink()
        self._report(
            f"run {self.info.run}: curves and images begin anew, because detectors, gain, photon "
            f"energy or rules have changed; its detectors are {', '.join(self.info.tiles)}"
        )

    def _make_pipeline(
        self, regions: Sequence[Region], edges: NDArray[np.float64], binned_by: str = "delay"
    ) -> tuple[SharedFrames, ShotPipeline]:
        info = self._source.info
        frames = make_ring(info)
        try:
            return frames, ShotPipeline(
                info,
                regions,
                edges,
                self._window,
                frames,
                self._workers,
                keep_rows=False,
                block_tags=SHORT_BLOCK if len(info.tiles) <= FEW_TILES else None,
                on_shot=lambda shot: self._deliver(shot),
                profiles=self._profiles,
                binned_by=binned_by,
            )
        except BaseException:
            frames.unlink()
            raise

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
                else:
                    self._failed = False

    def _fail(self, error: Exception) -> None:
        """Count an error; it is reported once until the analysis works again."""
        self._counters.add("not analyzed")
        if not self._failed:
            self._failed = True
            logger.warning("sacla: %s", error, exc_info=not isinstance(error, HardwareError))
            self._report(f"analysis: {error}")


def _results(held: deque[tuple[str, ShotImages]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield results one by one; what was held for one is freed before the next."""
    while held:
        name, images = held.popleft()
        yield name, images.result()
