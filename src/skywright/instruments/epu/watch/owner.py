"""The watched directory as a source, and its owner: the command line's and the IOC's alike."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from skywright.acquire.acquisition import Endpoint
from skywright.acquire.owner import Owner
from skywright.acquire.source import Report
from skywright.errors import HardwareError
from skywright.instruments.epu.watch.importer import Outcome
from skywright.instruments.epu.watch.watcher import Watcher

logger = logging.getLogger(__name__)

RETRY_S = 5.0
"""Pause before the directory is read anew after an unexpected error."""
STOP_LIMIT_S = 5.0


class TreeSource:
    """A watched directory: each item is what one transaction has committed.

    Parameters
    ----------
    watcher
        Follows the directory.
    name
        Who writes the directory: ``epu``, ``replay``, ``sim``.
    idle_exit
        The source ends when nothing has happened for this many seconds, and at an unexpected
        error; None: it does not, and begins anew after an error.

    Attributes
    ----------
    ended
        Set when the watcher does not run any more.
    error
        The unexpected error at which it ended.
    """

    period_s = 0.0

    def __init__(self, watcher: Watcher, name: str = "epu", idle_exit: float | None = None) -> None:
        self.watcher, self.name = watcher, name
        self.ended = threading.Event()
        self.error: Exception | None = None
        self._idle_exit = idle_exit
        self._thread: threading.Thread | None = None

    @property
    def lost(self) -> Mapping[str, int]:
        """Nothing: a scan makes up for events that are lost."""
        return {}

    def start(self, deliver: Callable[[Outcome], None], report: Report) -> None:
        """Begin to follow the directory."""
        if self._thread is not None and self._thread.is_alive():
            return
        self.watcher.stopped.clear()
        self.ended.clear()
        self.watcher.on_commit = deliver
        self._thread = threading.Thread(
            target=self._follow, args=(report,), name="epu-watch", daemon=True
        )
        self._thread.start()

    def _follow(self, report: Report) -> None:
        while not self.watcher.stopped.is_set():
            try:
                self.watcher.run(self._idle_exit)
                break
            except Exception as error:
                logger.exception("%s: the watcher", self.watcher.root)
                if self._idle_exit is not None:
                    self.error = error
                    break
                report(f"the watcher begins anew after an error: {error}")
                self.watcher.stopped.wait(RETRY_S)
        self.ended.set()

    def request_stop(self) -> None:
        """Stop soon; the source has stopped when `ended` is set."""
        self.watcher.stop()

    def stop(self) -> None:
        """Stop; the batch under way is committed first.

        Raises
        ------
        HardwareError
            If that takes longer than `STOP_LIMIT_S`.
        """
        self.request_stop()
        if self._thread is not None:
            self._thread.join(STOP_LIMIT_S)
            if self._thread.is_alive():
                raise HardwareError(f"{self.watcher.root}: a file is still being read")

    def set_period(self, seconds: float) -> None:
        """Change nothing: files come when EPU writes them."""

    def close(self) -> None:
        """Stop for good."""
        self.stop()


class TreeOwner(Owner[Outcome, Outcome]):
    """Owns a watched directory and hands each commit to endpoints, on the watcher's thread.

    Parameters
    ----------
    source
        The directory.
    endpoints
        Take each commit: rows of runs, a file of events, the agent.
    """

    def __init__(self, source: TreeSource, endpoints: Sequence[Endpoint[Outcome]] = ()) -> None:
        super().__init__(source, endpoints=endpoints, name="watcher", item_name="file")
        self.watcher = source.watcher

    def expects_items(self) -> bool:
        """Return False: EPU may write nothing for hours."""
        return False

    def status_message(self, result: Outcome) -> tuple[str, bool]:
        """Return the message after a commit."""
        return "watching", False
