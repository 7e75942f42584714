"""The owner of the spectrometer's pulses: takes them, processes them, hands results on in order.

One thread takes and, by default, processes; with more threads pictures are processed side by side
and their results put in order again. Whoever gets results never makes a pulse wait.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from skywright.acquire.counters import Counters
from skywright.acquire.newest import NewestQueue
from skywright.errors import HardwareError, SkywrightError
from skywright.instruments.psss.processing import Settings
from skywright.instruments.psss.pulse import PulseSource
from skywright.instruments.psss.results import (
    Acquisition,
    AcquisitionSink,
    ProcessorState,
    Result,
    Sink,
    picture_of,
    remark,
)
from skywright.instruments.psss.run import SILENCE_S, Run
from skywright.instruments.psss.served import Statistics

logger = logging.getLogger(__name__)

START_LIMIT_S = STOP_LIMIT_S = 1.0
BARE_MAX = 100
"""Number of consecutive pulses without an image that is still normal.

A camera may run at a fraction of the machine's rate."""


class Processor:
    """The owner. All methods may be called from any thread.

    Parameters
    ----------
    source
        Where pulses come from; silent until `start`.
    settings
        What pulses are processed with at first.
    threads
        Pictures processed side by side.
    changed
        Called, from any thread, after the state has changed; must return at once.
    """

    def __init__(
        self,
        source: PulseSource,
        settings: Settings | None = None,
        threads: int = 1,
        changed: Callable[[], None] | None = None,
    ) -> None:
        self.source = source
        self.counters = Counters()
        """Pulses lost here, by cause."""
        self.failures = Counters()
        """What failed and did not cost a pulse, or nobody knows how many, by cause."""
        self.statistics = Statistics()
        self.sinks: list[Sink] = []
        """Get every result; complete before the first `start`."""
        self.recorders: list[AcquisitionSink] = []
        """Get the results of acquisitions; complete before the first `start`."""
        self.losses: list[Callable[[], Mapping[str, int]]] = []
        """Tell which pulses were lost behind it, by cause, since the start of the process."""
        self.tell_failures: list[Callable[[], Mapping[str, int]]] = []
        """Tell what else failed behind it, by cause, since the start of the process."""
        self.on_stop: Callable[[], None] = lambda: None
        """Called when a time of processing is over, in order or not."""
        self.tell_unsent: Callable[[], Mapping[str, int]] = dict
        """Tells what the output could not send, by cause, since the start of the process."""
        self.changed = changed or (lambda: None)
        self._notes: dict[str, str] = {}
        self._threads = threads
        self._lock = threading.RLock()
        self._control = threading.RLock()
        self._changing = threading.Lock()
        self._applied = (0, settings or Settings())
        self._feeds: tuple[NewestQueue[Result], ...] = ()
        self._acquisition: Acquisition | None = None
        self._started_by_acquisition = False
        self._run: Run | None = None
        self._newest: Result | None = None
        self._shape, self._dtype = (0, 0), ""
        self._bare = 0
        """Pulses without a picture since the last one that had one."""
        self._pulses = self._acquired = 0
        self._lost_before: Counter[str] = Counter()
        """At the source, in runs that are over; it counts from its start."""
        self._counts_source = False
        self._failing: dict[int, str] = {}
        """Faces whose last result failed, by `id`."""
        self._message, self._alarm = "stopped", False

    # ---- state

    @property
    def processing(self) -> bool:
        """Whether it was started and goes on."""
        run = self._run
        return run is not None and run.thread.is_alive() and not run.stopping.is_set()

    @property
    def settings(self) -> Settings:
        """What the next pulse will be processed with."""
        return self._applied[1]

    @property
    def applied(self) -> tuple[int, Settings]:
        """The settings with their number, read together: a frame has one of them throughout."""
        return self._applied

    @property
    def newest(self) -> Result | None:
        """The last result."""
        return self._newest

    def lost(self) -> dict[str, int]:
        """Return pulses lost, by cause, since the start of the process."""
        with self._lock:
            at_source = Counter(self._lost_before)
            if self._counts_source:
                at_source.update(self.source.lost)
        return _sum(self.counters.as_dict(), at_source, *(tell() for tell in self.losses))

    def state(self) -> ProcessorState:
        """Return the present state."""
        lost = self.lost()
        failures = _sum(self.failures.as_dict(), *(tell() for tell in self.tell_failures))
        with self._lock:
            note = next(iter(self._notes.values()), "")
            acquisition = self._acquisition
            number, settings = self._applied
            return ProcessorState(
                processing=self.processing,
                acquiring=acquisition is not None,
                newest=self._newest,
                shape=self._shape,
                dtype=self._dtype,
                pulses=self._pulses,
                taken=0 if acquisition is None else acquisition.taken,
                acquired=self._acquired,
                settings=settings,
                settings_number=number,
                lost=lost,
                failures=failures,
                unsent=dict(self.tell_unsent()),
                message=note or self._message,
                alarm=bool(note) or self._alarm,
            )

    @property
    def notes(self) -> dict[str, str]:
        """Messages that hold now, by subject."""
        with self._lock:
            return dict(self._notes)

    def note(self, subject: str, text: str = "") -> None:
        """Show a message as long as it holds, whatever the pulses do; empty takes it back."""
        with self._lock:
            if self._notes.get(subject, "") == text:
                return
            self._notes.pop(subject, None)
            if text:
                self._notes[subject] = text
                logger.warning("psss: %s", text)
        self.changed()

    def _say(self, message: str, alarm: bool = False) -> None:
        with self._lock:
            if (message, alarm) == (self._message, self._alarm):
                return
            self._message, self._alarm = message, alarm
        logger.log(logging.WARNING if alarm else logging.INFO, "psss: %s", message)
        self.changed()

    # ---- what others ask for

    def start(self) -> None:
        """Start to process; nothing happens if it runs.

        Raises
        ------
        HardwareError
            If the source does not get going within `START_LIMIT_S`.
        SkywrightError
            What the source raises.
        """
        with self._control:
            with self._lock:
                self._started_by_acquisition = False
            self._ensure_running()

    def stop(self) -> None:
        """Stop; nothing happens if it is stopped. An acquisition under way ends.

        Raises
        ------
        HardwareError
            If the thread has not ended within `STOP_LIMIT_S`.
        """
        with self._control:
            run, self._run = self._run, None
            if run is not None:
                run.stopping.set()
                try:
                    self.source.stop()  # ends its wait for a pulse
                except Exception as error:
                    self.source_failed(error)
                run.thread.join(STOP_LIMIT_S)
                if run.thread.is_alive():
                    self._run = run
                    raise HardwareError(
                        f"the processing has not stopped within {STOP_LIMIT_S:g} s; ask again"
                    )
            with self._lock:
                acquisition = self._acquisition
            if acquisition is not None:
                self._finish(acquisition)
            if run is not None:
                self._say("stopped")
            self.changed()

    def change(self, **changes: Any) -> Settings:
        """Change settings, all or none, from the next pulse on; equal values are no change.

        Parameters
        ----------
        **changes
            Fields of `Settings`.

        Raises
        ------
        ConfigError
            If a value is not allowed; the last settings stay.
        """
        with self._changing:  # not `_lock`: no pulse waits while a background is looked through
            number, before = self._applied
            settings = replace(before, **changes)
            if not settings.is_same(before):
                self._applied = number + 1, settings
        for name in changes:
            self.note(name)  # what was said of a refused value is over
        self.changed()
        return settings

    def acquire(self, wanted: int = 0) -> Acquisition:
        """Hand pulses to the recorders; starts the processing, for its own time, if it is stopped.

        Parameters
        ----------
        wanted
            Number of pulses, 0 takes them until `stop_acquisition`.

        Returns
        -------
        Acquisition
            The one under way, if there is one.

        Raises
        ------
        SkywrightError
            If the processing cannot be started.
        """
        with self._control:
            with self._lock:
                if self._acquisition is not None:
                    return self._acquisition
                acquisition = self._acquisition = Acquisition(wanted)
                self._started_by_acquisition = not self.processing
            try:
                self._ensure_running()
            except SkywrightError:
                self._finish(acquisition)
                raise
        self.changed()
        return acquisition

    def stop_acquisition(self) -> Acquisition | None:
        """End the acquisition under way and return it; its `done` follows."""
        with self._lock:
            acquisition = self._acquisition
        if acquisition is not None:
            self._finish(acquisition)
        return acquisition

    def subscribe(self, depth: int = 1) -> NewestQueue[Result]:
        """Return a feed of results, from now on; what is not fetched is pushed out."""
        feed: NewestQueue[Result] = NewestQueue(depth)
        with self._lock:
            self._feeds = (*self._feeds, feed)
        return feed

    def unsubscribe(self, feed: NewestQueue[Result]) -> None:
        """End a feed."""
        with self._lock:
            self._feeds = tuple(each for each in self._feeds if each is not feed)

    def close(self) -> None:
        """Stop; what was taken is still handed on."""
        try:
            self.stop()
        except HardwareError as error:
            logger.warning("psss: %s", error)

    # ---- the processing

    def _ensure_running(self) -> None:
        run = self._run
        if run is not None and run.stopping.is_set():
            run.thread.join(STOP_LIMIT_S)
            if run.thread.is_alive():
                raise HardwareError("the processing is still stopping; ask again")
        if not self.processing:
            self._begin()

    def _begin(self) -> None:
        run = self._run = Run(self, self._threads)
        self.statistics.begin()
        self._say("waiting for pulses")  # before the run has more to say
        run.thread.start()
        if not run.going.wait(START_LIMIT_S):
            run.stopping.set()
            why = f"{self._message}; " if self._alarm else ""
            raise HardwareError(f"{why}the processing did not get going within {START_LIMIT_S:g} s")
        if run.error is not None:
            self._run = None
            raise run.error

    def deliver(self, result: Result) -> None:
        """Hand a result on; called in order by the run's thread."""
        self.statistics.processed(result.duration_ms, result.taken_s)  # who has it finds it counted
        for sink in self.sinks:
            self._offer(sink, result)
        image = picture_of(result)
        with self._lock:
            self._newest = result
            if image is not None:
                self._shape, self._dtype = image.shape, image.dtype.name
            self._pulses += 1
            acquisition, feeds = self._acquisition, self._feeds
        for feed in feeds:
            feed.offer(result)
        if acquisition is not None:
            self._record(acquisition, result)
        self._bare = 0 if image is not None else self._bare + 1
        failure = next(iter(self._failing.values()), "")
        if failure:
            self._say(failure, alarm=True)
        elif image is not None:
            self._say(*remark(result, image))
        elif self._bare > BARE_MAX:
            self._say("pulses come without a picture", alarm=True)

    def _record(self, acquisition: Acquisition, result: Result) -> None:
        with self._lock:
            if acquisition.over:
                return
            for recorder in self.recorders:
                self._offer(recorder, result)
            acquisition.taken += 1
            self._acquired += 1
            complete = acquisition.taken == acquisition.wanted
        if complete:
            self._finish(acquisition)

    def _offer(self, sink: Sink, result: Result) -> None:
        name = type(sink).__name__
        try:
            sink.offer(result)
        except Exception as error:  # a face that fails must not end the pulses
            self.failures.add(f"{name} failed")
            if id(sink) not in self._failing:
                logger.exception("psss: %s failed", name)
            self._failing[id(sink)] = f"{name}: {error}"
        else:
            self._failing.pop(id(sink), None)

    def _finish(self, acquisition: Acquisition) -> None:
        """End an acquisition: no pulse is added, and `done` is set when all are kept."""
        with self._lock:
            if acquisition.over:
                return
            acquisition.over = True
            waiting = [object() for _ in self.recorders]
            if self._started_by_acquisition and self._run is not None:
                self._run.stopping.set()
                self._started_by_acquisition = False

        def one_is_done() -> None:
            with self._lock:
                if waiting:
                    waiting.pop()
                if waiting:
                    return
                if self._acquisition is acquisition:
                    self._acquisition = None
            acquisition.done.set()
            self.changed()

        if not self.recorders:
            one_is_done()
        for recorder in self.recorders:
            recorder.mark(one_is_done)

    def source_failed(self, error: Exception) -> None:
        """Count and say that the source raised."""
        self.failures.add("source failed")
        self._say(f"source: {error}", alarm=True)

    def silent(self) -> None:
        """Say that no pulse has come for a while."""
        self._say(f"no pulse for more than {SILENCE_S:g} s", alarm=True)

    def begun(self) -> None:
        """Note that the source has started, and what it counts is of this run."""
        with self._lock:
            self._counts_source = True

    def ended(self, error: Exception | None) -> None:
        """Note that a run is over, on its own thread."""
        with self._lock:
            if self._counts_source:
                self._lost_before.update(self.source.lost)
            self._counts_source = False
        self.on_stop()
        if error is not None:
            self._say(f"stopped: {error}", alarm=True)
        elif not self._alarm:
            self._say("stopped")
        self.changed()


def _sum(*counts: Mapping[str, int]) -> dict[str, int]:
    """Return counts by cause, those that are not 0."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return {cause: count for cause, count in total.items() if count}
