"""Whole blocks of shots, analyzed on a cluster whose machines see the same files, or get frames."""

import copy
import logging
from collections.abc import Mapping
from typing import Any

from skywright.analysis.cluster import Submit
from skywright.errors import ConfigError, HardwareError, SkywrightError
from skywright.instruments.sacla.frames import Frames, SentFrames
from skywright.instruments.sacla.image_series import Block
from skywright.instruments.sacla.workers import Analyses, Answer, Chunk, FutureWorkers, Worker

BLOCKS_IN_PROGRESS, SENT_BLOCKS = 32, 4
"""Blocks given to the cluster whose results have not been taken, and of those whose frames go with
them; one of 256 shots of a tile has 0.5 GB."""
RESULTS_BYTES, PIXEL_BYTES = 1_500_000_000, 40
"""Most that the partial images of these blocks take, if they are more than four; and of a pixel:
mean and spread, float64, and maximum, float32, with and without laser."""

logger = logging.getLogger(__name__)


class ClusterWorkers(FutureWorkers):
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
        Frames in files, or `SentFrames`, which go to the cluster with their block.

    Raises
    ------
    ConfigError
        If the frames are in memory that processes of this machine share.
    """

    def __init__(self, submit: Submit, analyses: Analyses, frames: Frames) -> None:
        if frames.shared:
            raise ConfigError("a cluster does not see the memory that these frames are in")
        super().__init__()
        self._submit, self._analyses, self._frames = submit, dict(analyses), frames
        size = PIXEL_BYTES * sum(each.regions.tile.bad.size for each in self._analyses.values())
        most = SENT_BLOCKS if isinstance(frames, SentFrames) else BLOCKS_IN_PROGRESS
        self._most = min(most, max(RESULTS_BYTES // max(size, 1), SENT_BLOCKS))
        self._chunks: dict[Block, dict[int, Chunk]] = {}

    def analyze(self, block: Block, number: int, chunk: Chunk) -> list[Answer]:
        """Keep a chunk until its block is whole."""
        self._chunks.setdefault(block, {})[number] = chunk
        return self.answers("none")

    def end_block(self, block: Block, is_wanted: bool = True) -> list[Answer]:
        """Give a block to the cluster."""
        found = self.answers("none")
        while len(self._in_progress) >= self._most:
            found += self.answers("one")
        chunks = self._chunks.pop(block)
        frames = self._frames
        if isinstance(frames, SentFrames):
            frames = frames.only(chunks)
        what = list(chunks), block
        task = (analyze_block, self._analyses, frames, chunks, block, is_wanted)
        self._begin(what, self._submit, *task)
        if frames is not self._frames:
            for number in chunks:
                self._frames.free(number)
        return found

    def close(self) -> None:
        """Take back what the cluster has not begun."""
        for future in self._in_progress:
            future.cancel()

    def _result(self, future: Any, what: tuple[list[int], Block]) -> list[Answer]:
        chunks, block = what
        try:
            return list(future.result())
        except SkywrightError:
            raise
        except Exception as error:
            if type(error).__name__ not in ("KilledWorker", "BrokenProcessPool"):
                raise HardwareError(f"cluster: {type(error).__name__}: {error}") from error
            logger.error("block %d is given up: %s", block[1], error)
            return [*map(Answer, chunks), Answer(block=block, parts={})]


def analyze_block(
    analyses: Analyses,
    frames: Frames,
    chunks: Mapping[int, Chunk],
    block: Block,
    is_wanted: bool = True,
) -> list[Answer]:
    """Analyze the chunks of a block, in order; runs on any machine that sees or gets the frames."""
    mine = {name: analysis.fresh() for name, analysis in analyses.items()}
    worker = Worker(mine, copy.copy(frames))
    try:
        answers = [worker.analyze(block, number, chunk) for number, chunk in sorted(chunks.items())]
        return [*answers, worker.end_block(block, is_wanted)]
    finally:
        worker.close()
