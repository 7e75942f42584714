"""The interface of every source, and a base class for sources that are polled.

A source delivers *items*: frames, pulses, packets or events. Each item carries its identity (frame
number, pulse id, tag) and its time. Simulated, replayed and real sources of an instrument have this
interface and deliver the same class of items.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

from skywright.errors import HardwareError, SkywrightError, message_of

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
SourceItem = TypeVar("SourceItem", covariant=True)


class Report(Protocol):
    """Takes a message for the operator."""

    def __call__(self, message: str, alarm: bool = True, /) -> None:
        """Take a message.

        Parameters
        ----------
        message
            An error, the end of the items, or another fact that the operator should know.
        alarm
            False: nothing is wrong, for example if the facility has begun a new run.
        """


POLL_TIMEOUT_S = 0.2
"""Timeout of one call of `next`, s; the stop flag is checked after each call."""


class Source(Protocol[SourceItem]):
    """Delivers items on a thread of its own.

    All methods may be called from any thread. Only `start` must not be called from the thread that
    delivers items.

    A source delivers nothing before `start`. The identities increase, also from one start to the
    next. A missing identity is an item that was lost, or that was sent while the source was
    stopped. If the sender restarts, its identities begin again; that is no loss. A replay that
    repeats its file goes on with larger identities.
    """

    name: str
    """Kind of source, for messages and PVs: ``sim``, ``replay``, ``udp``."""
    period_s: float
    """Time between items, s; 0 if the sender sets it."""

    @property
    def lost(self) -> Mapping[str, int]:
        """Number of items lost in the source, by cause, since the object was made."""

    def start(self, deliver: Callable[[SourceItem], None], report: Report) -> None:
        """Start to deliver items. Does nothing if the source runs.

        Parameters
        ----------
        deliver
            Called with each item, by one thread at a time. It may block, while the owner processes
            the item on this thread or waits for room in its queue.
        report
            Called with a message after an error that did not end the source, at the end of the
            items, and, with ``alarm`` False, after a change that is no error.

        Raises
        ------
        SkywrightError
            If the source cannot start.
        """

    def stop(self) -> None:
        """Stop. No item is delivered after this has returned. `start` may be called again.

        Raises
        ------
        SkywrightError
            If the source cannot stop in time.
        """

    def set_period(self, seconds: float) -> float | None:
        """Request a time between items, s; return the time in use, None if it cannot be changed."""

    def close(self) -> None:
        """Stop, and free sockets, files and threads for good."""


class PolledSource(Generic[Item]):
    """Base class of sources that are polled for their next item, on a thread of this class.

    A subclass overrides `next`, and `open` and `halt` if it uses a socket or a file.

    Parameters
    ----------
    name
        Kind of source.
    """

    period_s = 0.0
    """Time between items, s; 0 if the sender sets it."""
    retry_s = 0.5
    """Pause after an error of `next`, s, so that a persistent error does not fill the log."""
    start_limit_s = 1.0
    """Timeout of `open`, s."""
    stop_limit_s = 1.0
    """Maximum wait for the end of the source's thread, s, in `stop` and in `start`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._control = threading.RLock()
        self._run: _Run[Item] | None = None

    # ---- methods that a subclass overrides

    def open(self) -> None:
        """Get ready, on the source's thread: connect, open the file.

        Raises
        ------
        SkywrightError
            If that fails; `start` raises it.
        """

    def next(self, timeout_s: float) -> Item | None:
        """Return the next item, or None when there is none within `timeout_s`.

        Raises
        ------
        StopIteration
            When no more items will come; its text is reported.
        Exception
            Any other error is reported; `next` is called again after `retry_s`.
        """
        raise NotImplementedError

    def halt(self) -> None:
        """Make a running `next` in another thread return soon, and release what `open` acquired.

        It is called by `stop`, and again at the end of the source's thread: a second call must have
        no effect.
        """

    @property
    def lost(self) -> Mapping[str, int]:
        """Number of items lost in the source, by cause, since the object was made."""
        return {}

    def set_period(self, seconds: float) -> float | None:
        """Return None: this source cannot change the time between items."""
        return None

    def report(self, message: str, alarm: bool = True, /) -> None:
        """Report a message of this source; see `Report`. While the source is stopped, log it."""
        if (run := self._run) is not None:
            run.report(message, alarm)
        else:
            logger.log(logging.WARNING if alarm else logging.INFO, "%s: %s", self.name, message)

    # ---- the interface of a source

    @property
    def is_running(self) -> bool:
        """Whether the source was started and has not stopped or ended."""
        run = self._run
        return run is not None and run.thread.is_alive() and not run.stopping.is_set()

    def start(self, deliver: Callable[[Item], None], report: Report) -> None:
        """Open the source and start to deliver items. Does nothing if the source runs.

        Raises
        ------
        HardwareError
            If it does not open within `start_limit_s`, or its last start or stop has not ended.
        SkywrightError
            What `open` raises.
        """
        with self._control:
            if self.is_running:
                return
            if self._run is not None and self._run.thread.is_alive():
                self._run.thread.join(self.stop_limit_s)
                if self._run.thread.is_alive():
                    raise HardwareError(
                        f"{self.name}: its last start or stop has not ended; try again"
                    )
            run = self._run = _Run(self, deliver, report)
            run.thread.start()
            if not run.opened.wait(self.start_limit_s):
                run.stopping.set()
                raise HardwareError(
                    f"{self.name}: the source did not start within {self.start_limit_s:g} s"
                )
            if run.error is not None:
                # Wait for the failed thread: it still calls `halt`, which would close what the
                # next `start` opens
                run.thread.join(self.stop_limit_s)
                if not run.thread.is_alive():
                    self._run = None
                raise run.error

    def stop(self) -> None:
        """Stop. No item is delivered after this has returned.

        On the source's own thread it does not wait for the end of that thread.

        Raises
        ------
        HardwareError
            If the source's thread does not end within `stop_limit_s`.
        """
        run = self._run
        if run is not None and run.thread is threading.current_thread():
            run.stopping.set()  # without `_control`: its holder may wait for this thread
            return
        with self._control:
            run = self._run
            if run is None:
                return
            run.stopping.set()
            self._try_halt()
            run.thread.join(self.stop_limit_s)
            if run.thread.is_alive():
                raise HardwareError(
                    f"{self.name}: the source has not stopped within {self.stop_limit_s:g} s"
                )
            self._run = None

    def close(self) -> None:
        """Stop. A subclass also frees what it holds."""
        self.stop()

    def _try_halt(self) -> None:
        try:
            self.halt()
        except Exception as error:
            logger.warning("%s: %s", self.name, error)


