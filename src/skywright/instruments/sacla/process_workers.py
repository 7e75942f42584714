"""Workers in processes of their own. One that dies is replaced, and its blocks are done again."""

import logging
import os
import pickle
import signal
import socket
import struct
import time
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from skywright.errors import HardwareError, SkywrightError
from skywright.instruments.sacla.analyzed_shot import RegionSet
from skywright.instruments.sacla.frames import Frames
from skywright.instruments.sacla.image_series import Block
from skywright.instruments.sacla.large_messages import receive_large, send_large
from skywright.instruments.sacla.shot_images import ShotImages
from skywright.instruments.sacla.warm import warm_up
from skywright.instruments.sacla.workers import (
    QUEUED_CHUNKS,
    Analyses,
    Answer,
    Chunk,
    Wait,
    Worker,
    Workers,
    unexpected,
)
from skywright.processes.memory import return_large_arrays

SENT_TASKS = 24
"""Tasks sent to a worker and not answered; their messages must fit into a pipe's buffer."""
NUMBA_LOADED = "skywright.processes.numba_loaded"
NO_REGIONS = RegionSet()
"""Stands in a chunk that is sent to a worker: its regions are sent before it."""
READY = "ready"
"""What a worker sends before it takes tasks."""
ATTEMPTS = 8
"""Workers that may die over the same task, and failed starts, until it is given up."""
SILENCE_S = 60.0
"""Longest wait for an answer of any worker, and for the rest of one. A live worker answers each
chunk within a second. One that is silent longer is stopped or hangs."""
START_S = 600.0
"""Longest time from the start of a worker until it takes tasks: it may have kernels to compile."""
LOOKS = 60
"""The wait of `SILENCE_S` is divided into this number of short waits. If Ctrl-Z stops this program,
only one short wait expires, so the workers are not taken for silent."""

logger = logging.getLogger(__name__)


class _Task(NamedTuple):
    """A chunk to analyze; without a chunk, the end of the block."""

    block: Block
    chunk: int | None


@dataclass
class _Block:
    """A block whose partial result has not come, with all that is needed to do it again."""

    worker: int
    chunks: dict[int, Chunk] = field(default_factory=dict)
    answered: set[int] = field(default_factory=set)
    is_ended: bool = False
    """All its chunks are known."""
    is_wanted: bool = True
    """Its images are wanted."""
    parts: dict[str, ShotImages] = field(default_factory=dict)
    """Partial results that have come, by detector; those of all end the block."""


@dataclass
class _Process:
    """A worker process, the tasks that it has not answered, and those that wait for it."""

    process: BaseProcess
    end: Connection
    sent: deque[_Task] = field(default_factory=deque)
    waiting: deque[_Task] = field(default_factory=deque)
    started: float = field(default_factory=time.monotonic)
    is_ready: bool = False
    regions: RegionSet | None = None
    """What it was sent last; the chunks that follow are summed over it."""

    @property
    def load(self) -> int:
        return len(self.sent) + len(self.waiting)


