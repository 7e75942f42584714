"""Draws the pictures of analyses; those of second-stage analyses in a process of its own.

A failure is logged, and the run then has no pictures. It does not end the analysis.

Drawing takes longer than the analysis of many frames, which decisions wait for. The process starts
with the first drawing and ends with the worker whose pipe it reads.
"""

import logging
import pickle
import sys
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import IO, Any, TypeVar, cast

from skywright.analysis import Analysis, Batch
from skywright.analysis.second import SecondRun
from skywright.processes.child import PipedProcess, keep_stdout, start_module
from skywright.processes.lifecycle import lower_priority
from skywright.processes.logs import log_to_stderr

log = logging.getLogger(__name__)

T = TypeVar("T")
Pictures = TypeVar("Pictures")
Drawing = tuple[SecondRun, Analysis[Any], Batch, Mapping[str, Any]]
"""What is to be drawn: second-stage run, analysis, members and result."""
Draw = Callable[[Drawing], "Future[dict[str, bytes]]"]


def attempt(action: Callable[..., T], *arguments: Any) -> T | None:
    """Return the value of `action`, a step of the drawing; None if it fails, which is logged."""
    try:
        return action(*arguments)
    except Exception:  # whatever an analysis or its reader raises
        log.exception("pictures could not be drawn")
        return None


def draw(drawing: Drawing) -> dict[str, bytes]:
    """Return the pictures of a result by file name; after a failure, those drawn before it."""
    run, analysis, members, result = drawing
    pictures: dict[str, bytes] = {}
    attempt(lambda: pictures.update(run.draw(analysis, members, result)))
    return pictures


def until_drawn(
    drawn: "Future[Pictures]", deadline: Callable[[], float], what: str
) -> Generator[None, None, Pictures | None]:
    """Yield until pictures are drawn, and return them; None if there are none in time.

    Parameters
    ----------
    drawn
        The future pictures.
    deadline
        Returns the time, s of the monotonic clock, until which to wait. 0: do not wait; it is no
        error if there are no pictures.
    what
        The run whose pictures they are, for the log.
    """
    while not drawn.done() and time.monotonic() < deadline():
        yield
    if drawn.done():
        return drawn.result()
    if deadline() > 0.0:
        log.error("%s: no pictures in time", what)
    return None


class Drawer:
    """Sends what is to be drawn to the process, one result after the other."""

    def __init__(self) -> None:
        self._process: PipedProcess | None = None
        self._is_closed = False
        self._thread = ThreadPoolExecutor(1, "drawer")

    def __call__(self, drawing: Drawing) -> "Future[dict[str, bytes]]":
        """Return a future; its result is empty if the process cannot start, or dies."""
        return self._thread.submit(self._send, drawing)

    def close(self) -> None:
        """End the process, with what it draws."""
        self._is_closed = True
        if self._process is not None:
            self._process.kill()
        self._thread.shutdown(cancel_futures=True)
        if self._process is not None:
            self._process.wait()
            with suppress(OSError):  # what was on its way to the process is lost
                self._process.stdin.close()

    def _send(self, drawing: Drawing) -> dict[str, bytes]:
        try:
            content = pickle.dumps(drawing)
        except Exception:  # pickling may raise any error, depending on the types of the result
            log.exception("a result cannot be sent to the drawing process; it has no pictures")
            return {}
        try:
            if self._process is None or self._process.poll() is not None:
                self._process = start_module("skywright.callbacks.drawing")
                if self._is_closed:  # `close` did not find this process
                    self._process.kill()
            self._process.stdin.write(content)
            self._process.stdin.flush()
            return cast("dict[str, bytes]", pickle.load(self._process.stdout))
        except Exception:  # it cannot start, has ended, or sends what cannot be loaded
            if not self._is_closed:
                log.exception("the drawing process has failed; a result has no pictures")
            if self._process is not None:
                self._process.kill()  # the next drawing has another one
                self._process.wait()
            return {}


def main(drawings: IO[bytes], pictures: IO[bytes]) -> None:
    """Draw until there is nothing more to read."""
    with suppress(EOFError):
        while True:
            pickle.dump(draw(pickle.load(drawings)), pictures)
            pictures.flush()


if __name__ == "__main__":
    lower_priority()
    log_to_stderr()
    main(sys.stdin.buffer, keep_stdout())
