"""A source that plays a stored run back, in its own time or faster, from its files in place."""

import logging
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skywright.acquire.counters import Counters
from skywright.acquire.source import PolledSource
from skywright.errors import DataError
from skywright.instruments.panoseti.clock import NS
from skywright.instruments.panoseti.pff import PffFile
from skywright.instruments.panoseti.rundir import open_run_directory
from skywright.instruments.panoseti.sources.rundir import GROUP_FRAMES, FrameGroup

logger = logging.getLogger(__name__)

STEP_S = 0.05
"""Frames of this time, or more, are delivered together."""
AHEAD = 3
"""Frames after one that tell whether it is dated far ahead."""


class ReplaySource(PolledSource[FrameGroup]):
    """Deliver the frames of a run directory as their times come, each once, until `rewind`.

    The frames keep their times and refer to the files of the run. A frame that is earlier than the
    one before it, or without a time, comes with that one. None comes later than two successive ones
    of the next three of its module and product, and the last two come with the one before them: one
    or two frames dated far ahead hold up no others. While the source is stopped, the run stands
    still.

    Parameters
    ----------
    data_dir
        A run directory, or ``DATA_DIR/RUN.pffd`` of a node.
    modules
        Modules to play; empty for all.
    speed
        Seconds of the run in a second; 0: as fast as the frames are taken.
    clock
        Returns the present time, s; for tests.

    Raises
    ------
    DataError
        If there is no such run.
    """

    def __init__(
        self,
        data_dir: Path,
        modules: frozenset[int] = frozenset(),
        speed: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("replay")
        self.stop_limit_s = 10.0  # a group takes seconds on a busy machine
        self.data_dir = data_dir
        self._run_directory = open_run_directory(data_dir)
        self._modules = modules
        self._speed = speed
        self._clock = clock
        self._counters = Counters()
        self._stopping = threading.Event()
        self._chains: list[_Chain] = []
        self._first_ns = 0
        self._played_ns = 0.0
        self._since: float | None = None
        self.rewind()
        if not self._chains:
            raise DataError(f"{data_dir} has no PFF files of the modules asked for")

    @property
    def lost(self) -> Mapping[str, int]:
        """Frames that are cut, and files that could not be read to their end."""
        return self._counters.as_dict()

    @property
    def run(self) -> str:
        """Name of the run."""
        return self.data_dir.name

    @property
    def has_ended(self) -> bool:
        """Whether all frames are delivered."""
        return all(chain.ended for chain in self._chains)

    def rewind(self, run: str = "") -> None:
        """Play the run again from its start, the only one there is; the source is stopped."""
        for chain in self._chains:
            chain.close()
        self._counters = Counters()
        self._chains = [
            _Chain(paths, self._counters)
            for (module, _), paths in self._run_directory.files().items()
            if not self._modules or module in self._modules
        ]
        begins = [time_ns for chain in self._chains if (time_ns := chain.due_ns) is not None]
        self._first_ns = min((time_ns for time_ns in begins if time_ns), default=0)
        self._played_ns, self._since = 0.0, None

    def open(self) -> None:
        """Let the run go on."""
        self._stopping.clear()
        self._since = self._clock()

    def next(self, timeout_s: float) -> FrameGroup | None:
        """Return the frames of a file that are due, or None when none is within `timeout_s`."""
        deadline = self._clock() + timeout_s
        while not self._stopping.is_set():
            until_ns = self._present_ns()
            waiting = [chain for chain in self._chains if not chain.ended]
            for chain in sorted(waiting, key=lambda chain: chain.due_ns or 0):
                group = chain.take(until_ns)
                if group is not None:
                    return group
            if self._clock() >= deadline:
                return None
            self._stopping.wait(min(STEP_S, timeout_s))
        return None

    def halt(self) -> None:
        """End a `next` under way; the run stands still."""
        since, self._since = self._since, None
        if since is not None:
            self._played_ns += (self._clock() - since) * NS * self._speed
        self._stopping.set()

    def close(self) -> None:
        """Stop for good and close the files."""
        super().close()
        for chain in self._chains:
            chain.close()

    def _present_ns(self) -> float:
        """Return up to which time the run is played."""
        if self._speed <= 0:
            return np.inf
        since = self._since
        running_s = 0.0 if since is None else self._clock() - since
        return self._first_ns + self._played_ns + running_s * NS * self._speed


class _Chain:
    """The frames of one module and product, file after file."""

    def __init__(self, paths: Sequence[Path], counters: Counters) -> None:
        self._groups = _groups(paths, counters)
        self._group: FrameGroup | None = None
        self._following = next(self._groups, None)
        self._due: NDArray[np.int64] = np.empty(0, np.int64)
        self._before = self._due
        """Times of the last frames before those of the group."""
        self._latest_ns = 0
        self._done = 0
        self._advance()

    @property
    def ended(self) -> bool:
        """Whether all frames are taken."""
        return self._group is None

    @property
    def due_ns(self) -> int | None:
        """When the next frame comes; None at the end."""
        return None if self._group is None else int(self._due[self._done])

    def take(self, until_ns: float) -> FrameGroup | None:
        """Return the frames up to a time that are not taken yet; None if there are none."""
        if self._group is None:
            return None
        group, first = self._group, self._done
        stop = int(np.searchsorted(self._due, until_ns, "right"))
        if stop <= first:
            return None
        rows = slice(first, stop)
        self._done = stop
        if stop == len(group.frames):
            self._advance()
        return FrameGroup(group.path, group.run, group.frames[rows], group.sizes[rows])

    def close(self) -> None:
        """Close the file."""
        self._groups.close()
        self._group = self._following = None

    def _advance(self) -> None:
        self._group, self._following, self._done = self._following, next(self._groups, None), 0
        if self._group is None:
            return
        times, before = self._group.frames.time_ns, self._before
        after = times[:0] if self._following is None else self._following.frames.time_ns
        around = np.concatenate([before, times, after[:AHEAD]])
        due = _due(around)[len(before) : len(before) + len(times)]
        self._before = around[: len(before) + len(times)][-1 - AHEAD :]
        begin_ns = self._latest_ns or min(due[due > 0][:3].tolist(), default=0)
        self._due = np.maximum(np.maximum.accumulate(due), begin_ns)
        self._latest_ns = int(self._due[-1])


def _due(times: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return when successive frames come: at their times, if these are not far ahead."""
    count = len(times)
    end = times[-4:-2] if count > 3 else times[-3:-1]
    known = np.concatenate([times, end, np.full(AHEAD, np.iinfo(np.int64).max)])
    pairs = np.maximum(known[:-1], known[1:])
    due: NDArray[np.int64] = np.minimum.reduce([times, pairs[1 : count + 1], pairs[2 : count + 2]])
    return due


def _groups(paths: Sequence[Path], counters: Counters) -> Generator[FrameGroup]:
    for path in paths:
        try:
            with PffFile(path) as file:
                for first in range(0, len(file), GROUP_FRAMES):
                    frames = file.read(first, first + GROUP_FRAMES)
                    sizes = file.frame_sizes(first, first + len(frames))
                    if len(frames):
                        yield FrameGroup(path, path.parent.name, frames, sizes)
                counters.add("frame torn", file.torn)
        except (DataError, OSError) as error:
            counters.add("file not readable")
            logger.error("%s: %s; it is read no further", path, error)
