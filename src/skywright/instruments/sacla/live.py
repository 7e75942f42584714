"""Analysis of a running source: frames go to worker processes by shared memory, or to a cluster."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.analysis.cluster import Submit
from skywright.instruments.sacla.frames import CHUNK_SHOTS, Frames, SentFrames, SharedFrames
from skywright.instruments.sacla.join import Record
from skywright.instruments.sacla.pipeline import ShotPipeline
from skywright.instruments.sacla.regions import Region
from skywright.instruments.sacla.report import Report, make_report
from skywright.instruments.sacla.run_info import RunInfo
from skywright.instruments.sacla.sources import ShotSource, take_records

RING_BYTES, CHUNKS_MIN = 128 << 20, 4
"""Size of the shared memory with frames on their way to workers, unless that is fewer chunks."""


def make_ring(info: RunInfo, reserve: bool = True) -> SharedFrames:
    """Return shared memory for frames on their way to workers; `reserve` as of `SharedFrames`."""
    shapes = info.shapes
    shot_bytes = max(sum(rows * columns for rows, columns in shapes.values()) * 4, 1)
    chunks = int(np.clip(RING_BYTES // (shot_bytes * CHUNK_SHOTS), CHUNKS_MIN, 64))
    return SharedFrames(shapes, chunks, reserve)


class LiveShots:
    """Takes the records of a source and analyzes them while they come.

    Parameters
    ----------
    source
        Not yet started; it is not closed here.
    regions, edges, window
        See `ShotPipeline`.
    workers
        Number of analysis processes.
    profiles
        Find the radial profile of each shot.
    binned_by
        One of `BINNED_BY`, or the key of any other point detector of the source.
    submit
        Sends whole blocks, with their frames, to a cluster, in place of the workers
        (`skywright.analysis.cluster.cluster`).

    Raises
    ------
    ConfigError
        If a region does not fit the run, or the source has no such value to bin by.
    """

    def __init__(
        self,
        source: ShotSource,
        regions: Sequence[Region],
        edges: NDArray[np.float64],
        window: int = 120,
        workers: int = 1,
        profiles: bool = False,
        binned_by: str = "delay",
        submit: Submit | None = None,
    ) -> None:
        source.info.check_binned_by(binned_by)
        self._source, self._workers = source, workers
        self._frames: Frames = (
            make_ring(source.info) if submit is None else SentFrames(source.info.shapes)
        )
        try:
            self._pipeline = ShotPipeline(
                source.info,
                regions,
                edges,
                window,
                self._frames,
                workers,
                submit=submit,
                profiles=profiles,
                binned_by=binned_by,
            )
        except BaseException:
            self._frames.unlink()
            raise
        self._lock = threading.Lock()
        self._wanted: int | None = None
        self._enough = threading.Event()
        self._started = time.perf_counter()

    def run(
        self, shots: int | None = None, report: Callable[[str], None] = lambda _: None
    ) -> Report:
        """Run the source until it ends, or until enough shots have passed the join.

        Parameters
        ----------
        shots
            Number of shots, accepted or not; None: until the source ends.
        report
            Takes messages about trouble and about changes of the run.

        Raises
        ------
        SkywrightError
            If the source or a worker fails.
        """
        self._pipeline.wait_for_workers()
        self._wanted, self._started = shots, time.perf_counter()
        take_records(self._source, self._take_record, report, self._poll, self._enough)
        with self._lock:
            self._pipeline.finish()
            return self._make_report()

    def stop(self) -> None:
        """End `run` soon, with what has been found; from any thread."""
        self._enough.set()

    def snapshot(self) -> Report:
        """Report what has been found so far; from any thread."""
        with self._lock:
            return self._make_report()

    def close(self) -> None:
        """End the workers and free the memory."""
        self._pipeline.close()
        self._frames.unlink()

    def _take_record(self, record: Record[Any]) -> bool:
        """Take in a record; return whether enough shots have passed."""
        with self._lock:
            if not self._pipeline.join.records:
                self._pipeline.begin(self._source.info)
            self._pipeline.add(record)
            passed = self._pipeline.join.shots_passed
        return self._wanted is not None and passed >= self._wanted

    def _poll(self) -> None:
        with self._lock:
            self._pipeline.poll()

    def _make_report(self) -> Report:
        return make_report(self._pipeline, time.perf_counter() - self._started, self._workers)
