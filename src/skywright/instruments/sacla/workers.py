"""Workers that analyze the images of shots, chunk by chunk, in threads of this process.

Those in processes of their own are in `process_workers`.
"""

import copy
import queue
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skywright.analysis import Batch
from skywright.analysis.cluster import Submit
from skywright.errors import ConfigError, HardwareError, SkywrightError
from skywright.instruments.sacla.analyzed_shot import RegionSet
from skywright.instruments.sacla.frames import Frames
from skywright.instruments.sacla.image_series import Block
from skywright.instruments.sacla.shot_images import ShotImages

Analyses = Mapping[str, ShotImages]
"""By detector."""
Wait = Literal["none", "one", "all"]
MISSING = -1
"""The place of a frame that never came."""
QUEUED_CHUNKS = 256
"""Chunks that may wait for one worker; a further one makes the caller wait."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """Shots of one block, in order, whose images are to be analyzed.

    Parameters
    ----------
    identities
        (n,) int64.
    laser_on
        (n,) bool.
    places
        Where each frame is (`Frames`), by detector; `MISSING` where the shot has none.
    regions
        Over which the images are summed.
    """

    identities: NDArray[np.int64]
    laser_on: NDArray[np.bool_]
    places: Mapping[str, Sequence[int]]
    regions: RegionSet


@dataclass(frozen=True, eq=False)
class Answer:
    """What a worker found.

    Parameters
    ----------
    chunk
        Of a chunk: its number. The frames are used no more.
    rows
        Of a chunk: columns by detector, in the order of the shots. None: workers that had the chunk
        died again and again, and it is given up.
    block
        After the end of a block: which one.
    parts
        After the end of a block: its partial result by detector.
    images_lost
        Shots whose rows were found before a worker died, and whose frames were gone afterwards:
        they are missing in the partial results.
    """

    chunk: int | None = None
    rows: Mapping[str, Mapping[str, NDArray[Any]]] | None = None
    block: Block | None = None
    parts: Analyses | None = None
    images_lost: int = 0


class Workers:
    """Analyze chunks; all chunks of a block go to the same worker, in order."""

    def analyze(self, block: Block, number: int, chunk: Chunk) -> list[Answer]:
        """Hand over a chunk of a block; return answers that have come meanwhile."""
        raise NotImplementedError

    def end_block(self, block: Block, is_wanted: bool = True) -> list[Answer]:
        """Ask for the partial result of a block; if it is not wanted, there are no images in it."""
        raise NotImplementedError

    def answers(self, wait_for: Wait) -> list[Answer]:
        """Return answers that have come; wait for one, or for those of all tasks, if asked to."""
        raise NotImplementedError

    def wait_until_ready(self) -> None:
        """Wait until the workers take tasks, if they need time to start."""

    def close(self) -> None:
        """End the workers."""


class Worker:
    """The work itself: the analyses of one worker, and its frames.

    Parameters
    ----------
    analyses
        By detector; they are used.
    frames
        Where the frames are; it is opened.
    """

    def __init__(self, analyses: Analyses, frames: Frames) -> None:
        self._analyses, self._frames = analyses, frames
        self._blocks: dict[Block, Analyses] = {}
        frames.open()

    def analyze(self, block: Block, number: int, chunk: Chunk) -> Answer:
        """Analyze a chunk of a block."""
        if block not in self._blocks:
            self._blocks[block] = {name: each.fresh() for name, each in self._analyses.items()}
        times = np.full(len(chunk.identities), np.nan)
        rows = {}
        for detector, analysis in self._blocks[block].items():
            regions = chunk.regions.of(detector)
            self._analyses[detector].change_regions(regions)  # of the blocks to come
            analysis.change_regions(regions)
            places = np.array(chunk.places[detector], np.int64)
            came = places != MISSING
            images = self._frames.read(detector, places[came].tolist())
            data: dict[str, Any] = {"image": images, "laser_on": chunk.laser_on[came]}
            found = analysis.update(Batch(chunk.identities[came], times[came], data))
            rows[detector] = {key: _for_all(values, came) for key, values in found.items()}
        return Answer(number, rows)

    def end_block(self, block: Block, is_wanted: bool = True) -> Answer:
        """Return the partial result of a block, without images if not wanted, and forget it."""
        # Empty if the worker of the block died and its frames were overwritten
        analyses = self._blocks.pop(block, {})
        if not is_wanted:
            return Answer(block=block, parts={})
        parts = {
            name: analysis.split((block[1] + 1) * analysis.block_size)
            for name, analysis in analyses.items()
        }
        return Answer(block=block, parts=parts)

    def close(self) -> None:
        """Close the frames."""
        self._frames.close()


def _for_all(values: NDArray[Any], came: NDArray[np.bool_]) -> NDArray[Any]:
    """Return values of all shots from those of which a frame came; the others are NaN, or -1."""
    if came.all():
        return values
    missing = np.nan if values.dtype.kind == "f" else -1
    spread = np.full((len(came), *values.shape[1:]), missing, values.dtype)
    spread[came] = values
    return spread


class FutureWorkers(Workers):
    """Workers whose tasks are futures: those of threads, or of a cluster."""

    def __init__(self) -> None:
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._in_progress: dict[Any, Any] = {}
        """What each future is of; those in `_done` are done."""

    def answers(self, wait_for: Wait) -> list[Answer]:
        """Return the results of tasks that are done."""
        found: list[Answer] = []
        while self._in_progress:
            wait = wait_for == "all" or (wait_for == "one" and not found)
            try:
                future = self._done.get(wait)
            except queue.Empty:
                break
            found += self._result(future, self._in_progress.pop(future))
        return found

    def _begin(self, what: Any, submit: Submit, task: Callable[..., Any], *arguments: Any) -> None:
        """Submit a task; `what` is for `_result`."""
        future = submit(task, *arguments)
        self._in_progress[future] = what
        future.add_done_callback(self._done.put)

    def _result(self, future: Any, what: Any) -> list[Answer]:
        """Return the answers of a task that is done, or raise what it failed with."""
        raise NotImplementedError


class ThreadWorkers(FutureWorkers):
    """Workers in threads: they start at once, and share the memory that a file is mapped to.

    The kernels release the GIL; everything else that a worker does takes microseconds.

    Parameters
    ----------
    count
        Number of threads.
    analyses
        By detector; each thread has a copy.
    frames
        Where the frames are; opened for each thread.
    """

    def __init__(self, count: int, analyses: Analyses, frames: Frames) -> None:
        super().__init__()
        self._threads = [ThreadPoolExecutor(1, "sacla-analysis") for _ in range(count)]
        self._workers = [
            Worker({name: each.fresh() for name, each in analyses.items()}, copy.copy(frames))
            for _ in range(count)
        ]
        self._loads = [0] * count
        """Tasks of each worker that are not answered."""
        self._worker_of: dict[Block, int] = {}

    def analyze(self, block: Block, number: int, chunk: Chunk) -> list[Answer]:
        """Hand over a chunk."""
        worker = self._worker_of.setdefault(block, int(np.argmin(self._loads)))
        return self._give(worker, self._workers[worker].analyze, block, number, chunk)

    def end_block(self, block: Block, is_wanted: bool = True) -> list[Answer]:
        """Ask for a block."""
        worker = self._worker_of.pop(block)
        return self._give(worker, self._workers[worker].end_block, block, is_wanted)

    def close(self) -> None:
        """End the threads, after the task that each has in hand."""
        for thread in self._threads:
            thread.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def _give(self, worker: int, task: Callable[..., Answer], *arguments: Any) -> list[Answer]:
        found = self.answers("none")
        while self._loads[worker] >= QUEUED_CHUNKS:
            found += self.answers("one")
        self._loads[worker] += 1
        self._begin(worker, self._threads[worker].submit, task, *arguments)
        return found

    def _result(self, future: Any, what: int) -> list[Answer]:
        self._loads[what] -= 1
        try:
            return [future.result()]
        except SkywrightError:
            raise
        except Exception as error:
            raise unexpected(error) from error


def unexpected(error: Exception) -> HardwareError:
    """Say that a worker failed."""
    return HardwareError(f"analysis worker: {type(error).__name__}: {error}")


def make_workers(
    count: int, analyses: Analyses, frames: Frames, submit: Submit | None = None
) -> Workers:
    """Return workers.

    They are machines of a cluster if there is `submit`; threads where they can read frames at the
    same time, or one is enough for frames in files; else processes.

    Raises
    ------
    ConfigError
        If there is none: shots would wait for ever.
    """
    from skywright.instruments.sacla.cluster_workers import ClusterWorkers
    from skywright.instruments.sacla.process_workers import ProcessWorkers

    if submit is not None:
        return ClusterWorkers(submit, analyses, frames)
    if count < 1:
        raise ConfigError(f"{count} analysis workers, expected at least 1")
    if (count == 1 and not frames.shared) or frames.threads:
        return ThreadWorkers(count, analyses, frames)
    return ProcessWorkers(count, analyses, frames)
