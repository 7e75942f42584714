"""Who gets every result of an owner: endpoints, and queues of the newest results."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from skywright.acquire.acquisition import Endpoint, RefusedError
from skywright.acquire.counters import Counters
from skywright.acquire.newest import NewestQueue

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class Outlets(Generic[Result]):
    """Hands each result to all endpoints and queues, in order.

    One thread at a time may call `hand_out` and `offer`; all else may be called from any thread.

    Parameters
    ----------
    name
        Name of the owned device in messages.
    endpoints
        Take every result. An endpoint that fails is counted and ends nothing.

    Attributes
    ----------
    failures
        Failures of endpoints, by cause.
    queues
        Those that are open.
    """

    def __init__(self, name: str, endpoints: Sequence[Endpoint[Result]]) -> None:
        self.endpoints = list(endpoints)
        self.failures = Counters()
        self._newest: Result | None = None
        self._count = 0
        self.queues: tuple[NewestQueue[Result], ...] = ()
        self._name = name
        self._lock = threading.Lock()
        self._failing: dict[object, str] = {}
        """What failed in its last call, by the `id` of an endpoint or the name of a callback."""

    @property
    def newest(self) -> Result | None:
        """The last result; None before the first."""
        return self._newest

    @property
    def progress(self) -> tuple[Result | None, int]:
        """The last result, and how many there were with it."""
        with self._lock:
            return self._newest, self._count

    @property
    def failure(self) -> str:
        """What is wrong with an endpoint now; empty when nothing is."""
        return next(iter(self._failing.copy().values()), "")

    def add(self, queue: NewestQueue[Result]) -> None:
        """Hand results to a queue, too."""
        with self._lock:
            self.queues = (*self.queues, queue)

    def remove(self, queue: NewestQueue[Result]) -> None:
        """Hand no more results to a queue."""
        with self._lock:
            self.queues = tuple(each for each in self.queues if each is not queue)

    def hand_out(self, result: Result) -> None:
        """Hand a result to all."""
        for endpoint in self.endpoints:  # before it is counted: who finds it counted finds it there
            self.offer(endpoint, result)
        with self._lock:
            self._newest = result
            self._count += 1
            queues = self.queues
        for queue in queues:
            queue.offer(result)

    def offer(self, endpoint: Endpoint[Any], result: Any) -> None:
        """Hand a result to one endpoint, which may be a recorder.

        Raises
        ------
        RefusedError
            By a recorder that counts the result as lost.
        """
        self._guard(id(endpoint), type(endpoint).__name__, endpoint.offer, result)

    def call(self, name: str, function: Callable[..., None], *args: Any) -> None:
        """Call a callback of a client; an error of it does not stop the items.

        It is counted and reported as that of an endpoint.
        """
        try:
            self._guard(name, name, function, *args)
        except RefusedError as error:  # only a recorder may refuse a result
            self.failures.add(f"{name} failed")
            self._failing[name] = f"{name}: {error}"

    def _guard(self, key: object, name: str, function: Callable[..., None], *args: Any) -> None:
        try:
            function(*args)
        except RefusedError:
            raise
        except Exception as error:
            self.failures.add(f"{name} failed")
            if key not in self._failing:
                logger.exception("%s: %s failed", self._name, name)
            self._failing[key] = f"{name}: {error}"
        else:
            self._failing.pop(key, None)
