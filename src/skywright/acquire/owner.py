"""The owner of a source: takes its items, processes them, hands each on once and in order."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, TypeVar, cast

from skywright.acquire.acquisition import (
    Acquisition,
    AcquisitionEndpoint,
    Endpoint,
    OwnerState,
    RefusedError,
    Taken,
)
from skywright.acquire.counters import Counters, sum_counts
from skywright.acquire.newest import NewestQueue
from skywright.acquire.outlets import Outlets
from skywright.acquire.source import Source
from skywright.acquire.stage import Stage
from skywright.errors import HardwareError, SkywrightError

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

SILENCE_S = 2.0
"""After this long without an item the owner's message says so."""
DRAIN_S = 5.0
"""Longest time that `Owner.close` waits for items that were taken."""


class Owner(Generic[Item, Result]):
    """Takes items from a source and hands each result to endpoints and recorders, once, in order.

    The source runs while somebody wants items: after `start`, during an acquisition, and as long as
    a queue of `subscribe` asks for it. All methods may be called from any thread.

    Parameters
    ----------
    source
        Where items come from; the owner closes it.
    process
        Turns an item, as `arrived` returns it, into a result. It may raise `RefusedError`; any
        other error counts as ``not processed``. None: the item is the result, and endpoints and
        subscribers get it on the source's thread.
    prepare
        Turns a result into what the recorders take, for results of acquisitions only: work that
        nobody needs who only looks. Errors as for `process`. None: the result itself.
    endpoints
        Take every result. An endpoint that fails is reported and ends nothing.
    recorders
        Take the results of acquisitions. Complete before the first acquisition.
    changed
        Called, from any thread, after the state has changed; must return at once.
    threads
        0 processes on the source's thread, so that a slow owner slows the source down. N
        processes N items side by side on threads of the owner.
    queue_bytes, queue_items, when_full
        For `threads` above 0, as for `Stage`. An item's size is its attribute ``nbytes``, 0 when it
        has none. Items that are dropped count as ``queue full``.
    name
        Name of the owned device in messages: ``camera``.
    item_name
        What an item is called in messages: ``frame``, ``pulse``.
    """

    tells_items = True
    """Whether `changed` is called for each item; else only for what is rarer than items."""
    idle_text = "idle"
    waiting_text = "waiting for the first {item}"
    silence_text = "no {item} from {source} for more than {seconds:g} s"

    def __init__(
        self,
        source: Source[Item],
        process: Callable[[Any], Result] | None = None,
        endpoints: Sequence[Endpoint[Result]] = (),
        recorders: Sequence[AcquisitionEndpoint[Any]] = (),
        changed: Callable[[], None] | None = None,
        *,
        prepare: Callable[[Result], Any] | None = None,
        threads: int = 0,
        queue_bytes: int = 64_000_000,
        queue_items: int = 100_000,
        when_full: Literal["wait", "drop"] = "drop",
        name: str = "owner",
        item_name: str = "item",
    ) -> None:
        self.source, self.recorders = source, list(recorders)
        self.changed = changed or (lambda: None)
        self.counters = Counters()
        """Items lost here, by cause."""
        self.name, self.item_name = name, item_name
        self._outlets: Outlets[Result] = Outlets(name, endpoints)
        self.endpoints = self._outlets.endpoints
        self.failures = self._outlets.failures
        """Errors that cost no item, by cause."""
        self._process, self._prepare = process, prepare
        self._lock = threading.RLock()
        self._control = threading.RLock()
        """Held while the source is started or stopped; never taken on the way of an item."""
        self._users: set[object] = set()
        """Who wants the source to run."""
        self._running: bool | None = False
        """None: it was told to stop, and has not stopped yet."""
        self._acquisition: Acquisition | None = None
        self._newest_kept: Any = None
        self._acquired = 0
        self._message, self._alarm = self.idle_text, False
        self._last_arrival = time.monotonic()
        self._silent = False
        self._closing = False
        self._look = threading.Event()
        self._stage: Stage[tuple[Item, Acquisition | None], Taken] | None = None
        if threads:
            self._stage = Stage(
                self._processed, self._hand_on, threads, queue_bytes, queue_items, when_full, name
            )
        self._watch_thread = threading.Thread(target=self._watch, name=f"{name}-watch", daemon=True)
        self._watch_thread.start()

    # ---- state

    @property
    def is_running(self) -> bool:
        """Whether the source was started."""
        return bool(self._running)

    @property
    def newest(self) -> Result | None:
        """The last result."""
        return self._outlets.newest

    @property
    def newest_kept(self) -> Any:
        """What the recorders got of the last result that counted in an acquisition."""
        return self._newest_kept

    @property
    def acquisition(self) -> Acquisition | None:
        """The acquisition under way."""
        return self._acquisition

    def lost(self) -> dict[str, int]:
        """Return items lost at the source, here and in essential recorders, by cause."""
        recorded = (recorder.lost() for recorder in self.recorders if recorder.essential)
        return sum_counts(self.counters.as_dict(), self.source.lost, *recorded)

    def state(self) -> OwnerState[Result]:
        """Return the present state."""
        lost = self.lost()
        recorded = (recorder.lost() for recorder in self.recorders if not recorder.essential)
        failures = sum_counts(self.failures.as_dict(), *recorded)
        newest, items = self._outlets.progress
        with self._lock:
            acquisition = self._acquisition
            return OwnerState(
                running=self.is_running,
                acquiring=acquisition is not None,
                newest=newest,
                items=items,
                acquired=self._acquired,
                taken=0 if acquisition is None else acquisition.taken,
                lost=lost,
                failures=failures,
                message=self._message,
                alarm=self._alarm,
            )

    def report(self, message: str, alarm: bool = True) -> None:
        """Set the message, and log it when it is another one than before."""
        with self._lock:
            if (message, alarm) == (self._message, self._alarm):
                return
            self._message, self._alarm = message, alarm
        logger.log(logging.WARNING if alarm else logging.INFO, "%s: %s", self.name, message)
        self._notify()

    def _notify(self) -> None:
        self._outlets.call("changed", self.changed)

    # ---- starts and stops

    def start(self) -> None:
        """Run the source until `stop`.

        Raises
        ------
        SkywrightError
            What the source raises; it does not run then.
        """
        self._use(self)

    def stop(self) -> None:
        """Stop the source for all its users; an acquisition under way ends."""
        with self._lock:
            self._users.clear()
        self.stop_acquisition()
        self._run_source()
        self._notify()

    def acquire(
        self, wanted: int = 0, on_item: Callable[[Result], None] | None = None
    ) -> Acquisition:
        """Hand results to the recorders; the source runs until the acquisition ends.

        Parameters
        ----------
        wanted
            Number of items; 0: until `stop_acquisition`.
        on_item
            Called with each result of the acquisition, in order; must return at once. Without a
            `process` it is called as the items arrive, before it is known whether they count.

        Raises
        ------
        HardwareError
            If an acquisition is in progress; `acquisition` is that one.
        SkywrightError
            What the source raises when it cannot start.
        """
        with self._lock:
            if self._acquisition is not None:
                raise HardwareError(
                    f"{self.name}: an acquisition is in progress; stop it first, or wait until "
                    "its items are stored"
                )
            acquisition = self._acquisition = Acquisition(wanted, on_item=on_item)
            self._last_arrival = time.monotonic()
        try:
            self._use(acquisition)
        except SkywrightError:
            self.stop_acquisition()
            raise
        return acquisition

    def stop_acquisition(self) -> Acquisition | None:
        """End the acquisition under way and return it.

        Items that have arrived still belong to it. Its `done` is set when they are stored.
        """
        with self._lock:
            acquisition = self._acquisition
            if acquisition is None:
                return None
            acquisition.stopping = True
            nothing_left = not acquisition.under_way
        if nothing_left:
            self._finish(acquisition)
        return acquisition

    def subscribe(self, depth: int = 1, *, runs_source: bool = False) -> NewestQueue[Result]:
        """Return a queue of the newest results; close it to end the subscription.

        Parameters
        ----------
        depth
            Maximum number of results that wait.
        runs_source
            Whether the source runs as long as this queue is open.
        """
        self._outlets.add(queue := NewestQueue[Result](depth, self._unsubscribe))
        if runs_source:
            self._use(queue)
        return queue

    def close(self) -> None:
        """Stop the source for good, and hand on what was taken."""
        self._closing = True
        self.stop_acquisition()
        try:
            self.stop()
            self.source.close()
        except SkywrightError as error:
            logger.warning("%s: %s", self.name, error)
        if self._stage is not None:
            self._stage.close(DRAIN_S)
        self._look.set()
        self._watch_thread.join(DRAIN_S)

    def _unsubscribe(self, queue: NewestQueue[Result]) -> None:
        self._outlets.remove(queue)
        with self._lock:
            self._users.discard(queue)
        self._run_source()

    def _use(self, user: object) -> None:
        with self._lock:
            self._users.add(user)
        try:
            self._run_source()
        except SkywrightError as error:
            with self._lock:
                self._users.discard(user)
            self.report(f"stopped: {error}")
            raise
        self._notify()

    def _run_source(self) -> None:
        """Run the source when somebody wants it, stop it when nobody does."""
        with self._control:
            with self._lock:
                wanted = bool(self._users) and not self._closing
            if wanted == self._running:
                return
            if wanted:
                self._last_arrival, self._silent = time.monotonic(), False
                self.report(self.waiting_text.format(item=self.item_name), alarm=False)
                self.source_starts()
                self.source.start(self._deliver, self._source_reports)
            else:
                self._running = None
                self.source.stop()
                if self._stage is not None:
                    self._stage.drain(DRAIN_S)
                self.source_stopped()
            self._running = wanted
            self._look.set()
        if not wanted and not self._alarm:  # else the trouble stays to be read
            self.report(self.idle_text, alarm=False)

    def source_starts(self) -> None:
        """Prepare for items, before the source is started; for subclasses."""

    def source_stopped(self) -> None:
        """Act on a stop of the source, when all its items are handed on; for subclasses."""

    # ---- the way of an item

    def _source_reports(self, message: str) -> None:
        self.failures.add("source failed")
        self.report(message)

    def _deliver(self, item: Item) -> None:
        """Take an item, on the source's thread."""
        self._last_arrival = time.monotonic()
        with self._lock:
            acquisition = self._acquisition
            if acquisition is not None and acquisition.stopping:
                acquisition = None
            if acquisition is not None:
                acquisition.under_way += 1
        size = getattr(item, "nbytes", 0)
        try:
            item = self.arrived(item)
        except Exception as error:
            logger.exception("%s: %s cannot be processed", self.name, self.item_name)
            self._hand_on(Taken.unprocessed(error, acquisition))
            return
        if self._process is None:
            self._outlets.hand_out(cast("Result", item))
            if acquisition is not None and acquisition.on_item is not None:
                self._outlets.call("on_item", acquisition.on_item, item)
            if acquisition is None:
                self._report_item(cast("Result", item))
                if self.tells_items:
                    self._notify()
                return
        if self._stage is None:
            self._hand_on(self._processed((item, acquisition)))
        elif not self._stage.put((item, acquisition), size):
            self.counters.add("queue full")
            self._settle(acquisition)
            self.report(f"queue full: {self.item_name}s arrive faster than they are processed")

    def arrived(self, item: Item) -> Any:
        """Return what `process` gets of an item: with settings that change between two items.

        For subclasses. It is called in order, on the source's thread.
        """
        return item

    def _processed(self, taken: tuple[Item, Acquisition | None]) -> Taken:
        """Process an item."""
        item, acquisition = taken
        result: Any = None
        is_result = False
        try:
            result = item if self._process is None else self._process(item)
            is_result = True
            kept = result
            if acquisition is not None and not acquisition.over and self._prepare is not None:
                kept = self._prepare(result)
        except RefusedError as error:
            return Taken(result, is_result, error.result, error, acquisition)
        except Exception as error:  # the next item may be good
            logger.exception("%s: %s cannot be processed", self.name, self.item_name)
            return Taken.unprocessed(error, acquisition, result, is_result)
        return Taken(result, True, kept, None, acquisition)

    def _hand_on(self, taken: Taken) -> None:
        """Hand on what was processed, in order."""
        if taken.is_result and self._process is not None:
            self._outlets.hand_out(taken.result)
        acquisition, refused = taken.acquisition, taken.refused
        if acquisition is not None and acquisition.over and taken.is_result:
            refused = None  # by `prepare`, for an acquisition that had all that it wanted before
        if refused is not None:
            self.counters.add(refused.cause)
        if acquisition is not None:
            refused = self._record(acquisition, taken, refused) or refused
        if refused is not None:
            self.report(f"{refused.cause}: {refused}")
        elif taken.is_result:
            self._report_item(taken.result)
        self._settle(acquisition)
        if self.tells_items:
            self._notify()

    def _record(
        self, acquisition: Acquisition, taken: Taken, refused: RefusedError | None
    ) -> RefusedError | None:
        """Hand on to the recorders, and count; return why a recorder refused."""
        with self._lock:
            if acquisition.over:
                return None
        if taken.kept is not None:
            for recorder in self.recorders:
                try:
                    self._outlets.offer(recorder, taken.kept)
                except RefusedError as error:
                    refused = error
        if refused is not None:
            return refused
        with self._lock:
            if acquisition.over:
                return None
            acquisition.taken += 1
            self._acquired += 1
            self._newest_kept = taken.kept
            complete = bool(acquisition.wanted) and acquisition.taken >= acquisition.wanted
        if self._process is not None and acquisition.on_item is not None:
            self._outlets.call("on_item", acquisition.on_item, taken.result)
        if complete:
            self._finish(acquisition)
        return None

    def _report_item(self, result: Result) -> None:
        """Set the message after a good item."""
        messages: list[tuple[str, bool]] = []
        self._outlets.call("remark", lambda: messages.append(self.remark(result)))
        if failure := self._outlets.failure:
            self.report(failure)
        else:
            self.report(*messages[0])
        self._silent = False

    def remark(self, result: Result) -> tuple[str, bool]:
        """Return the message after a result, and whether somebody should act; for subclasses."""
        return f"taking {self.item_name}s", False

    def expects_items(self) -> bool:
        """Return whether silence of a running source is reported; for subclasses."""
        return True

    def _settle(self, acquisition: Acquisition | None) -> None:
        """Note that an item is handed on, or lost."""
        if acquisition is None:
            return
        with self._lock:
            acquisition.under_way -= 1
            last = acquisition.stopping and not acquisition.under_way
        if last:
            self._finish(acquisition)

    def _finish(self, acquisition: Acquisition) -> None:
        """End an acquisition; `done` is set when the recorders have stored its items."""
        with self._lock:
            if acquisition.over:
                return
            acquisition.stopping = acquisition.over = True
            waiting = [object() for _ in self.recorders] or [object()]

        def one_is_done() -> None:
            with self._lock:
                waiting.pop()
                if waiting:
                    return
                if self._acquisition is acquisition:
                    self._acquisition = None
                self._users.discard(acquisition)
            acquisition.done.set()
            self._look.set()
            self._notify()

        for recorder in self.recorders:
            recorder.mark(one_is_done)
        if not self.recorders:
            one_is_done()

    # ---- the watching thread

    def _watch(self) -> None:
        """Stop a source that nobody wants any more, and report silence."""
        while not self._closing:
            self._look.wait(None if self._running is False else SILENCE_S / 8.0)
            self._look.clear()
            try:
                self._run_source()
            except SkywrightError as error:
                self.report(str(error))
            silent_s = time.monotonic() - self._last_arrival
            is_silent = self.is_running and silent_s > SILENCE_S and self.expects_items()
            if is_silent and not self._silent:
                self._silent = True
                names = {"item": self.item_name, "source": self.source.name}
                self.report(self.silence_text.format(**names, seconds=SILENCE_S))
