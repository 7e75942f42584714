"""The owner of a source: receives items, processes them, publishes each result once, in order."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from skywright.acquire.acquisition import Acquisition, Endpoint, OwnerState, RefusedError
from skywright.acquire.counters import Counters, sum_counts
from skywright.acquire.guarded_calls import GuardedCalls
from skywright.acquire.newest import NewestQueue
from skywright.acquire.operator_message import OperatorMessage
from skywright.acquire.ordered_pool import OrderedPool
from skywright.acquire.pending import NotProcessedError, PendingItem
from skywright.acquire.source import Source
from skywright.errors import HardwareError, SkywrightError, message_of

if TYPE_CHECKING:  # an owner without recorders needs no HDF5
    from skywright.acquire.recorder import Recorder

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

QUEUE_BYTES = 64_000_000
"""Limit of the items in an owner's queue, bytes."""
SILENCE_S = 2.0
"""Time without an item, s, after which a silence is reported."""
DRAIN_S = 5.0
"""Timeout, s, for items in processing, and for the end of an acquisition."""


class Owner(Generic[Item, Result]):
    """Receives items of a source and publishes each result to endpoints and recorders, in order.

    The source runs while it has a user: after `start`, during an acquisition, and while a queue of
    `subscribe(runs_source=True)` is open. All methods may be called from any thread. But `process`,
    `prepare`, endpoints and `on_item` must not start or stop the source, for example by `acquire`
    or the close of a queue: the call may wait for its own thread, until a timeout.

    Parameters
    ----------
    source
        Source of the items; the owner closes it.
    process
        Turns what `process_argument` returns for an item into a result. It may raise
        `RefusedError`; any other error counts as ``not processed``. None: what `process_argument`
        returns is the result, which is published on the source's thread.
    prepare
        Converts a result into what the recorders store. It runs in acquisitions only, so a live
        display does not pay for it. Errors as for `process`. None: the result itself.
    endpoints
        Receive every result. An error of an endpoint is reported; the others still get the result.
    recorders
        Receive the results of acquisitions; the owner does not close them. The list must not change
        after the first acquisition. `Recorder.offer` may block only if `threads` is above 0, or
        if the source may wait. An error of a recorder counts as a failure; a `RefusedError` does
        not, because the recorder has counted the loss.
    changed
        Called, from any thread, after the state has changed; must return at once.
    threads
        0: the source's thread processes each item, so a slow owner slows the source down. N: N
        threads of the owner process items in parallel.
    queue_items, when_full
        As for `OrderedPool`; used if `threads` is above 0. The limit of its bytes is `QUEUE_BYTES`;
        the size of an item is its ``nbytes``, or 0 if it has none. Dropped items count as
        ``queue full``.
    name
        Name of the hardware in messages: ``camera``.
    item_name
        What an item is called in messages: ``frame``, ``pulse``.
    """

    notifies_each_item = True
    """True: `changed` is also called after each item. False: it is called only after a start, a
    stop, the end of an acquisition or a new message."""
    idle_text = "idle"
    """Message while the source is stopped."""
    waiting_text = "waiting for the first {item}"
    """Message after a start."""
    silence_text = "no {item} from {source} for more than {seconds:g} s"
    """Message after `SILENCE_S` without an item."""

    def __init__(
        self,
        source: Source[Item],
        process: Callable[[Any], Result] | None = None,
        endpoints: Sequence[Endpoint[Result]] = (),
        recorders: "Sequence[Recorder[Any, Any]]" = (),
        changed: Callable[[], None] | None = None,
        *,
        prepare: Callable[[Result], Any] | None = None,
        threads: int = 0,
        queue_items: int = 100_000,
        when_full: Literal["wait", "drop"] = "drop",
        name: str = "owner",
        item_name: str = "item",
    ) -> None:
        self.source, self.recorders = source, list(recorders)
        self.changed = changed or (lambda: None)
        self.lost_in_owner = Counters()
        """Number of items lost in the owner, by cause."""
        self.name, self.item_name = name, item_name
        self._calls = GuardedCalls(name)
        self.endpoints = list(endpoints)
        """Take every result; more may be added."""
        self.newest: Result | None = None
        """The last result; None before the first."""
        self._items = 0
        """Number of results."""
        self._queues: tuple[NewestQueue[Result], ...] = ()
        """The open queues."""
        self._process, self._prepare = process, prepare
        self._lock = threading.RLock()
        self._source_lock = threading.RLock()
        """Held while the source starts or stops; never acquired by the thread that delivers
        items."""
        self._users: set[object] = set()
        """Objects that need the source to run: the owner itself, acquisitions, queues."""
        self._running: bool | None = False
        """True: the source was started; False: it is stopped; None: it is stopping, or its last
        stop failed."""
        self._closing = False
        self.acquisition: Acquisition | None = None
        """The present acquisition, None if there is none."""
        self.last_recorded: Any = None
        """What the recorders got of the last item that an acquisition counted."""
        self._acquired = self._acquisition_items = 0
        self.message = OperatorMessage(name, self.idle_text, self._on_message)
        """The message for the operator."""
        self._logs_next_traceback = True
        """Whether the traceback of the next processing error is logged. After that none is, until
        a message that is no alarm: all tracebacks could fill the disk."""
        self._silent_since = time.monotonic()
        """Time of the last arrival, start of the source or start of an acquisition."""
        self._reported_silence_start = 0.0
        """`_silent_since` when a silence was reported last."""
        self._last_source_report = ""
        """The last alarm of the source since the last arrival; empty: none."""
        self._wake_monitor = threading.Event()
        self._pool: OrderedPool[PendingItem] | None = None
        if threads:
            self._pool = OrderedPool(
                self._process_item,
                self._finish_item,
                threads,
                QUEUE_BYTES,
                queue_items,
                when_full,
                name,
            )
        self._monitor_thread = threading.Thread(
            target=self._monitor, name=f"{name}-watch", daemon=True
        )
        self._monitor_thread.start()

    # ---- state

    @property
    def is_started(self) -> bool:
        """Whether the source was started. True until the owner stops it, even if it has ended."""
        return bool(self._running)

    @property
    def lost(self) -> dict[str, int]:
        """Number of lost items, by cause: in source, owner and essential recorders."""
        losses = (recorder.lost for recorder in self.recorders if recorder.essential)
        return sum_counts(self.lost_in_owner.as_dict(), self.source.lost, *losses)

    def state(self) -> OwnerState[Result]:
        """Return the present state."""
        lost = self.lost
        losses = (recorder.lost for recorder in self.recorders if not recorder.essential)
        failures = sum_counts(self._calls.failures.as_dict(), *losses)
        message, alarm = self.message.present
        with self._lock:
            return OwnerState(
                running=self.is_started,
                acquiring=self.acquisition is not None,
                newest=self.newest,
                items=self._items,
                acquired=self._acquired,
                acquisition_items=self._acquisition_items,
                lost=lost,
                failures=failures,
                message=message,
                alarm=alarm,
            )

    def report(self, message: str, alarm: bool = True) -> None:
        """Set the message, and log it if it differs from the present one.

        If only digits differ, it is logged at DEBUG: such a message may follow each item.
        """
        self.message.report(message, alarm)

    def _on_message(self) -> None:
        self._logs_next_traceback |= not self.message.alarm
        self._notify()

    def _notify(self) -> None:
        self._calls.call("changed", self.changed)

    # ---- starts and stops

    def start(self) -> None:
        """Run the source until `stop` or `stop_if_unused`.

        Raises
        ------
        SkywrightError
            If the owner is closed, or the source cannot start.
        """
        with self._lock:
            self._users.add(self)
        self._run_source_for(self)

    def stop_if_unused(self) -> None:
        """Stop the source that `start` started, unless an acquisition or a queue still needs it.

        The source then stops when the last of these ends.

        Raises
        ------
        SkywrightError
            If the source cannot stop in time.
        """
        with self._lock:
            self._users.discard(self)
        self._start_or_stop_source()

    def stop(self) -> None:
        """Stop the source for all its users, and end the present acquisition.

        Raises
        ------
        SkywrightError
            If the source cannot stop in time.
        """
        with self._lock:
            self._users.clear()
        self.stop_acquisition()
        self._start_or_stop_source()
        self._notify()

    def acquire(
        self,
        requested: int = 0,
        on_item: Callable[[Result], None] | None = None,
        *,
        may_join: bool = False,
    ) -> Acquisition:
        """Start an acquisition: results go to the recorders until it ends.

        If the present acquisition is ending, wait for its end, at most `DRAIN_S`: it takes no new
        items, so this call can neither join it nor replace it yet.

        Parameters
        ----------
        requested
            Number of items; 0: until `stop_acquisition`.
        on_item
            Called with each result when it is published, in order, until the acquisition has its
            items; must not block. It is not known yet whether the item counts, so there may be
            more than `requested` calls.
        may_join
            True: if an acquisition is in progress, return it. The other arguments have no effect
            then.

        Raises
        ------
        HardwareError
            If an acquisition is in progress and `may_join` is False, or has not ended in time.
        SkywrightError
            If the owner is closed, or the source cannot start.
        """
        while True:
            # If another client starts the source for its acquisition, this waits for the outcome:
            # if the source cannot start, there is no acquisition to join
            with self._source_lock:
                acquisition = self.acquisition
                if acquisition is None:
                    return self._new_acquisition(requested, on_item)
            if not acquisition.stopping:
                if may_join:
                    return acquisition
                raise HardwareError(f"{self.name}: an acquisition is in progress; stop it first")
            if not acquisition.done.wait(DRAIN_S):
                raise HardwareError(
                    f"{self.name}: the acquisition in progress has not ended in time"
                )

    def _new_acquisition(
        self, requested: int, on_item: Callable[[Result], None] | None
    ) -> Acquisition:
        """Start an acquisition; the caller holds `_source_lock`."""
        self._calls.forget("on_item")  # the error in the previous acquisition
        with self._lock:
            acquisition = self.acquisition = Acquisition(requested, on_item=on_item)
            self._acquisition_items = 0
            # Together with `acquisition`, because a running source may deliver the last item at
            # once: the end of the acquisition must find this user to remove it
            self._users.add(acquisition)
            self._silent_since = time.monotonic()
        try:
            self._run_source_for(acquisition)
        except Exception:
            self.stop_acquisition()
            raise
        return acquisition

    def stop_acquisition(self) -> Acquisition | None:
        """End the present acquisition and return it; None if there is none.

        Items that have arrived belong to it. Its `done` is set when they are stored.
        """
        with self._lock:
            acquisition = self.acquisition
            if acquisition is None:
                return None
            acquisition.stopping = True
            nothing_left = not acquisition.items_in_processing
        if nothing_left:
            self._end_acquisition(acquisition)
        return acquisition

    def subscribe(self, depth: int = 1, *, runs_source: bool = False) -> NewestQueue[Result]:
        """Return a queue of the newest results; close it to end the subscription.

        Parameters
        ----------
        depth
            Maximum number of results that wait.
        runs_source
            True: the source runs while this queue is open, or until `Owner.stop`.

        Raises
        ------
        SkywrightError
            With `runs_source`: if the owner is closed, or the source cannot start.
        """
        queue = NewestQueue[Result](depth, self._unsubscribe)
        with self._lock:
            self._queues = (*self._queues, queue)
            if runs_source:
                self._users.add(queue)
        if runs_source:
            try:
                self._run_source_for(queue)
            except Exception:  # nobody gets the queue, so nobody can close it
                self._remove_queue(queue)
                raise
        return queue

    @property
    def closed(self) -> bool:
        """Whether `close` was called: the source stops, or has stopped."""
        return self._closing

    def close(self) -> None:
        """Stop and close the source, and process the items that are still queued."""
        self._closing = True
        for end in (self.stop, self.source.close):  # a source that does not stop is closed too
            try:
                end()
            except Exception as error:  # the other steps follow
                is_known = isinstance(error, SkywrightError)
                logger.warning("%s: %s", self.name, error, exc_info=not is_known)
        if self._pool is not None:
            self._pool.close(DRAIN_S)
        self._wake_monitor.set()
        self._monitor_thread.join(DRAIN_S)

    def _remove_queue(self, queue: NewestQueue[Result]) -> None:
        with self._lock:
            self._queues = tuple(each for each in self._queues if each is not queue)
            self._users.discard(queue)

    def _unsubscribe(self, queue: NewestQueue[Result]) -> None:
        self._remove_queue(queue)
        self._start_or_stop_source()

    def _run_source_for(self, user: object) -> None:
        """Start the source for a new user; remove the user if it cannot start."""
        if self._closing:
            with self._lock:
                self._users.discard(user)
            raise HardwareError(f"{self.name}: it is closed")
        try:
            self._start_or_stop_source()
        except Exception as error:
            with self._lock:
                self._users.discard(user)
            self.report(f"stopped: {message_of(error)}")
            raise
        self._notify()

    def _start_or_stop_source(self) -> None:
        """Start the source if it has users, else stop it; call `changed` if it did either."""
        with self._source_lock:
            with self._lock:
                should_run = bool(self._users) and not self._closing
            if should_run == self._running:
                return
            if should_run:
                self._start_source()
            else:
                self._stop_source()
            self._running = should_run
            self._wake_monitor.set()
        self._notify()

    def _start_source(self) -> None:
        self._silent_since, self._last_source_report = time.monotonic(), ""
        self.message.report_start(self.waiting_text.format(item=self.item_name))
        self.before_source_start()
        self.source.start(self._receive, self._on_source_report)

    def _stop_source(self) -> None:
        self._running = None
        self.source.stop()
        if self._pool is not None:
            self._pool.drain(DRAIN_S)
        self._calls.call("after_source_stop", self.after_source_stop)
        # Forget the error; else it is reported again with each item after the next start
        if failure := self._calls.forget("after_source_stop"):
            self.report(failure)
        self.message.report_stop(self.idle_text)

    def before_source_start(self) -> None:
        """Prepare for items; for subclasses. Called before each start of the source."""

    def after_source_stop(self) -> None:
        """Act on a stop of the source; for subclasses.

        Called after each stop, when the items of the source are published, or after `DRAIN_S`.
        """

    # ---- processing one item

    def _on_source_report(self, message: str, alarm: bool = True, /) -> None:
        if alarm:
            self._calls.failures.add("source failed")
            self._last_source_report = message
            self.report(message)
        else:
            self.message.report_change(message)

    def _receive(self, item: Item) -> None:
        """Receive an item, on the source's thread."""
        self._silent_since, self._last_source_report = time.monotonic(), ""
        with self._lock:
            acquisition = self.acquisition
            if acquisition is None or acquisition.stopping:
                acquisition = None
            else:
                acquisition.items_in_processing += 1
        pending = PendingItem(acquisition)
        try:
            pending.argument = self.process_argument(item)
        except Exception as error:  # the next item may be good
            pending.refuse(error)
        is_result = self._process is None and pending.refused is None
        if is_result:  # clients get it now, not after the items that wait in the queue
            self._publish(pending.argument, acquisition)
        # A published result of no acquisition need not wait: nothing of it is recorded
        if self._pool is None or (is_result and acquisition is None):
            self._process_item(pending)
            self._finish_item(pending)
        # A refused item is put into the queue too, to keep the order
        elif not self._pool.put(pending, getattr(item, "nbytes", 0)):
            self.lost_in_owner.add("queue full")
            self._leave_acquisition(acquisition)
            self.report(f"queue full: {self.item_name}s arrive faster than they are processed")

    def _publish(self, result: Result, acquisition: Acquisition | None) -> None:
        """Give a result to all clients but the recorders; one thread at a time does."""
        # Endpoints first: a client that reads the count must find the result at the endpoint
        for endpoint in self.endpoints:
            self._calls.call(type(endpoint).__name__, endpoint.offer, result, key=id(endpoint))
        with self._lock:
            self.newest = result
            self._items += 1
            queues = self._queues
        for queue in queues:
            queue.offer(result)
        if acquisition is None or acquisition.is_final or acquisition.on_item is None:
            self._calls.forget("on_item")  # forget its error when its acquisition is over
        else:
            self._calls.call("on_item", acquisition.on_item, result)

    def process_argument(self, item: Item) -> Any:
        """Return the argument of `process` for this item.

        Subclasses override it to add the settings that are valid for this item. It is called in
        the order of the items, on the source's thread.
        """
        return item

    def _process_item(self, item: PendingItem) -> None:
        """Process an item, unless it is refused; an error of `process` or `prepare` refuses it."""
        if item.refused is not None:
            return
        acquisition = item.acquisition
        try:
            item.result = self._process(item.argument) if self._process else item.argument
            item.has_result, item.to_record = True, item.result
            if self._prepare and acquisition is not None and not acquisition.is_final:
                item.to_record = self._prepare(item.result)
        except Exception as error:  # the next item may be good
            item.refuse(error)

    def _finish_item(self, item: PendingItem) -> None:
        """Publish the result of `process`, and record it.

        It is called in the order of the items. Only a result that `_receive` has published, and
        that belongs to no acquisition, does not wait for the items in the pool.
        """
        acquisition, refused = item.acquisition, item.refused
        if item.has_result and self._process is not None:  # else `_receive` published it
            self._publish(item.result, acquisition)
        if acquisition is not None and acquisition.is_final and item.has_result:
            # The endpoints have the result, so only `prepare` can have refused it. That is no loss,
            # because the acquisition was complete before this item
            refused = None
        if refused is not None:
            self.lost_in_owner.add(refused.cause)
        if acquisition is not None and not acquisition.is_final:
            refused = self._record(item.to_record) or refused
            if refused is None:
                self._count(acquisition, item.to_record)
        if refused is not None:
            if isinstance(refused, NotProcessedError) and self._logs_next_traceback:
                what = f"{self.name}: {self.item_name}"
                logger.error("%s cannot be processed", what, exc_info=refused.__cause__)
                self._logs_next_traceback = False
            self.message.report_bad_item(f"{refused.cause}: {refused}")
        elif item.has_result:
            self._report_item(item.result)
        self._leave_acquisition(acquisition)
        if self.notifies_each_item:
            self._notify()

    def _record(self, result: Any) -> RefusedError | None:
        """Give a result to the recorders; return the refusal of an essential one, if any."""
        if result is None:
            return None
        refused = None
        for recorder in self.recorders:
            try:
                # An error of a recorder that is not essential is a failure: the item counts
                self._calls.call(
                    type(recorder).__name__,
                    recorder.offer,
                    result,
                    key=id(recorder),
                    may_refuse=True,
                    raises=recorder.essential,
                )
            except RefusedError as error:  # the recorder counts the loss
                refused = error
            except Exception as error:
                self.lost_in_owner.add("not written")
                refused = RefusedError("not written", message_of(error))
        return refused

    def _count(self, acquisition: Acquisition, recorded: Any) -> None:
        """Count an item of an acquisition, and end the acquisition after its last item."""
        with self._lock:
            acquisition.items += 1
            self._acquired += 1
            self._acquisition_items = acquisition.items
            self.last_recorded = recorded
            complete = bool(acquisition.requested) and acquisition.items >= acquisition.requested
        if complete:
            self._end_acquisition(acquisition)

    def _report_item(self, result: Result) -> None:
        """Set the message after an item that is not refused."""
        message = self._calls.call("status_message", self.status_message, result)
        if failure := self._calls.failure:
            self.message.report_bad_item(failure)
        else:
            self.message.report_item(message)

    def status_message(self, result: Result) -> tuple[str, bool] | None:
        """Return the message after a result, and whether it is an alarm; for subclasses.

        None: the present message stays. A message that is no alarm replaces an alarm of `report`,
        or a message of the source, only after `operator_message.HOLD_S`; but the first result after
        a reported silence replaces them at once. If this method returns None for that result, the
        last message that it returned is set again.
        """
        return f"taking {self.item_name}s", False

    def expects_items(self) -> bool:
        """Return whether silence of a running source is reported; for subclasses."""
        return True

    def _leave_acquisition(self, acquisition: Acquisition | None) -> None:
        """Note that the owner is done with an item; end a stopping acquisition after the last."""
        if acquisition is None:
            return
        with self._lock:
            acquisition.items_in_processing -= 1
            last = acquisition.stopping and not acquisition.items_in_processing
        if last:
            self._end_acquisition(acquisition)

    def _end_acquisition(self, acquisition: Acquisition) -> None:
        """End an acquisition; `done` is set when the recorders have stored its items."""
        with self._lock:
            if acquisition.is_final:
                return
            acquisition.stopping = acquisition.is_final = True
        not_done = set(range(len(self.recorders) + 1))  # the recorders, and this call

        def finish(number: int) -> None:
            with self._lock:
                is_last = not_done == {number}
                not_done.discard(number)
                if not is_last:
                    return
                if self.acquisition is acquisition:
                    self.acquisition = None
                self._users.discard(acquisition)
            acquisition.done.set()
            self._wake_monitor.set()
            self._notify()

        for number, recorder in enumerate(self.recorders):
            done, key = partial(finish, number), (id(recorder), "end_acquisition")
            name, end = type(recorder).__name__, recorder.end_acquisition
            try:
                self._calls.call(name, end, done, key=key, raises=True)
            except Exception as error:  # it is counted, and the other recorders end the acquisition
                self.report(f"{name}: {message_of(error)}")
                done()
        finish(len(self.recorders))

    # ---- the monitoring thread

    def _monitor(self) -> None:
        """Start or stop the source if needed, show the message after an alarm, and report silence.

        An acquisition may end on the source's thread, which cannot stop the source itself.
        """
        while not self._closing:
            self._wake_monitor.wait(None if self._running is False else SILENCE_S / 8.0)
            self._wake_monitor.clear()
            try:
                self._start_or_stop_source()
            except Exception as error:  # this thread must continue
                message = message_of(error)
                # Log it once: this thread tries again several times in a second
                if not isinstance(error, SkywrightError) and message != self.message.text:
                    logger.exception("%s: the source cannot start or stop", self.name)
                self.report(message)
            self.message.show_waiting()
            start = self._silent_since
            is_silent = self.is_started and time.monotonic() - start > SILENCE_S
            # Each silence is reported once
            if is_silent and self.expects_items() and self._reported_silence_start != start:
                self._reported_silence_start = start
                names = {"item": self.item_name, "source": self.source.name}
                silence = self.silence_text.format(**names, seconds=SILENCE_S)
                why = self._last_source_report
                self.message.report_silence(f"{silence}; {why}" if why else silence)
