"""What comes, for those who only look: the newest pushes out what they have not fetched."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Feed(Generic[T]):
    """A short queue that never makes its writer wait.

    Parameters
    ----------
    depth
        Items that may wait; a further one pushes out the oldest.
    end
        Called by `close`, with the feed.

    Attributes
    ----------
    dropped
        Items that were pushed out.
    """

    def __init__(self, depth: int = 1, end: "Callable[[Feed[T]], None] | None" = None) -> None:
        self.dropped = 0
        self._end = end
        self._fresh = threading.Condition()
        self._items: deque[T] = deque(maxlen=depth)

    def offer(self, item: T) -> None:
        """Take an item; it never waits."""
        with self._fresh:
            self.dropped += len(self._items) == self._items.maxlen
            self._items.append(item)
            self._fresh.notify()

    def get(self, limit_s: float) -> T | None:
        """Return the oldest item that was not fetched; None when there is none for `limit_s`."""
        with self._fresh:
            self._fresh.wait_for(lambda: self._items, limit_s)
            return self._items.popleft() if self._items else None

    def close(self) -> None:
        """Ask for no more; what waits can still be fetched."""
        if self._end is not None:
            self._end(self)
