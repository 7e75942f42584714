"""Workers that analyze the images of shots, chunk by chunk; in this process or in others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from skywright.analysis import Batch
from skywright.errors import HardwareError, SkywrightError
from skywright.instruments.sacla.analyzed_shot import RegionSet
from skywright.instruments.sacla.frames import Frames
from skywright.instruments.sacla.shot_images import ShotImages

Analyses = Mapping[str, ShotImages]
"""By detector."""
Wait = Literal["none", "one", "all"]
TASKS_UNDER_WAY = 24
"""Tasks sent to a worker and not answered; their messages must fit into a pipe's buffer."""


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
        Where each frame is (`Frames`), by detector.
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
        Of a chunk: columns by detector, in the order of the shots.
    parts
        After a block: its partial result by detector.
    below
        After a block: the identity that was asked for.
    """

    chunk: int | None = None
    rows: Mapping[str, Mapping[str, NDArray[Any]]] | None = None
    parts: Analyses | None = None
    below: int = 0


class Workers(Protocol):
    """Analyze chunks; all chunks of a block go to the same worker, in order."""

    def analyze(self, worker: int, number: int, chunk: Chunk) -> list[Answer]:
        """Hand a chunk to a worker; return answers that have come meanwhile."""

    def split(self, worker: int, identity: int) -> list[Answer]:
        """Ask a worker for all its blocks below `identity`; return answers that have come."""

    def answers(self, wait_for: Wait) -> list[Answer]:
        """Return answers that have come; wait for one, or for those of all tasks, if asked to."""

    def close(self) -> None:
        """End the workers."""


class _Task:
    """The work itself: the analyses of one worker, and its frames."""

    def __init__(self, analyses: Analyses, frames: Frames) -> None:
        self.analyses, self.frames = analyses, frames
        frames.open()

    def analyze(self, number: int, chunk: Chunk) -> Answer:
        times = np.full(len(chunk.identities), np.nan)
        rows = {}
        for detector, analysis in self.analyses.items():
            analysis.change_regions(chunk.regions.of(detector))
            images = self.frames.read(detector, chunk.places[detector])
            data = {"image": images, "laser_on": chunk.laser_on}
            rows[detector] = analysis.update(Batch(chunk.identities, times, data))
        return Answer(number, rows)

    def split(self, identity: int) -> Answer:
        parts = {key: a.split(identity) for key, a in self.analyses.items()}
        return Answer(parts=parts, below=identity)


class LocalWorker:
    """One worker in this process.

    Parameters
    ----------
    analyses
        By detector; used by the worker.
    frames
        Where the frames are.
    """

    def __init__(self, analyses: Analyses, frames: Frames) -> None:
        self._task = _Task(analyses, frames)

    def analyze(self, worker: int, number: int, chunk: Chunk) -> list[Answer]:
        """Analyze a chunk at once."""
        return [self._task.analyze(number, chunk)]

    def split(self, worker: int, identity: int) -> list[Answer]:
        """Return the blocks below `identity`."""
        return [self._task.split(identity)]

    def answers(self, wait_for: Wait) -> list[Answer]:
        """Return nothing: all is answered."""
        return []

    def close(self) -> None:
        """Close the frames."""
        self._task.frames.close()


class ProcessWorkers:
    """Workers in processes of their own.

    Parameters
    ----------
    count
        Number of processes.
    analyses
        By detector; each worker has a copy.
    frames
        Where the frames are; opened in each process.
    """

    def __init__(self, count: int, analyses: Analyses, frames: Frames) -> None:
        # One server imports the libraries once, and has no threads when it forks workers.
        context = get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._ends: list[Connection] = []
        self._processes = []
        self._under_way = [0] * count
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(
                target=_work, args=(there, dict(analyses), frames), daemon=True
            )
            process.start()
            there.close()
            self._ends.append(here)
            self._processes.append(process)

    def analyze(self, worker: int, number: int, chunk: Chunk) -> list[Answer]:
        """Send a chunk; wait only if the worker has too many."""
        return self._send(worker, ("analyze", number, chunk))

    def split(self, worker: int, identity: int) -> list[Answer]:
        """Send the request."""
        return self._send(worker, ("split", identity))

    def answers(self, wait_for: Wait) -> list[Answer]:
        """Receive answers."""
        found = self._receive(None if wait_for == "one" else 0)
        while wait_for == "all" and any(self._under_way):
            found += self._receive(None)
        return found

    def close(self) -> None:
        """End the processes, whatever they do."""
        for end in self._ends:
            end.close()
        for process in self._processes:
            process.join(1)
            if process.is_alive():
                process.kill()
                process.join()

    def _send(self, worker: int, task: tuple[Any, ...]) -> list[Answer]:
        found = self._receive(0)
        while self._under_way[worker] >= TASKS_UNDER_WAY:
            found += self._receive(None)
        try:
            self._ends[worker].send(task)
        except OSError:
            raise HardwareError(f"analysis worker {worker} has ended") from None
        self._under_way[worker] += 1
        return found

    def _receive(self, timeout: float | None) -> list[Answer]:
        found = []
        busy = [end for end, tasks in zip(self._ends, self._under_way, strict=True) if tasks]
        for end in wait(busy, timeout) if busy else ():
            worker = self._ends.index(end)  # type: ignore[arg-type]
            try:
                answer = self._ends[worker].recv()
            except (EOFError, OSError):
                raise HardwareError(f"analysis worker {worker} has ended") from None
            if isinstance(answer, Exception):
                raise answer
            self._under_way[worker] -= 1
            found.append(answer)
        return found


def make_workers(count: int, analyses: Analyses, frames: Frames) -> Workers:
    """Return workers: processes, or one worker in this process if one is enough."""
    if count == 1 and not frames.shared:
        return LocalWorker(analyses, frames)
    return ProcessWorkers(count, analyses, frames)


def _work(end: Connection, analyses: Analyses, frames: Frames) -> None:
    """Answer tasks until the other end is closed."""
    try:
        task = _Task(analyses, frames)
        while True:
            kind, *arguments = end.recv()
            end.send(getattr(task, kind)(*arguments))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass
    except SkywrightError as error:
        end.send(error)
    except Exception as error:
        end.send(HardwareError(f"analysis worker: {type(error).__name__}: {error}"))
