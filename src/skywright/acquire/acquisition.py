"""What an owner shares with those around it: endpoints, acquisitions, refusals, its state."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from skywright.errors import DataError

Result = TypeVar("Result")
Offered = TypeVar("Offered", contravariant=True)


class Endpoint(Protocol[Offered]):
    """Takes every result, in order: PVs, a stream, running averages."""

    def offer(self, result: Offered) -> None:
        """Take a result. It must return at once, and count what it cannot take."""


class AcquisitionEndpoint(Endpoint[Offered], Protocol[Offered]):
    """Takes the results of acquisitions only: a recorder.

    Its `offer` may raise `RefusedError` for a result that it counts as lost; the acquisition does
    not count that result then.

    Attributes
    ----------
    essential
        Whether a result that it cannot store counts as a lost item; else it counts as a failure.
    """

    essential: bool

    def mark(self, done: Callable[[], None]) -> None:
        """Call `done` when all results offered before are stored and visible to readers."""

    def lost(self) -> Mapping[str, int]:
        """Return results that could not be stored, by cause."""


class RefusedError(DataError):
    """Raised by an owner's `process` or `prepare`: the item does not count in an acquisition.

    Parameters
    ----------
    cause
        Counted as a loss under this name.
    why
        For the message.
    result
        What the recorders keep of it all the same, for example its raw bytes; None: nothing.
    """

    def __init__(self, cause: str, why: str, result: Any = None) -> None:
        super().__init__(why)
        self.cause = cause
        self.result = result


@dataclass(eq=False)
class Acquisition:
    """A request for items.

    Attributes
    ----------
    wanted
        Number of items; 0: until it is stopped.
    taken
        Number of items so far.
    stopping
        Whether items that arrive now are no part of it any more.
    over
        Whether no item is added any more.
    done
        Set when all its items are stored by the recorders and visible to readers.
    """

    wanted: int = 0
    taken: int = 0
    stopping: bool = False
    over: bool = False
    done: threading.Event = field(default_factory=threading.Event)
    on_item: Callable[[Any], None] | None = None
    under_way: int = 0
    """Items that have arrived and are not handed on yet."""


@dataclass(frozen=True, slots=True)
class Taken:
    """An item after an owner's `process` and `prepare`.

    Attributes
    ----------
    result
        For endpoints and subscribers, unless `process` refused the item.
    is_result
        Whether there is one.
    kept
        For the recorders; None: nothing.
    refused
        Why the item does not count.
    acquisition
        Of which it is a part.
    """

    result: Any
    is_result: bool
    kept: Any
    refused: RefusedError | None
    acquisition: Acquisition | None

    @classmethod
    def unprocessed(
        cls,
        error: Exception,
        acquisition: Acquisition | None,
        result: Any = None,
        is_result: bool = False,
    ) -> "Taken":
        """Return an item for which a function of the owner has raised an unexpected error."""
        refused = RefusedError("not processed", f"{type(error).__name__}: {error}")
        return cls(result, is_result, None, refused, acquisition)


@dataclass(frozen=True)
class OwnerState(Generic[Result]):
    """What the owner knows at one moment.

    Attributes
    ----------
    running
        Whether the source was started.
    acquiring
        Whether there is an acquisition.
    newest
        The last result; None before the first.
    items, acquired
        Results handed on since the object was made, in all and in acquisitions.
    taken
        Results of the acquisition under way.
    lost
        Items lost at the source, here and in the recorders, by cause.
    failures
        Errors that cost no item, or nobody knows how many, by cause.
    message, alarm
        What a person should know, and whether somebody should act.
    """

    running: bool = False
    acquiring: bool = False
    newest: Result | None = None
    items: int = 0
    acquired: int = 0
    taken: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    message: str = "idle"
    alarm: bool = False
