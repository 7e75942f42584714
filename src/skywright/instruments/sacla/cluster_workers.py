"""Whole blocks of shots, analyzed on a cluster whose machines see the same files."""

import copy
import logging
import queue
from collections.abc import Mapping
from typing import Any

from skywright.analysis.cluster import Submit
from skywright.errors import ConfigError, HardwareError, SkywrightError
from skywright.instruments.sacla.frames import Frames
from skywright.instruments.sacla.workers import Analyses, Answer, Chunk, Wait, Worker

BLOCKS_IN_PROGRESS = 32
"""Blocks given to the cluster whose results have not been taken."""

logger = logging.getLogger(__name__)


class ClusterWorkers:
    """Gives each block to the cluster when its last chunk is known.

    The cluster gives the block of a machine that dies to another one. A block over which machines
    die again and again is given up, and its shots are counted as lost.

    Parameters
    ----------
    submit
        Of the cluster (`skywright.analysis.cluster.cluster`), or of an executor.
    analyses
        By detector; each block has a copy.
    frames
        Frames in files.

    Raises
    ------
    ConfigError
        If the frames are in this machine's memory.
    """

    def __init__(self, submit: Submit, analyses: Analyses, frames: Frames) -> None:
        if frames.shared:
            raise ConfigError("a cluster analyzes stored runs; these frames are in memory")
        self._submit, self._analyses, self._frames = submit, dict(analyses), frames
        self._chunks: dict[int, dict[int, Chunk]] = {}
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._in_progress: dict[Any, tuple[list[int], int]] = {}

    def analyze(self, block: int, number: int, chunk: Chunk) -> list[Answer]:
        """Keep a chunk until its block is whole."""
        self._chunks.setdefault(block, {})[number] = chunk
        return self.answers("none")

    def end_block(self, block: int, below: int) -> list[Answer]:
        """Give a block to the cluster."""
        found = self.answers("none")
        while len(self._in_progress) >= BLOCKS_IN_PROGRESS:
            found += self.answers("one")
        chunks = self._chunks.pop(block)
        future = self._submit(analyze_block, self._analyses, self._frames, chunks, below)
        self._in_progress[future] = (list(chunks), below)
        future.add_done_callback(self._done.put)
        return found

    def answers(self, wait_for: Wait) -> list[Answer]:
        """Return the results of blocks that are done."""
        found: list[Answer] = []
        while self._in_progress:
            wait = wait_for == "all" or (wait_for == "one" and not found)
            try:
                future = self._done.get(wait)
            except queue.Empty:
                break
            found += self._result(future, *self._in_progress.pop(future))
        return found

    def wait_until_ready(self) -> None:
        """Do nothing: the cluster is somebody else's."""

    def close(self) -> None:
        """Take back what the cluster has not begun."""
        for future in self._in_progress:
            future.cancel()

    def _result(self, future: Any, chunks: list[int], below: int) -> list[Answer]:
        try:
            return list(future.result())
        except SkywrightError:
            raise
        except Exception as error:
            if type(error).__name__ not in ("KilledWorker", "BrokenProcessPool"):
                raise HardwareError(f"cluster: {type(error).__name__}: {error}") from error
            logger.error("block below %d is given up: %s", below, error)
            return [*map(Answer, chunks), Answer(parts={}, below=below)]


def analyze_block(
    analyses: Analyses, frames: Frames, chunks: Mapping[int, Chunk], below: int
) -> list[Answer]:
    """Analyze the chunks of a block, in order; runs on any machine that sees the files."""
    mine = {name: analysis.fresh() for name, analysis in analyses.items()}
    worker = Worker(mine, copy.copy(frames))
    try:
        answers = [worker.analyze(number, chunk) for number, chunk in sorted(chunks.items())]
        return [*answers, worker.end_block(below)]
    finally:
        worker.close()
