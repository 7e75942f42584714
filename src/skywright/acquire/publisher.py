"""Publishes each result of an owner to its endpoints and queues."""

import threading
from collections.abc import Sequence
from typing import Generic, TypeVar

from skywright.acquire.acquisition import Endpoint
from skywright.acquire.guarded_calls import GuardedCalls
from skywright.acquire.newest import NewestQueue

Result = TypeVar("Result")


class Publisher(Generic[Result]):
    """Publishes each result to all endpoints and queues, in order.

    One thread at a time may call `publish`. All else may be called from any thread.

    Parameters
    ----------
    calls
        Calls the endpoints. The error of an endpoint is counted and logged; the others still get
        the result.
    endpoints
        Take every result.

    Attributes
    ----------
    queues
        Open queues.
    """

    def __init__(self, calls: GuardedCalls, endpoints: Sequence[Endpoint[Result]]) -> None:
        self.endpoints = list(endpoints)
        self.newest: Result | None = None
        """The last result; None before the first."""
        self._count = 0
        self.queues: tuple[NewestQueue[Result], ...] = ()
        self._calls = calls
        self._lock = threading.Lock()

    @property
    def progress(self) -> tuple[Result | None, int]:
        """The last result, and the number of results including it, read under one lock."""
        with self._lock:
            return self.newest, self._count

    def add(self, queue: NewestQueue[Result]) -> None:
        """Publish results to this queue too."""
        with self._lock:
            self.queues = (*self.queues, queue)

    def remove(self, queue: NewestQueue[Result]) -> None:
        """Publish no more results to this queue."""
        with self._lock:
            self.queues = tuple(each for each in self.queues if each is not queue)

    def publish(self, result: Result) -> None:
        """Publish a result."""
        # Endpoints first: a client that reads the count must find the result at the endpoint
        for endpoint in self.endpoints:
            self._calls.call(type(endpoint).__name__, endpoint.offer, result, key=id(endpoint))
        with self._lock:
            self.newest = result
            self._count += 1
            queues = self.queues
        for queue in queues:
            queue.offer(result)