class ProcessWorkers(Workers):
    """Workers in processes.

    When a process dies, another one is started, and the open blocks of the dead one are given to
    the others, from their first chunk, as long as their frames are still there. The rows of a chunk
    are returned once. Frames that are gone are counted (`Answer.images_lost`).

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
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload([__name__, NUMBA_LOADED])
        self._analyses, self._frames = dict(analyses), frames
        self._blocks: dict[Block, _Block] = {}
        self._deaths: Counter[_Task] = Counter()
        self._found: list[Answer] = []
        self._has_part = False
        self._ended_early = 0
        """Processes that have ended before they took tasks, since one of them did."""
        self._processes = [self._start() for _ in range(count)]

    def analyze(self, block: Block, number: int, chunk: Chunk) -> list[Answer]:
        """Hand over a chunk; wait only if the worker has too many."""
        if block not in self._blocks:
            self._blocks[block] = _Block(self._least_loaded())
        held = self._blocks[block]
        held.chunks[number] = chunk
        self._give(held.worker, _Task(block, number))
        while self._processes[held.worker].load > QUEUED_CHUNKS:
            self._await_answer()
        return self.answers("none")

    def end_block(self, block: Block, is_wanted: bool = True) -> list[Answer]:
        """Ask for a block."""
        held = self._blocks[block]
        held.is_ended, held.is_wanted = True, is_wanted
        self._give(held.worker, _Task(block, None))
        return self.answers("none")

    def answers(self, wait_for: Wait) -> list[Answer]:
        """Receive answers.

        The partial result of a detector is large: without waiting, at most one of each worker is
        taken at once, so that the caller is not held up.
        """
        self._has_part = False
        while self._receive(0) and not (self._has_part and wait_for == "none"):
            pass
        while self._busy and (wait_for == "all" or (wait_for == "one" and not self._found)):
            self._await_answer()
        found, self._found = self._found, []
        return found

    def wait_until_ready(self) -> None:
        """Wait until each process takes tasks.

        Raises
        ------
        HardwareError
            If one after the other ends before.
        """
        while not all(worker.is_ready for worker in self._processes):
            self._await_answer()
            if self._ended_early >= ATTEMPTS:
                raise HardwareError(
                    f"{self._ended_early} analysis workers have ended at their start; a script "
                    'that starts them needs the line if __name__ == "__main__":'
                )

    def close(self) -> None:
        """End the processes, whatever they do."""
        for worker in self._processes:
            worker.end.close()
        for worker in self._processes:
            _reap(worker.process, 1)

    # ---- tasks and answers

    @property
    def _busy(self) -> bool:
        return any(worker.load for worker in self._processes)

    def _least_loaded(self, but: int = -1) -> int:
        """Return the worker with the fewest tasks; another than `but` if there is one."""
        others = [k for k in range(len(self._processes)) if k != but] or [but]
        return min(others, key=lambda k: self._processes[k].load)

    def _give(self, number: int, task: _Task) -> None:
        self._processes[number].waiting.append(task)
        self._send(number)

    def _send(self, number: int) -> None:
        """Send tasks that wait, up to what the pipe holds."""
        worker = self._processes[number]
        while worker.waiting and len(worker.sent) < SENT_TASKS:
            task = worker.waiting[0]
            held = self._blocks[task.block]
            chunk = None if task.chunk is None else held.chunks[task.chunk]
            try:
                if chunk is None:
                    worker.end.send(("end_block", task.block, held.is_wanted))
                else:
                    if chunk.regions is not worker.regions:
                        # Masks may be larger than the pipe's buffer, so the worker must not send.
                        if worker.sent or not worker.is_ready:
                            return
                        worker.end.send(("regions", chunk.regions))
                        worker.regions = chunk.regions
                    worker.end.send(("analyze", *task, replace(chunk, regions=NO_REGIONS)))
            except OSError:
                self._replace(number)
                return
            worker.sent.append(worker.waiting.popleft())

    def _await_answer(self) -> None:
        """Wait for an answer; start others in place of workers that live and do not go on."""
        if any(self._receive(SILENCE_S / LOOKS) for _ in range(LOOKS)):
            return
        for number in range(len(self._processes)):
            worker = self._processes[number]
            if worker.is_ready and worker.sent:
                logger.error("analysis worker %d has not answered for %g s", number, SILENCE_S)
            elif not worker.is_ready and time.monotonic() - worker.started > START_S:
                logger.error(
                    "analysis worker %d takes no tasks %g s after its start", number, START_S
                )
            else:
                continue
            self._replace(number)

    def _receive(self, timeout: float) -> bool:
        """Take at most one answer of each worker; return whether something came."""
        number_of = {worker.end: number for number, worker in enumerate(self._processes)}
        ready = wait(list(number_of), timeout)
        for end in ready:
            number = number_of[end]  # type: ignore[index]
            worker = self._processes[number]
            if worker.end is not end:  # replaced meanwhile
                continue
            try:
                answer = worker.end.recv()
                if isinstance(answer, tuple):
                    name, part = receive_large(end, answer)
            except (EOFError, OSError, pickle.UnpicklingError):
                self._replace(number)
                continue
            if isinstance(answer, Exception):
                raise answer
            if answer == READY:
                worker.is_ready, self._ended_early = True, 0
                self._send(number)
                continue
            if isinstance(answer, tuple):
                self._blocks[worker.sent[0].block].parts[name] = part
                self._has_part = True
                continue
            self._take(worker.sent.popleft(), answer)
            self._send(number)
        return bool(ready)

    def _take(self, task: _Task, answer: Answer) -> None:
        held = self._blocks[task.block]
        if task.chunk is None:
            answer = replace(answer, parts=held.parts)
            del self._blocks[task.block]
        elif task.chunk in held.answered:  # done again for the images; its rows are known
            self._frames.free(task.chunk)
            return
        else:
            held.answered.add(task.chunk)
        self._found.append(answer)

    # ---- when a worker has died

    def _start(self) -> _Process:
        for attempt in range(ATTEMPTS):
            here, there = self._context.Pipe()
            _limit_waits(here)
            process = self._context.Process(
                target=_work, args=(there, self._analyses, self._frames), daemon=True
            )
            try:
                process.start()
            except (OSError, EOFError) as error:
                # The server that forks workers has died; the next start brings it back.
                logger.error("analysis worker not started, attempt %d: %r", attempt + 1, error)
                here.close()
                cause = error
            else:
                return _Process(process, here)
            finally:
                there.close()
        raise HardwareError(f"analysis worker: cannot be started ({cause!r})") from cause

    def _replace(self, number: int) -> None:
        """Start another process in place of one that has died, and do its blocks again."""
        dead = self._processes[number]
        self._ended_early += not dead.is_ready
        dead.end.close()
        _reap(dead.process, 0)  # it may live on without its pipe: nobody hears it any more
        self._processes[number] = self._start()
        blocks = sorted(k for k, held in self._blocks.items() if held.worker == number)
        logger.error(
            "analysis worker %d (process %s) has ended; %d open blocks are done again",
            number,
            dead.process.pid,
            len(blocks),
        )
        if tasks := dead.sent or dead.waiting:
            culprit = tasks[0]
            self._deaths[culprit] += 1
            if self._deaths[culprit] >= ATTEMPTS:
                self._give_up(culprit)
        for block in blocks:
            if block in self._blocks:
                self._do_again(block, number)
        # Sent after all of them have their workers: one that has died too is replaced here, and
        # the one in place of it does all that waits for it again, once.
        for other in range(len(self._processes)):
            self._send(other)

    def _do_again(self, block: Block, dead: int) -> None:
        """Let a block wait for another worker, from its first chunk."""
        held = self._blocks[block]
        held.worker = self._least_loaded(but=dead)
        held.parts.clear()
        lost = 0
        for chunk in sorted(held.chunks):
            if chunk in held.answered and not self._frames.retake(chunk):
                lost += len(held.chunks.pop(chunk).identities)
        tasks = [_Task(block, chunk) for chunk in sorted(held.chunks)]
        if held.is_ended:
            tasks.append(_Task(block, None))
        if lost:
            logger.error("block %s: the frames of %d shots are gone", block, lost)
            self._found.append(Answer(images_lost=lost))
        self._processes[held.worker].waiting.extend(tasks)

    def _give_up(self, task: _Task) -> None:
        """Leave out what workers died over."""
        held = self._blocks[task.block]
        logger.error("block %s, chunk %s: given up, workers die over it", *task)
        if task.chunk is None:
            del self._blocks[task.block]
            lost = sum(len(chunk.identities) for chunk in held.chunks.values())
            self._found.append(Answer(block=task.block, parts={}, images_lost=lost))
            return
        chunk = held.chunks.pop(task.chunk)
        if task.chunk in held.answered:
            self._frames.free(task.chunk)
            self._found.append(Answer(images_lost=len(chunk.identities)))
        else:
            self._found.append(Answer(task.chunk))


def _limit_waits(end: Connection) -> None:
    """Let a call of a pipe fail after `SILENCE_S`: its other end may be stopped in a message."""
    whole, part = divmod(SILENCE_S, 1)
    limit = struct.pack("ll", int(whole), int(part * 1e6))
    with socket.socket(fileno=os.dup(end.fileno())) as pipe:
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            pipe.setsockopt(socket.SOL_SOCKET, option, limit)


def _reap(process: BaseProcess, patience_s: float) -> None:
    """Wait for the end of a process; kill it if it does not end by itself."""
    process.join(patience_s)
    if process.is_alive():
        process.kill()
        process.join()


def _work(end: Connection, analyses: Analyses, frames: Frames) -> None:
    """Answer tasks until the other end is closed."""
    # Ctrl-C goes to all processes of a terminal; the one that gives the tasks still needs answers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return_large_arrays()
    try:
        worker = Worker(analyses, frames)
        warm_up()  # else the first shots wait for the kernels
        end.send(READY)
        regions = NO_REGIONS
        while True:
            kind, *arguments = end.recv()
            if kind == "regions":
                regions = arguments[0]
                continue
            if kind == "analyze":
                arguments[-1] = replace(arguments[-1], regions=regions)
            answer: Answer = getattr(worker, kind)(*arguments)
            for part in (answer.parts or {}).items():
                send_large(end, part)
            end.send(replace(answer, parts=None))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    except SkywrightError as error:
        end.send(error)
    except Exception as error:
        end.send(unexpected(error))
