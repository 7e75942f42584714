"""A pool of threads that process items and keep their order."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

Item = TypeVar("Item")


@dataclass(eq=False, slots=True)
class _Slot(Generic[Item]):
    """An item in the pool."""

    item: Item
    nbytes: int
    done: bool = False


class OrderedPool(Generic[Item]):
    """A pool of threads with a bounded queue. All methods may be called from any thread.

    Parameters
    ----------
    process
        Processes an item, and keeps the result in it; runs on a worker thread; must not raise.
    deliver
        Receives each processed item, one at a time, in order; must not raise.
    threads
        Number of items processed in parallel, at least 1.
    queue_bytes, queue_items
        Limits of all items in the pool: those that wait, those in processing, and those that are
        finished and wait for an earlier one. An empty pool accepts an item of any size.
    when_full
        ``wait``: `put` waits, which slows the source down. ``drop``: `put` returns False.
    name
        Name of the threads.
    """

    def __init__(
        self,
        process: Callable[[Item], None],
        deliver: Callable[[Item], None],
        threads: int,
        queue_bytes: int,
        queue_items: int,
        when_full: Literal["wait", "drop"],
        name: str,
    ) -> None:
        self._process, self._deliver = process, deliver
        self._limit_bytes, self._limit_items = queue_bytes, queue_items
        self._waits = when_full == "wait"
        self._changed = threading.Condition()
        self._slots: deque[_Slot[Item]] = deque()
        """All items in the pool, in order."""
        self._not_started: deque[_Slot[Item]] = deque()
        self._bytes = 0
        self._delivering = False
        """True while a thread delivers items."""
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, item: Item, nbytes: int) -> bool:
        """Append an item of `nbytes`; return False if the pool is full or closed."""
        with self._changed:
            if self._waits:
                self._changed.wait_for(lambda: self._closing or not self._is_full(nbytes))
            if self._closing or self._is_full(nbytes):
                return False
            slot = _Slot(item, nbytes)
            self._slots.append(slot)
            self._not_started.append(slot)
            self._bytes += nbytes
            self._changed.notify_all()
            return True

    def drain(self, timeout_s: float) -> None:
        """Wait until all items are processed and delivered, at most `timeout_s` s.

        On a thread of the pool it does nothing, because it would wait for itself.
        """
        if threading.current_thread() not in self._threads:
            with self._changed:
                self._changed.wait_for(lambda: not self._slots and not self._delivering, timeout_s)

    def close(self, timeout_s: float) -> None:
        """Process the queued items, then end the threads.

        It waits at most `timeout_s` s for the items, and then as long for each thread.
        """
        self.drain(timeout_s)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout_s)

    def _is_full(self, nbytes: int) -> bool:
        if not self._slots:
            return False
        return self._bytes + nbytes > self._limit_bytes or len(self._slots) >= self._limit_items

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._not_started or self._closing)
                if not self._not_started:
                    return
                slot = self._not_started.popleft()
            self._process(slot.item)
            with self._changed:
                slot.done = True
                if self._delivering:  # the delivering thread finds this item too
                    continue
                self._delivering = True
            self._deliver_in_order()

    def _deliver_in_order(self) -> None:
        while True:
            with self._changed:
                if not self._slots or not self._slots[0].done:
                    self._delivering = False
                    self._changed.notify_all()
                    return
                slot = self._slots.popleft()
                self._bytes -= slot.nbytes
                self._changed.notify_all()
            self._deliver(slot.item)
