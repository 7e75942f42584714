"""A short queue for live displays: when it is full, a new item replaces the oldest one."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class NewestQueue(Generic[T]):
    """A queue whose writer never waits. All methods may be called from any thread.

    Parameters
    ----------
    depth
        Maximum number of items that wait; a further item replaces the oldest.
    on_close
        Called by `close`, with the queue.

    Attributes
    ----------
    dropped
        Number of items dropped because the queue was full.
    """

    def __init__(
        self, depth: int = 1, on_close: "Callable[[NewestQueue[T]], None] | None" = None
    ) -> None:
        self.dropped = 0
        self._on_close = on_close
        self._filled = threading.Condition()
        self._items: deque[T] = deque(maxlen=depth)

    def offer(self, item: T) -> None:
        """Append an item; this never waits."""
        with self._filled:
            self.dropped += len(self._items) == self._items.maxlen
            self._items.append(item)
            self._filled.notify()

    def get(self, timeout_s: float) -> T | None:
        """Return the oldest item, or None when there is none within `timeout_s`."""
        with self._filled:
            self._filled.wait_for(lambda: self._items, timeout_s)
            return self._items.popleft() if self._items else None

    def close(self) -> None:
        """End the subscription. Queued items can still be fetched; a waiting `get` is not woken.

        Raises
        ------
        SkywrightError
            What `on_close` raises; for a queue of an owner: if the source does not stop in time.
        """
        if self._on_close is not None:
            self._on_close(self)