class _Run(Generic[Item]):
    """One run of a polled source, from start to stop."""

    def __init__(
        self, source: PolledSource[Item], deliver: Callable[[Item], None], report: Report
    ) -> None:
        self.opened = threading.Event()
        self.stopping = threading.Event()
        self.error: SkywrightError | None = None
        self._source = source
        self._deliver = deliver
        self.report = report
        self.thread = threading.Thread(target=self._work, name=f"source-{source.name}", daemon=True)

    def _work(self) -> None:
        source = self._source
        try:
            source.open()
        except SkywrightError as error:
            self.error = error
        except Exception as error:
            self.error = HardwareError(f"{source.name}: {type(error).__name__}: {error}")
        self.opened.set()
        try:
            while self.error is None and not self.stopping.is_set() and self._deliver_next():
                pass
        finally:
            self.stopping.set()
            source._try_halt()  # noqa: SLF001  this class is a part of the source

    def _deliver_next(self) -> bool:
        """Deliver the next item; return False when there are no more."""
        try:
            item = self._source.next(POLL_TIMEOUT_S)
        except StopIteration as end:
            self.report(f"{self._source.name}: {str(end) or 'no more items'}")
            return False
        except Exception as error:
            self.report(f"{self._source.name}: {message_of(error)}")
            self.stopping.wait(self._source.retry_s)
            return True
        if item is not None:
            # It is delivered even if `stop` was called meanwhile: `stop` waits for this thread
            try:
                self._deliver(item)
            except Exception as error:  # the next item may be good
                logger.exception("%s: an item could not be delivered", self._source.name)
                self.report(f"{self._source.name}: {type(error).__name__}: {error}")
        return True
