"""Publishes each result of an owner to its endpoints and queues."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from skywright.acquire.acquisition import Endpoint, RefusedError, ResultRecorder
from skywright.acquire.counters import Counters
from skywright.acquire.newest import NewestQueue

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Returned = TypeVar("Returned")


class Publisher(Generic[Result]):
    """Publishes each result to all endpoints and queues, in order.

    One thread at a time may call `publish`, and one may call `offer` for a given recorder; the two
    may run at the same time. All else may be called from any thread.

    Parameters
    ----------
    name
        Name of the hardware in messages.
    endpoints
        Take every result. The error of an endpoint is counted and logged; the others still get the
        result.

    Attributes
    ----------
    failures
        Errors of endpoints, recorders and callbacks, by cause.
    queues
        Open queues.
    """

    def __init__(self, name: str, endpoints: Sequence[Endpoint[Result]]) -> None:
        self.endpoints = list(endpoints)
        self.failures = Counters()
        self.newest: Result | None = None
        """The last result; None before the first."""
        self._count = 0
        self.queues: tuple[NewestQueue[Result], ...] = ()
        self._name = name
        self._lock = threading.Lock()
        self._failing: dict[object, str] = {}
        """Error of each failing endpoint, by its `id`, and of each callback, by its name."""

    @property
    def progress(self) -> tuple[Result | None, int]:
        """The last result, and the number of results including it, read under one lock."""
        with self._lock:
            return self.newest, self._count

    @property
    def failure(self) -> str:
        """Present error of an endpoint or callback; empty: none."""
        return next(iter(self._failing.copy().values()), "")

    def forget(self, name: str) -> None:
        """Report the error of this callback no longer; it stays counted."""
        self._failing.pop(name, None)

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
            self._call(id(endpoint), type(endpoint).__name__, endpoint.offer, result)
        with self._lock:
            self.newest = result
            self._count += 1
            queues = self.queues
        for queue in queues:
            queue.offer(result)

    def offer(self, recorder: ResultRecorder[Any], result: Any) -> None:
        """Give a result to one recorder.

        Raises
        ------
        RefusedError
            By a recorder that counts the result as lost.
        """
        self._guard(id(recorder), type(recorder).__name__, recorder.offer, result)

    def call(self, name: str, function: Callable[..., Returned], *args: Any) -> Returned | None:
        """Call a callback of a client and return its value.

        Its error is counted and reported, not raised; the value is None then.
        """
        return self._call(name, name, function, *args)

    def _call(
        self, key: object, name: str, function: Callable[..., Returned], *args: Any
    ) -> Returned | None:
        try:
            return self._guard(key, name, function, *args)
        except RefusedError as error:  # only a recorder may refuse a result
            self.failures.add(f"{name} failed")
            self._failing[key] = f"{name}: {error}"
            return None

    def _guard(
        self, key: object, name: str, function: Callable[..., Returned], *args: Any
    ) -> Returned | None:
        try:
            value = function(*args)
        except RefusedError:
            raise
        except Exception as error:
            self.failures.add(f"{name} failed")
            if key not in self._failing:
                logger.exception("%s: %s failed", self._name, name)
            self._failing[key] = f"{name}: {error}"
            return None
        self._failing.pop(key, None)
        return value
