"""One time of processing, from start to stop: the threads that take and process pulses."""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

from skywright.acquire.counters import Counters
from skywright.errors import HardwareError, SkywrightError
from skywright.instruments.psss.processing import Settings, Workspace, process
from skywright.instruments.psss.pulse import Pulse, PulseSource
from skywright.instruments.psss.results import Result

logger = logging.getLogger(__name__)

LOOK_S = 0.2
"""The source is asked for so long at a time, so that a stop is not kept waiting."""
SILENCE_S = 2.0
"""After this long without a pulse the owner says so."""
RETRY_S = 0.5
AHEAD = 2
"""Pulses per thread that may be under way when several threads process."""


class Owner(Protocol):
    """What a run needs of the processor."""

    source: PulseSource
    counters: Counters

    @property
    def applied(self) -> tuple[int, Settings]:
        """The settings with their number, read together: a frame has one of them throughout."""

    def deliver(self, result: Result) -> None:
        """Hand a result on; called in order."""

    def source_failed(self, error: Exception) -> None:
        """Count and say that the source raised."""

    def silent(self) -> None:
        """Say that no pulse has come for a while."""

    def begun(self) -> None:
        """Note that the source has started."""

    def ended(self, error: Exception | None) -> None:
        """Note that a run is over, on its own thread."""


def process_pulse(
    pulse: Pulse,
    workspace: Workspace,
    settings_number: int,
    settings: Settings,
    counters: Counters,
) -> Result:
    """Process one pulse with settings, in the calling thread.

    A pulse that cannot be processed, whatever the reason, is one without picture.
    """
    taken_s, now_ns = time.monotonic(), time.time_ns()
    begun = time.perf_counter()
    try:
        spectrum = process(pulse.image, settings, workspace)
    except Exception:
        logger.exception("psss: pulse %d", pulse.pulse_id)
        counters.add("not processed")
        pulse = replace(pulse, image=None)
        spectrum = process(None, settings, workspace)
    return Result(
        pulse,
        spectrum,
        settings,
        settings_number,
        now_ns if pulse.time_ns is None else pulse.time_ns,
        taken_s,
        (time.perf_counter() - begun) * 1e3,
    )


class Run:
    """One time of processing, from start to stop."""

    def __init__(self, owner: Owner, threads: int) -> None:
        self.owner = owner
        self.going = threading.Event()
        self.stopping = threading.Event()
        self.error: SkywrightError | None = None
        self._threads = threads
        self.thread = threading.Thread(target=self._work, name="psss", daemon=True)

    def _work(self) -> None:
        failure: Exception | None = None
        try:
            self.owner.source.start()
        except SkywrightError as error:
            self.error = failure = error
        except Exception as error:
            self.error = failure = HardwareError(f"source: {type(error).__name__}: {error}")
        else:
            self.owner.begun()
            self.going.set()
            try:
                if self._threads == 1:
                    self._alone()
                else:
                    self._side_by_side()
            except Exception as error:  # says "stopped", with the cause
                logger.exception("psss: the processing ended")
                failure = error
        finally:
            self._stop_source()
            self.owner.ended(failure)
            self.going.set()

    def _stop_source(self) -> None:
        try:
            self.owner.source.stop()
        except Exception as error:
            self.owner.source_failed(error)

    def _pulses(self) -> Iterator[Pulse]:
        """Yield pulses until the stop."""
        source, last_s, silent = self.owner.source, time.monotonic(), False
        while not self.stopping.is_set():
            try:
                pulse = source.next(LOOK_S)
            except Exception as error:
                self.owner.source_failed(error)
                self.stopping.wait(RETRY_S)
                continue
            if pulse is not None:
                last_s, silent = time.monotonic(), False
                yield pulse
            elif not silent and time.monotonic() - last_s > SILENCE_S:
                silent = True
                self.owner.silent()

    def _alone(self) -> None:
        workspace = Workspace()
        for pulse in self._pulses():
            self.owner.deliver(
                process_pulse(pulse, workspace, *self.owner.applied, self.owner.counters)
            )

    def _side_by_side(self) -> None:
        """Process in a pool; a thread of its own hands results on in the order of the pulses."""
        under_way: queue.Queue[Future[Result] | None] = queue.Queue(self._threads * AHEAD)
        workspaces = deque(Workspace() for _ in range(self._threads))
        failures: list[Exception] = []

        def one(pulse: Pulse, number: int, settings: Settings) -> Result:
            workspace = workspaces.popleft()
            try:
                return process_pulse(pulse, workspace, number, settings, self.owner.counters)
            finally:
                workspaces.append(workspace)

        def deliver() -> None:
            while (future := under_way.get()) is not None:
                try:
                    self.owner.deliver(future.result())
                except Exception as error:
                    failures.append(error)
                    self.stopping.set()

        delivering = threading.Thread(target=deliver, name="psss-deliver", daemon=True)
        delivering.start()
        with ThreadPoolExecutor(self._threads, "psss-worker") as pool:
            for pulse in self._pulses():
                under_way.put(pool.submit(one, pulse, *self.owner.applied))
            under_way.put(None)
            delivering.join()
        if failures:
            raise failures[0]
