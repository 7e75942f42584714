"""Calls the functions of an owner's clients; an error of a client is counted, the owner goes on."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from skywright.acquire.acquisition import RefusedError
from skywright.acquire.counters import Counters
from skywright.errors import message_of

logger = logging.getLogger(__name__)

Returned = TypeVar("Returned")


class GuardedCalls:
    """Calls endpoints, recorders and callbacks; counts and keeps their errors.

    All methods may be called from any thread. If two threads call with one `key` at the same time,
    `failure` has the outcome of the call that ends last.

    Parameters
    ----------
    name
        Name of the hardware, for the log.

    Attributes
    ----------
    failures
        Number of errors, by cause.
    """

    def __init__(self, name: str) -> None:
        self.failures = Counters()
        self._name = name
        self._failing: dict[object, str] = {}
        """Error of the last call, by key, if it failed."""

    @property
    def failure(self) -> str:
        """Error of a client whose last call failed; empty: none."""
        return next(iter(self._failing.copy().values()), "")

    def forget(self, key: object) -> str:
        """Remove the error of this client from `failure`, and return it; it stays counted."""
        return self._failing.pop(key, "")

    def call(
        self,
        name: str,
        function: Callable[..., Returned],
        *args: Any,
        key: object = None,
        may_refuse: bool = False,
        raises: bool = False,
    ) -> Returned | None:
        """Call a function of a client and return its value; None after an error.

        Parameters
        ----------
        name
            Name of the client, for messages and causes.
        function, args
            Function and its arguments.
        key
            Identifies the client; None: `name` does.
        may_refuse
            True: a `RefusedError` is not counted, because a recorder that refuses a result has
            counted that itself.
        raises
            True: an error is raised too. A `RefusedError` that is not counted is neither logged nor
            kept in `failure`.

        Raises
        ------
        Exception
            If `raises` is True: what `function` raises.
        """
        key = name if key is None else key
        try:
            value = function(*args)
        except Exception as error:
            is_refusal = may_refuse and isinstance(error, RefusedError)
            if is_refusal and raises:
                raise
            if not is_refusal:
                self.failures.add(f"{name} failed")
            if key not in self._failing:
                logger.exception("%s: %s failed", self._name, name)
            self._failing[key] = f"{name}: {message_of(error)}"
            if raises:
                raise
            return None
        self._failing.pop(key, None)
        return value
